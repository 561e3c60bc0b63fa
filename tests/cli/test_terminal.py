"""Nothing of names, labels, files or models steers a terminal: control characters, marks of direction are spelt out."""

from __future__ import annotations

import json
import logging
import re
import shutil
import warnings
from pathlib import Path

import pytest
import tiny
from transformers.utils import logging as transformers_logging

import blob_pyro
from blob_pyro.cli import main
from blob_pyro.system.terminal import Console, quiet_libraries

ODD = "\x1b]0;owned\x07\x9b31m\u202egnp\u2066\x7f"
SPELT = r"\x1b]0;owned\x07\x9b31m\u202egnp\u2066\x7f"
STEERS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029]")
MAY_PRINT = {"system/printing.py", "system/apart.py", "cli/generate.py"}  # the last its own colours


def test_everything_is_printed_in_one_way():
    package = Path(blob_pyro.__file__).parent
    code = {file.relative_to(package).as_posix(): file.read_text() for file in package.rglob("*.py")}
    bare = {
        name for name, text in code.items() for line in text.splitlines() if re.match(r"\s*print\(|.*= print\b", line)
    }
    assert bare == MAY_PRINT
    assert not [name for name, text in code.items() if re.search(r"std(out|err)\.write\(", text)]


COMMANDS = {
    "an unknown command": [ODD],
    "an unknown option": ["fit", "--" + ODD, "1"],
    "a missing configuration": ["fit", ODD + ".yaml"],
    "a value": ["fit", "own.yaml", "--train.lr", ODD],
    "a name": ["fit", "own.yaml", "--guide.name", ODD],
    "a base": ["fit", "own.yaml", "--model.id", ODD, "--output", "new"],
    "an output": ["fit", "own.yaml", "--output", f"run/{ODD}/run", "--train.num_steps", "1", "--quiet"],
    "a missing run": ["evaluate", ODD],
    "a missing file": ["predict", "run", ODD + ".jsonl"],
    "rows": ["predict", "run", "odd.jsonl", "--quiet"],
    "chosen rows": ["acquire", "run", "odd.jsonl", "--k", "1", "--quiet"],
    "an output's name": ["predict", "run", "odd.jsonl", "--output", ODD.replace("/", "") + ".csv", "--quiet"],
    "fields that are replaced": ["predict", "run", "odd.jsonl", "--output", "out.jsonl", "--quiet"],
    "a report's name": ["report", "run", "--output", ODD + ".html"],
    "a topic": ["fit", "--help", ODD],
    "a prompt": ["generate", "run", ODD, "--num_draws", "1", "--max_new_tokens", "3", "--quiet"],
    "a prompt in JSON": ["generate", "run", ODD, "--num_draws", "1", "--max_new_tokens", "3", "--json", "--quiet"],
    "methods": ["compare", "own.yaml", "--methods", ODD],
    "an export": ["export", "run", "--as", ODD],
    "an export's name": ["export", "run", "--output", ODD, "--quiet"],
    "a table": ["reproduce", ODD],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory, finished):
    """The finished run, its configuration and items with odd fields."""
    folder = tmp_path_factory.mktemp("odd")
    shutil.copytree(finished / "run", folder / "run")
    shutil.copy(finished / "own.yaml", folder)
    tiny.write_jsonl(folder / "odd.jsonl", [{"text": f"a {ODD} day", ODD: ODD}, {"text": "b", "confidence": ODD}])
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("case", COMMANDS)
def test_no_command_prints_what_steers_a_terminal(folder, case, capfd, monkeypatch):
    monkeypatch.chdir(folder)
    code = main(COMMANDS[case])
    told = "".join(capfd.readouterr())
    assert code in (0, 2) and told
    assert not STEERS.search(told), told
    if case not in ("a prompt", "fields that are replaced", "an unknown option", "a value", "an export"):
        assert "owned" in told and ("x9b31m" in told or "u009b31m" in told), told


@pytest.mark.slow
def test_rows_on_standard_output_have_the_values_of_the_file(folder, capfd, monkeypatch):
    monkeypatch.chdir(folder)
    assert main(["predict", "run", "odd.jsonl", "--quiet"]) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert rows[0]["text"] == f"a {ODD} day" and rows[0][ODD] == ODD
    assert main(["predict", "run", "odd.jsonl", "--quiet", "--output", "same.jsonl"]) == 0
    assert tiny.read_jsonl(folder / "same.jsonl") == rows and ODD.encode()[-8:] in (folder / "same.jsonl").read_bytes()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_labels_are_spelt_out(tmp_path, capfd):
    """In the lines on the data, and in a table of classes."""
    labels = [f" positive{ODD}\nzz", " negative"]
    rows = [row | {"label": labels[row["label"] == "negative"].strip()} for row in tiny.items(12)]
    settings = tiny.settings(tmp_path, tiny.llama(), train={"num_steps": 1})
    settings["data"]["labels"] = labels
    for name in ("train", "test"):
        tiny.write_jsonl(tmp_path / f"{name}.jsonl", rows)
    assert main(["fit", str(tiny.write_yaml(tmp_path / "own.yaml", settings))]) in (0, 2)
    told = "".join(capfd.readouterr())
    assert SPELT in told and not STEERS.search(told), told
    assert "\nzz" not in told


def test_a_new_line_in_a_name_begins_no_line(folder, capfd, monkeypatch):
    monkeypatch.chdir(folder)
    forged = "a\nblob-pyro: error: forged"
    tiny.write_jsonl(folder / "new.jsonl", [{"text": "b", "confidence": 1, forged: 2}])
    assert main(["predict", "run", "new.jsonl", "--quiet", "--output", forged]) == 0
    note, wrote = capfd.readouterr().err.splitlines()
    assert note == "note: fields of the input are replaced: 'confidence' (in 1 rows)"
    assert wrote == r"wrote a\nblob-pyro: error: forged: 1 items"
    assert tiny.read_jsonl(folder / forged)[0][forged] == 2
    assert main(["export", "run", "--output", forged + "2", "--quiet"]) == 0
    assert capfd.readouterr().out.splitlines()[-1] == r"wrote a\nblob-pyro: error: forged2"
    Console().log(f"labels: {forged}")
    assert capfd.readouterr().out == "labels: a\\nblob-pyro: error: forged\n"


@pytest.mark.filterwarnings("default")
def test_warnings_and_lines_of_progress_are_spelt_out(capfd):
    from blob_pyro.system.progress import counted

    with quiet_libraries():
        warnings.warn(ODD, UserWarning, stacklevel=1)
    with counted(2, ODD, unit="steps") as count:
        count(2, ODD)
    told = capfd.readouterr().err
    assert told.count(SPELT) == 3 and not STEERS.search(told)


@pytest.mark.filterwarnings("default")
def test_noise_of_other_libraries_is_kept_off_and_warnings_are_not(capfd):
    """What they say in public reports, by the means that they say it by; this library's warnings stay."""
    with quiet_libraries():
        warnings.warn("Already found a `peft_config` attribute in the model. Mind", UserWarning, stacklevel=1)
        warnings.warn("`is_gradient_checkpointing` is deprecated and will be removed", FutureWarning, stacklevel=1)
        logging.getLogger("bitsandbytes.backends.cpu.ops").warning("Failed to load CPU gemm_4bit_forward from kernels-")
        transformers_logging.get_logger("transformers.modeling_utils").warning("Some weights were not initialized")
        for _ in transformers_logging.tqdm(range(3), desc="Loading weights"):
            pass
        warnings.warn("the posterior is still at its start", UserWarning, stacklevel=1)
    out, err = capfd.readouterr()
    assert (out, err) == ("", "warning: the posterior is still at its start\n")
