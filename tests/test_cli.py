"""The command line as a stranger meets it: every mistake is one line and exit code 2, and leaves nothing behind."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import yaml
from safetensors.torch import load_file, save_file

import blob_pyro as bp
from blob_pyro.checkpoint import load
from blob_pyro.cli import COMMANDS, main
from blob_pyro.config_file import KEYS

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Run in `tmp_path`, without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run in a folder with its files; tests that alter it take a copy."""
    folder = tmp_path_factory.mktemp("finished")
    config = tiny.write_yaml(folder / "own.yaml", tiny.settings(folder, tiny.llama()))
    assert main(["fit", str(config), "--quiet"]) == 0
    return folder


@pytest.fixture
def config(tmp_path):
    """The YAML file of a quick run."""
    return tiny.write_yaml(tmp_path / "own.yaml", tiny.settings(tmp_path, tiny.llama()))


@pytest.fixture
def refused(capfd):
    """Runs a command line that must be refused: returns its one line, without "blob-pyro: error: "."""

    def run(*words: object) -> str:
        capfd.readouterr()
        assert main([str(word) for word in words]) == 2
        out, err = capfd.readouterr()
        assert err.startswith("blob-pyro: error: ") and err.endswith("\n") and err.count("\n") == 1, err
        assert "Traceback" not in out + err
        return err.removeprefix("blob-pyro: error: ").rstrip("\n")

    return run


# --- commands and help ---


def test_help_and_tasks_end_with_zero(capsys):
    for words in (["--help"], ["-h"], ["tasks"], *([command, "--help"] for command in COMMANDS)):
        assert main(words) == 0, words
        out = capsys.readouterr().out
        assert out.startswith("tweets:" if words == ["tasks"] else "usage: blob-pyro")


def test_help_of_fit_explains_every_key(capsys):
    main(["fit", "--help", "all"])
    out = " ".join(capsys.readouterr().out.split())
    for key in (key for key in KEYS if "." in key):
        told = re.search(rf"--{re.escape(key)}\+? (?:\S+|{{[^}}]*}}) ([^(-].*?) \(type", out)
        assert told, f"no help for {key}"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_first_screen_of_help_fits_one_and_shows_an_example(command, capsys):
    """24 lines of 80 columns; what is not on it is named, and tells whatever there is."""
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    lines = out.rstrip("\n").split("\n")
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    assert f"example: blob-pyro {command}" in out
    more = out.partition(f"more: blob-pyro {command} --help TOPIC\n")[2]
    for topic in re.findall(r"(\w+)(?: \([^)]*\))?(?:,|\n)", more):
        assert main([command, "--help", topic]) == 0
        assert capsys.readouterr().out.strip()


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ev"], {"evaluate"}),
        (["fit", "--train.lr"], {"--train.lr"}),
        (["fit", "--guide.name", "la"], {"laplace"}),
        (["fit", "my.yaml", "--qu"], {"--quiet"}),
        (["predict", "--targ"], {"--target_risk"}),
    ],
    ids=" ".join,
)
def test_bash_completes(words, expected, tmp_path, capsys):
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    line = " ".join(f"'{word}'" for word in ["blob-pyro", *words])
    asked = f"""
    source ./script
    COMP_WORDS=({line}); COMP_CWORD={len(words)}
    $(complete -p blob-pyro | sed -E 's/.*-F ([^ ]+).*/\\1/')
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert set(done.stdout.split()) == expected and not done.stderr


def test_an_unknown_shell_is_one_line(refused):
    assert refused("completion", "bsh").startswith("shell: expected one of bash, zsh, ")


def test_an_unknown_topic_of_help_names_the_nearest(refused):
    assert refused("fit", "--help", "trian").endswith("; did you mean train?")


def test_tasks_names_labels_and_source(capsys):
    assert main(["tasks"]) == 0
    assert "labels: negative, neutral, positive" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], f"expected a command ({', '.join(COMMANDS)}); got none"),
        (
            ["fti", "x"],
            f"expected a command ({', '.join(COMMANDS)}); got 'fti'",
        ),
        (["fit"], "expected blob-pyro fit CONFIG.yaml [--key value ...]; got no configuration"),
        (["fit", "--config"], "argument --config: expected one argument"),
        (["evaluate"], "the following arguments are required: run"),
        (["predict", "run"], "the following arguments are required: file"),
        (["tasks", "x"], "expected blob-pyro tasks; got 'x' beside that"),
    ],
)
def test_a_wrong_command_line_is_one_line(refused, words, message):
    assert message in refused(*words)


# --- the configuration ---

BAD_YAML: dict[str, tuple[bytes, str]] = {
    "syntax": (b"data: [1,\n  x: }", "expected YAML; got something else on line 2"),
    "list": (
        b"- 1\n- 2\n",
        "expected a mapping with the keys data, model, guide, train, predict, tune, seed, output; got list",
    ),
    "text": (b"hello", "got str"),
    "empty": (b"", "got nothing"),
    "binary": (b"\xff\xfe\x00\x01", "expected a YAML file in UTF-8; got other bytes at 0"),
    "tab": (b"data:\n\ttask: tweets\n", "expected YAML; got something else on line 2"),
    "control character": (b"data: \x01", "expected YAML; got something else"),
    "a key twice": (
        b"data: {task: tweets}\ndata: {task: rte}",
        "on line 1: the key data is there twice",
    ),
    "a dotted key": (b"train.lr: 1", "train.lr: expected lr below train, in a section"),
    "aliases of aliases": (
        b"data: &a [x, x, x, x, x, x, x, x]\nmodel: &b [*a, *a, *a, *a, *a, *a, *a, *a]\n"
        b"guide: &c [*b, *b, *b, *b, *b, *b, *b, *b]\ntrain: &d [*c, *c, *c, *c, *c, *c, *c, *c]\n"
        b"predict: [*d, *d, *d]",
        "expected a file of at most 10000 values, aliases written out; got more",
    ),
    "a list in itself": (b"data: &a [*a]", "its values are nested too deeply or in themselves"),
    "a month 13": (b"data: {task: 2024-13-01}", "expected YAML; got something else: month must be in 1..12"),
    "no whole number": (b"seed: !!int x", "expected YAML; got something else: invalid literal for int()"),
    "a very long number": (b"seed: " + b"9" * 400, "expected whole numbers of 64 bits; got 9999"),
    "unknown section": (b"trian: {lr: 1}", "trian: no such key; did you mean train?"),
    "unknown key": (b"train: {num_step: 1}", "train.num_step: no such key; did you mean train.num_steps?"),
    "key of nowhere": (
        b"train: {learning_rate: 1}",
        "train.learning_rate: no such key; train has num_steps, batch_size,",
    ),
    "section is a number": (
        b"train: 3",
        "train: expected a mapping with keys like num_steps, batch_size, recipe; got 3",
    ),
    "section is empty": (b"train:", "train: expected a mapping with keys like num_steps"),
    "no data": (b"seed: 1", "data: expected data.task, or files of your own; got neither"),
    "no prompt": (b"data: {train_file: a, labels: [a, b]}", "got neither: data.prompt missing"),
    "unknown task": (b"data: {task: tweetz}", "got 'tweetz'; did you mean tweets?"),
    "wrong type": (
        b"data: {task: tweets}\ntrain: {num_steps: many}",
        "train.num_steps: expected a whole number; got many",
    ),
    "yes and no": (b"data: {labels: [yes, no]}", 'like ["a", "b"] with quotes, or null; got [True, False]'),
}


@pytest.mark.parametrize(("option", "message"), [("predict.max_tokens", "64 bits"), ("train.lr", "ordinary size")])
def test_an_option_of_four_hundred_digits_is_one_line(refused, option, message):
    assert message in refused("fit", "--data.task", "tweets", f"--{option}", "9" * 400)


@pytest.mark.parametrize("case", BAD_YAML)
def test_a_bad_configuration_file_is_one_line(refused, tmp_path, case):
    content, message = BAD_YAML[case]
    (tmp_path / "bad.yaml").write_bytes(content)
    assert message in refused("fit", "bad.yaml")
    assert not (tmp_path / "runs").exists()


def test_a_missing_configuration_or_a_folder_is_one_line(refused, tmp_path):
    assert refused("fit", "none.yaml") == "none.yaml: expected a YAML file; there is none: check the path"
    assert refused("fit", "--config=none.yaml").startswith("none.yaml: expected a YAML file; there is none")
    assert refused("fit", tmp_path).endswith("expected a YAML file; got a folder: name a file in it")


BAD_OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown": (("--train.num_step", "1"), "--train.num_step: no such option; did you mean --train.num_steps?"),
    "unknown with =": (("--train.num_step=1",), "--train.num_step: no such option; did you mean --train.num_steps?"),
    "without section": (("--lr", "1"), "--lr: no such option; did you mean --train.lr?"),
    "not near any": (("--guide.width", "1"), "--guide.width: no such option; guide has name, eps"),
    "without value": (("--train.lr",), "argument --train.lr: expected one argument"),
    "second file": (
        ("more.yaml",),
        "expected blob-pyro fit CONFIG.yaml [--key value ...]; got 'more.yaml' beside that",
    ),
    "no number": (("--train.lr", "abc"), "train.lr: expected a finite number; got abc"),
    "nan": (("--train.lr", "nan"), "train.lr: expected a finite number; got nan"),
    "infinite": (("--train.lr", ".inf"), "train.lr: expected a number above 0; got inf"),
    "no whole number": (("--train.num_steps", "1.5"), "train.num_steps: expected a whole number; got 1.5"),
    "no truth": (("--train.flipout", "maybe"), "train.flipout: expected true or false; got maybe"),
    "out of range": (("--train.num_steps", "0"), "train.num_steps: expected at least 1 step; got 0"),
    "negative seed": (("--seed", "-1"), "seed: expected a whole number from 0 to 4294967295; got -1"),
    "huge seed": (("--seed", "4294967296"), "seed: expected a whole number from 0 to 4294967295; got 4294967296"),
    "literal": (
        ("--guide.name", "blobb"),
        "guide.name: expected one of 'blob', 'dropout', 'ensemble', 'laplace', 'low_rank', 'map', 'mean_field', "
        "'mle', 'scalabl', 'tfb'; got blobb",
    ),
    "quantization": (
        ("--model.quantization", "2bit"),
        "model.quantization: expected one of '8bit', '4bit', or null; got 2bit",
    ),
    "list": (
        ("--model.target_modules", "q_proj"),
        'expected a list of texts, like ["a", "b"] with quotes, or null; got q_proj',
    ),
    "class weights": (
        ("--model.class_weights", "even"),
        "model.class_weights: expected a list of numbers, like [1.0, 2.0], or 'balanced', or null; got even",
    ),
    "too few class weights": (
        ("--model.class_weights", "[1.0]"),
        "class_weights: expected 2 numbers above 0, one for each class; got [1.0]",
    ),
    "section file": (
        ("--train", "none.yaml"),
        "train: expected a YAML file with the keys of this section; got none.yaml",
    ),
    "task and files": (
        ("--data.task", "tweets"),
        "data: expected either data.task or files of your own; got task and data.train_file",
    ),
    "one label": (("--data.labels", '["a"]'), "data.labels: expected at least two labels; got ['a']"),
    "same label twice": (("--data.labels", '["a", "a"]'), "data.labels: expected distinct labels"),
    "labels that differ in space": (
        ("--data.labels", '["a", " a"]'),
        "expected words that differ in more than white space",
    ),
    "no such train file": (
        ("--data.train_file", "no.jsonl"),
        "no.jsonl: expected a JSON-lines file; there is none: check the path",
    ),
    "no such test file": (
        ("--data.test_file", "no.jsonl"),
        "no.jsonl: expected a JSON-lines file; there is none: check the path",
    ),
    "folder as file": (("--data.train_file", "."), "expected a JSON-lines file; got a folder: name a file in it"),
    "no such label field": (("--data.label_field", "gold"), "expected a label in the field 'gold' of every row"),
    "unknown prompt field": (
        ("--data.prompt", "Q: {question}", "--data.truncate_field", "null"),
        "line 1: expected the field 'question', which the prompt names; got 'text', 'label', 'who'",
    ),
    "no prompt field": (("--data.prompt", "Q:"), "data.prompt: expected a field in braces"),
    "open brace": (("--data.prompt", "Q: {text"), "data.prompt: expected matching braces"),
    "truncate field": (
        ("--data.truncate_field", "who"),
        "data.truncate_field: expected a field that the prompt has exactly once",
    ),
    "too few items": (("--data.num_train", "100"), "expected at least 100 items (data.num_train); got 12"),
    "too long": (
        ("--data.max_length", "10", "--data.truncate_field", "null"),
        "train.jsonl: line 1: expected at most 10 tokens; got 23 (and 11 more items: line 2,",
    ),
    "too long without passage": (("--data.max_length", "4"), "expected at most 4 tokens; got"),
    "unknown hub id": (
        ("--model.id", "nobody/nothing"),
        "model nobody/nothing: expected a hub id, a local folder or an alias (smollm2, minilm)",
    ),
    "misspelt alias": (("--model.id", "smolm2"), "did you mean smollm2?"),
    "no hub id": (("--model.id", "a/b/c"), "there is no such folder, and it cannot be a hub id"),
    "no such model folder": (
        ("--model.id", "./no/such"),
        "model ./no/such: expected a hub id, a local folder or an alias (smollm2, minilm); there is no such folder",
    ),
    "no model in the folder": (("--model.id", "."), "model .: expected a model that transformers can load; it says:"),
    "no model at all": (("--model.id", ""), "model.id: expected a hub id, a folder or an alias; got ''"),
    "target modules": (
        ("--model.target_modules", "[qproj]"),
        "Its linear layers are: down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj",
    ),
    "embedding": (
        ("--model.target_modules", "[embed_tokens]"),
        "layer base_model.model.model.embed_tokens: expected a LoRA layer that calls lora_A",
    ),
    "attention": (
        ("--model.attn_implementation", "flashy"),
        'expected a model that transformers can load; it says: Specified `attn_implementation="flashy"`',
    ),
    "output is a file": (
        ("--output", "train.jsonl"),
        "train.jsonl: expected a directory to write to; got a file; choose another --output",
    ),
    "output below a file": (("--output", "train.jsonl/x"), "train.jsonl/x: expected a directory to write to"),
    "output is nothing": (("--output", ""), "output: expected a directory to write to; got ''"),
    "output in a place that takes none": (
        ("--output", "/proc/blob_pyro"),
        "/proc/blob_pyro: expected a directory to write to",
    ),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_a_bad_option_is_one_line_and_no_directory_is_left(refused, config, tmp_path, case):
    options, message = BAD_OPTIONS[case]
    before = set(os.listdir(tmp_path))
    assert message in refused("fit", config, *options)
    assert set(os.listdir(tmp_path)) == before


def test_an_encoder_is_refused_as_a_causal_language_model(refused, config, tmp_path):
    told = refused("fit", config, "--model.id", tiny.bert(), "--model.target_modules", "[query]")
    assert "got an encoder (bert): set model.likelihood to sequence_classification" in told
    assert not (tmp_path / "run").exists()


BAD_ROWS: dict[str, tuple[str, str]] = {
    "empty": ("", "expected at least one row; got an empty file"),
    "blank lines": ("\n \n", "expected at least one row; got an empty file"),
    "malformed": (
        '{"text": 1\nnope\n{"text": "a", "label": "positive"}\n',
        "expected one JSON object a line, in UTF-8; got something else on lines 1, 2 (line 1:",
    ),
    "not an object": ("[1]\n", "expected one JSON object a line"),
    "unknown label": (
        '{"text": "a", "label": "great"}\n',
        "expected in the field 'label' one of ['negative', 'positive']; got something else on line 1 (line 1: 'great')",
    ),
    "no label": ('{"text": "a"}\n', "expected a label in the field 'label' of every row; got none on line 1"),
    "no text": ('{"label": "positive"}\n', "line 1: expected the field 'text', which the prompt names; got 'label'"),
    "text is null": ('{"text": null, "label": "positive"}\n', "in the field 'text'; got null"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_bad_data_file_is_one_line_and_no_directory_is_left(refused, config, tmp_path, part, case):
    content, message = BAD_ROWS[case]
    (tmp_path / "bad.jsonl").write_text(content)
    assert message in refused("fit", config, f"--data.{part}_file", "bad.jsonl")
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("default:labels. ")
def test_labels_of_several_tokens_are_compared_whole(config, tmp_path, capfd):
    """Trained, evaluated and used with a note of what that costs; the run knows its labels again."""
    rows = [{"text": f"Tweet {i}", "label": ("neutral", "negative")[i % 2]} for i in range(6)]
    tiny.write_jsonl(tmp_path / "train.jsonl", rows)
    tiny.write_jsonl(tmp_path / "test.jsonl", rows[:2])
    labels = ("--data.labels", '[" negative", " neutral"]')
    assert main(["fit", str(config), *labels, "--quiet"]) == 0
    note = (
        "labels: ' neutral' has several tokens: answers are compared by the log-probability of the whole answer, in 1"
    )
    assert capfd.readouterr().err == f"warning: {note} rows an item\n"
    assert main(["evaluate", "run", "--quiet"]) == 0
    capfd.readouterr()
    assert main(["predict", "run", "test.jsonl", "--quiet"]) == 0
    answers = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [answer["probabilities"].keys() for answer in answers] == 2 * [{"negative", "neutral"}]


@pytest.mark.filterwarnings("default:labels. ")
def test_a_label_without_its_space_is_told_the_spelling_of_one_token(config, capfd):
    assert main(["fit", str(config), "--data.labels", '["negative", "positive"]', "--quiet"]) == 0
    told = "labels: 'negative', 'positive' have several tokens (' negative', ' positive' would be one): answers are"
    assert told in capfd.readouterr().err


def test_two_labels_with_one_token_are_refused(refused, tmp_path):
    model = shutil.copytree(tiny.llama(), tmp_path / "lower")
    settings = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    settings["normalizer"] = {"type": "Lowercase"}
    (model / "tokenizer.json").write_text(json.dumps(settings))
    raw = tiny.settings(tmp_path, model, data={"labels": [" positive", " POSITIVE"], "test_file": None})
    tiny.write_jsonl(tmp_path / "train.jsonl", [{"text": "a", "label": "positive"}, {"text": "b", "label": "POSITIVE"}])
    told = refused("fit", tiny.write_yaml(tmp_path / "c.yaml", raw))
    assert "labels: expected answers that differ before one of them ends; got the same tokens for ' positive'" in told


def test_a_run_is_never_overwritten(refused, finished, config):
    before = {path: path.stat().st_mtime_ns for path in (finished / "run").rglob("*")}
    told = refused("fit", config, "--output", finished / "run")
    assert "expected a new run directory; it holds a run (config.yaml); choose another --output, delete it" in told
    assert {path: path.stat().st_mtime_ns for path in (finished / "run").rglob("*")} == before


def test_a_next_try_with_the_same_output_works_after_a_mistake(refused, config, tmp_path):
    assert "qproj" in refused("fit", config, "--model.target_modules", "[qproj]")
    assert main(["fit", str(config), "--quiet"]) == 0
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_a_configuration_can_come_from_a_run_directory_and_be_changed(finished, tmp_path):
    words = ["fit", str(finished / "run" / "config.yaml"), "--output", "again", "--train.num_steps", "1", "--quiet"]
    assert main(words) == 0
    assert len(tiny.read_jsonl(tmp_path / "again" / "history.jsonl")) == 1


def test_print_config_shows_what_would_run(config, capsys, tmp_path):
    assert main(["fit", str(config), "--train.num_steps", "7", "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["train"]["num_steps"] == 7
    assert not (tmp_path / "run").exists()


# --- long prompts ---


@pytest.mark.filterwarnings("default:.*were longer than")
def test_a_long_prompt_is_cut_from_the_left_of_its_passage_and_counted(config, tmp_path, capsys):
    rows = tiny.items(4)
    rows[2]["text"] = "START " + 60 * "x " + "END"
    tiny.write_jsonl(tmp_path / "train.jsonl", rows)
    assert main(["fit", str(config), "--quiet", "--data.test_file", "null"]) == 0
    err = capsys.readouterr().err
    cut = f"1 of 4 prompts were longer than {tiny.CONTEXT} tokens: their passages were cut from the left"
    assert err == f"warning: {tmp_path}/train.jsonl: {cut}\n"
    run = load(tmp_path / "run")
    example = bp.Example("Tweet: " + rows[2]["text"] + "\nSentiment:", 0, "x", (7, 7 + len(rows[2]["text"])))
    with pytest.warns(UserWarning, match="cut from the left"):
        ids = bp.encode([example], run.model.tokenizer, tiny.CONTEXT).items[0].input_ids
    text = run.model.tokenizer.decode(ids)
    assert len(ids) <= tiny.CONTEXT and text.startswith("Tweet:") and text.endswith("END\nSentiment:")
    assert "START" not in text


# --- runs that were damaged ---


def _json(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(run: Path) -> None:
        content = json.loads((run / name).read_text())
        change(content)
        (run / name).write_text(json.dumps(content))

    return damage


def _text(name: str, old: str, new: str) -> Callable[[Path], object]:
    def damage(run: Path) -> None:
        content = (run / name).read_text()
        assert old in content
        (run / name).write_text(content.replace(old, new))

    return damage


def _remove(name: str) -> Callable[[Path], object]:
    return lambda run: (run / name).unlink()


def _truncate(name: str) -> Callable[[Path], object]:
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:60])


def _lose_a_tensor(run: Path) -> None:
    file = run / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[min(tensors)]
    save_file(tensors, file)


ALTERED = "expected the description of a posterior; it is incomplete"
DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (_remove("config.yaml"), "expected a run directory with config.yaml; it is not there; check the path"),
    "config with an unknown key": (
        _text("config.yaml", "num_steps", "num_stps"),
        "train.num_stps: no such key; did you mean train.num_steps?",
    ),
    "config with another type": (
        _text("config.yaml", "num_samples: 2", "num_samples: many"),
        "config.yaml: expected the configuration of a run",
    ),
    "config without data": (
        lambda run: (run / "config.yaml").write_text("seed: 1"),
        "missing 1 required positional argument: 'data'",
    ),
    "config that is no YAML": (
        lambda run: (run / "config.yaml").write_text("{"),
        "config.yaml: expected the configuration of a run",
    ),
    "config with an unknown task": (
        lambda run: (run / "config.yaml").write_text("data: {task: tweetz}"),
        "got 'tweetz'; did you mean tweets?",
    ),
    "other labels": (
        _text("config.yaml", "' negative'", "' number'"),
        "expected the labels that the posterior was learnt for; got [' number', ' positive']",
    ),
    "more labels": (
        _text("config.yaml", "  - ' negative'", "  - ' What'\n  - ' negative'"),
        "expected the labels that the posterior was learnt for; got [' What', ' negative', ' positive']",
    ),
    "no description": (_remove("posterior.json"), "expected a run directory with posterior.json"),
    "description is no JSON": (
        lambda run: (run / "posterior.json").write_text("{"),
        "posterior.json: expected the description of a posterior; it cannot be read",
    ),
    "description is a list": (
        lambda run: (run / "posterior.json").write_text("[]"),
        "posterior.json: expected a JSON object; got a list",
    ),
    "other version": (
        _json("posterior.json", lambda d: d.update(version=2)),
        "expected blob_pyro.posterior version 1; got blob_pyro.posterior version 2; load it with the version of",
    ),
    "other format": (
        _json("posterior.json", lambda d: d.update(format="x")),
        "expected blob_pyro.posterior version 1; got x version 1",
    ),
    "key missing": (_json("posterior.json", lambda d: d.pop("adapter")), ALTERED + ": adapter missing"),
    "unknown guide": (_json("posterior.json", lambda d: d["guide"].update(name="x")), ALTERED),
    "guide of another shape": (_json("posterior.json", lambda d: d.update(guide="x")), ALTERED),
    "guide settings": (_json("posterior.json", lambda d: d["guide"].update(settings={"a": 1})), ALTERED),
    "token ids": (
        _json("posterior.json", lambda d: d["likelihood"].update(settings={"token_ids": ["a", "b"]})),
        ALTERED,
    ),
    "prior": (
        _json("posterior.json", lambda d: d.update(prior_scale=-1)),
        "prior_scale: expected a number above 0; got -1",
    ),
    "base settings": (_json("posterior.json", lambda d: d.update(base={"x": 1})), ALTERED),
    "base gone": (
        _json("posterior.json", lambda d: d["base"].update(id="/no/such")),
        "model /no/such: expected a hub id, a local folder",
    ),
    "sites": (
        _json("posterior.json", lambda d: d["sites"].popitem()),
        "expected the adapter that posterior.json describes",
    ),
    "posterior truncated": (
        _truncate("posterior.safetensors"),
        "posterior.safetensors: expected a safetensors file; it cannot be read",
    ),
    "posterior missing": (
        _remove("posterior.safetensors"),
        "posterior.safetensors: expected a safetensors file; it cannot be read",
    ),
    "adapter truncated": (_truncate("adapter/adapter_model.safetensors"), "expected an adapter for this base model"),
    "adapter missing": (
        _remove("adapter/adapter_model.safetensors"),
        "expected adapter_model.safetensors in the folder of an adapter; it is not there",
    ),
    "adapter config missing": (
        _remove("adapter/adapter_config.json"),
        "expected adapter_config.json in the folder of an adapter; it is not there",
    ),
    "adapter config is no JSON": (
        lambda run: (run / "adapter" / "adapter_config.json").write_text("{"),
        "expected the settings of an adapter; it cannot be read",
    ),
    "adapter of another rank": (_json("adapter/adapter_config.json", lambda d: d.update(r=4)), "size mismatch"),
    "adapter of more layers": (
        _json("adapter/adapter_config.json", lambda d: d["target_modules"].append("k_proj")),
        "Found missing adapter keys",
    ),
    "adapter of fewer layers": (
        _json("adapter/adapter_config.json", lambda d: d.update(target_modules=["q_proj"])),
        "expected the adapter that posterior.json describes",
    ),
    "adapter without a tensor": (_lose_a_tensor, "Found missing adapter keys"),
}


@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_run_is_one_line(refused, finished, tmp_path, case):
    damage, message = DAMAGED[case]
    run = shutil.copytree(finished / "run", tmp_path / "damaged")
    items = tiny.write_jsonl(tmp_path / "new.jsonl", [{"text": "a nice day"}])
    damage(run)
    assert message in refused("predict", run, items, "--quiet")


# --- evaluate and predict ---


def test_evaluate_says_what_a_run_lacks(refused, finished, tmp_path):
    assert refused("evaluate", "none").startswith("none: expected a run directory with config.yaml")
    run = shutil.copytree(finished / "run", tmp_path / "copy")
    assert refused("evaluate", run, "--num_samples", "-1").startswith("predict.num_samples: expected at least 0 draws")
    assert refused("evaluate", run, "--num_samples", "x").startswith("num_samples: expected a whole number, or null")
    assert refused("evaluate", run, "--num_sample", "3").endswith("did you mean --num_samples?")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["test_file"] = None
    tiny.write_yaml(run / "config.yaml", config)
    assert "expected a run with test items; it has none" in refused("evaluate", run)


def test_predict_says_what_a_file_lacks(refused, finished, tmp_path):
    run, items = finished / "run", tiny.write_jsonl(tmp_path / "q.jsonl", [{"question": "x"}])
    assert refused("predict", run, "none.jsonl").startswith("none.jsonl: expected a JSON-lines file; there is none")
    assert "line 1: expected the field 'text', which the prompt names; got 'question'" in refused("predict", run, items)
    told = refused("predict", run, items, "--output", tmp_path / "." / "q.jsonl")
    assert told.startswith("--output: expected another file than the input")
    assert items.read_text() == '{"question": "x"}\n'


@pytest.mark.parametrize("output", ["/proc/blob_pyro", "none/answers.jsonl", "."])
def test_predict_says_where_it_cannot_write(refused, finished, output):
    told = refused("predict", finished / "run", finished / "test.jsonl", "--quiet", "--output", output)
    assert told.startswith("--output: expected a file") and output in told


def test_predict_writes_the_same_to_a_file_and_to_standard_output(finished, tmp_path, capsys):
    words = ["predict", str(finished / "run"), str(finished / "test.jsonl"), "--quiet"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert main([*words, "--output", "answers.jsonl"]) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "answers.jsonl").read_text(encoding="utf-8") == shown


def test_what_a_terminal_cannot_show_is_escaped(finished, tmp_path):
    odd = {"text": "schön 🙂", "note": "half a pair: \ud83d"}
    items = tiny.write_jsonl(tmp_path / "odd.jsonl", [odd])
    words = ["predict", finished / "run", items, "--quiet"]
    process = _process(*words, env={"PYTHONIOENCODING": "ascii"})
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert {name: json.loads(out)[name] for name in odd} == odd
    assert main([*(str(word) for word in words), "--output", "answers.jsonl"]) == 0
    assert {name: tiny.read_jsonl(tmp_path / "answers.jsonl")[0][name] for name in odd} == odd


# --- training that goes wrong ---


@pytest.mark.parametrize("guide", ["blob", "mle"])
def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_last_good_state(config, tmp_path, capfd, guide):
    words = ["fit", str(config), "--quiet", "--guide.name", guide, "--train.lr", "1e38", "--train.num_steps", "50"]
    assert main(words) == 2
    err = capfd.readouterr().err
    steps = len(tiny.read_jsonl(tmp_path / "run" / "history.jsonl"))
    assert err.count("\n") == 1 and err.startswith(f"blob-pyro: error: step {steps + 1}: expected a finite ")
    assert re.search(r"on the batch of items \d+, \d+, \d+ \(the 3 such steps before were skipped\);", err)
    assert re.search(r"\(line \d+, line \d+, line \d+ of the training data\)", err)
    assert f"{tmp_path}/run holds the parameters before step {steps}, whose loss was finite" in err
    assert steps >= 1
    answers = bp.PosteriorPredictive(*_model_and_guide(tmp_path / "run"), num_samples=2)(_batch())
    assert torch.isfinite(answers.draws).all()


def _model_and_guide(run: Path) -> tuple[Any, Any]:
    loaded = load(run)
    return loaded.model, loaded.guide


def _batch() -> bp.Batch:
    ids = torch.arange(3, 23).reshape(2, 10)
    return bp.Batch(ids, torch.ones_like(ids))


# --- in a process of its own ---


def _process(*words: object, **options: Any) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | options.pop("env", {})
    command = [sys.executable, "-m", "blob_pyro", *(str(word) for word in words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, env=environment, text=True, **pipes)


def test_ctrl_c_keeps_what_was_learnt(config, tmp_path):
    # a background job of a shell, as CI may be, is started with SIGINT ignored, and so are its children
    listen = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = _process("fit", config, "--quiet", "--train.num_steps", "1000000", **listen)
    history = tmp_path / "run" / "history.jsonl"
    deadline = time.monotonic() + 60
    while not (history.exists() and history.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, process.stderr.read()
        time.sleep(0.05)
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - start < 10
    assert process.returncode == 130
    steps = len(tiny.read_jsonl(history))
    told = (
        f"{tmp_path}/run holds the adapter and posterior after step {steps}, and a checkpoint: the same command with "
        "--resume goes on"
    )
    assert err == f"blob-pyro: stopped by Ctrl-C; {told}\n"
    answers = bp.PosteriorPredictive(*_model_and_guide(tmp_path / "run"), num_samples=2)(_batch())
    assert torch.isfinite(answers.probs).all()


def test_ctrl_c_before_training_says_that_nothing_was_saved(config, tmp_path, capfd, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("blob_pyro.workflow.load_data", interrupted)
    assert main(["fit", str(config)]) == 130
    assert capfd.readouterr().err == "blob-pyro: stopped by Ctrl-C; nothing was saved\n"
    assert not (tmp_path / "run").exists()


def test_a_closed_pipe_is_no_traceback(finished, tmp_path):
    rows = [{"text": f"number {i}", "note": 4000 * "x"} for i in range(64)]  # more than a pipe holds
    many = tiny.write_jsonl(tmp_path / "many.jsonl", rows)
    process = _process("predict", finished / "run", many, "--quiet", "--num_samples", "0")
    line = process.stdout.readline()
    process.stdout.close()
    assert json.loads(line)["text"] == "number 0"
    err = process.stderr.read()
    process.stderr.close()
    assert (process.wait(timeout=60), err) == (0, "")


def test_an_unknown_hub_id_ends_quickly_and_in_one_line(config):
    # Without HF_HUB_OFFLINE: on a machine without a network, too, the answer must not take retries.
    start = time.monotonic()
    process = _process("fit", config, "--model.id", "blob-pyro-tests/no-such-model", env={"HF_HUB_OFFLINE": "0"})
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert (
        err.startswith("blob-pyro: error: model blob-pyro-tests/no-such-model: expected a hub id")
        and err.count("\n") == 1
    )
    assert time.monotonic() - start < 30


def test_the_process_ends_with_the_code_of_main():
    process = _process("fti")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert err.startswith("blob-pyro: error: expected a command") and err.count("\n") == 1


def test_probabilities_of_a_run_are_numbers(finished):
    for answer in json.loads((finished / "run" / "metrics.json").read_text()).values():
        assert all(math.isfinite(value) for value in answer.values())
