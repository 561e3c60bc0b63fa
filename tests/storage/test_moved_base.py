"""A base that has moved: every command that loads a run takes its new place, and tells another base from it."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import tiny
import transformers as tf
from processes import Process
from safetensors.torch import load_file

import blob_pyro as bp
from blob_pyro.cli import main
from blob_pyro.errors import ModelLoadError

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Path:
    """A finished run whose base has moved from "old" to "new", and another base of the same shapes in "other"."""
    shutil.copytree(tiny.llama(), tmp_path / "old")
    raw = tiny.settings(tmp_path, tmp_path / "old", train={"num_steps": 2})
    tiny.write_yaml(tmp_path / "c.yaml", raw)
    assert main(["fit", str(tmp_path / "c.yaml"), "--quiet"]) == 0
    (tmp_path / "old").rename(tmp_path / "new")
    network = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "new")
    for parameter in network.parameters():
        parameter.data.mul_(1.5)
    shutil.copytree(tmp_path / "new", tmp_path / "other")
    network.save_pretrained(tmp_path / "other")
    capfd.readouterr()
    return tmp_path


COMMANDS = {
    "predict": ["predict", "{run}", "{at}/test.jsonl"],
    "acquire": ["acquire", "{run}", "{at}/test.jsonl", "--k", "2"],
    "evaluate": ["evaluate", "{run}"],
    "generate": ["generate", "{run}", "Tweet:", "--max_new_tokens", "2", "--json"],
    "export": ["export", "{run}", "--output", "{at}/exported"],
    "fit": ["fit", "{at}/c.yaml", "--resume", "--train.num_steps", "4"],
}


def words(name: str, folder: Path, *more: object) -> list[str]:
    command = [word.format(run=folder / "run", at=folder) for word in COMMANDS[name]]
    return [*command, *map(str, more), *([] if name == "generate" else ["--quiet"])]


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_names_the_option_and_takes_it(
    name: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((folder / "run" / "metrics.json").read_text())
    assert main(words(name, folder)) == 2
    err = capfd.readouterr().err
    told = "; if the base has moved, name its place: --base, or bp.load(base=)\n"
    assert f"{folder / 'old'}: expected a hub id" in err and err.endswith(told) and err.count("\n") == 1
    assert main(words(name, folder, "--base", folder / "other")) == 2
    err = capfd.readouterr().err
    assert f"base {folder / 'old'}: expected its weights, which the run was trained on" in err
    assert main(words(name, folder, "--base", folder / "new")) == 0
    if name == "evaluate":
        assert json.loads((folder / "run" / "metrics.json").read_text()) == before


def test_answers_are_those_of_before(folder: Path) -> None:
    (folder / "new").rename(folder / "old")
    before = bp.predict_run(folder / "run", folder / "test.jsonl", progress=False)
    (folder / "old").rename(folder / "new")
    assert bp.predict_run(folder / "run", folder / "test.jsonl", base=folder / "new", progress=False) == before
    run = bp.load(folder / "run", base=folder / "new")
    assert run.model.source.id == str(folder / "new")
    bp.save(folder / "saved", run.model, run.guide)  # from here on it is found by itself
    assert bp.load(folder / "saved").model.source.id == str(folder / "new")


def test_a_run_that_does_not_tell_the_weights_is_taken_with_a_warning(folder: Path) -> None:
    file = folder / "run" / "posterior.json"
    described = json.loads(file.read_text())
    assert len(described.pop("base_sha256")) == 64
    file.write_text(json.dumps(described))
    with pytest.warns(UserWarning, match=r"old: what was loaded .* was not compared .*: the run does not tell"):
        bp.load(folder / "run", base=folder / "other")
    with pytest.raises(ModelLoadError, match=r"nowhere: expected a hub id.*check the name$"):
        bp.load(folder / "run", base=folder / "nowhere")


def test_a_run_that_was_stopped_goes_on_from_the_new_place(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """As it would have from the old one, and under the old name."""
    (folder / "new").rename(folder / "old")
    run, whole = folder / "stopped", folder / "whole"
    more = ["--train.num_steps", "8", "--train.save_steps", "2", "--quiet"]
    assert main(["fit", str(folder / "c.yaml"), "--output", str(whole), *more]) == 0
    started = Process("fit", folder / "c.yaml", "--output", run, *more[:-1])
    started.wait_for_lines(run / "history.jsonl", 3)
    started.send(signal.SIGTERM)
    started.wait()
    (folder / "old").rename(folder / "new")
    command = ["fit", str(folder / "c.yaml"), "--output", str(run), *more]
    assert main([*command, "--base", str(folder / "new")]) == 2
    assert "--base: expected --resume beside it; a new run has its base in model.id" in capfd.readouterr().err
    assert main([*command, "--resume", "--base", str(folder / "other")]) == 2
    assert main([*command, "--resume", "--base", str(folder / "new")]) == 0
    assert (run / "history.jsonl").read_bytes() == (whole / "history.jsonl").read_bytes()
    names = ("adapter/adapter_model.safetensors", "posterior.safetensors")
    assert all(
        all(bool((load_file(whole / name)[key] == value).all()) for key, value in load_file(run / name).items())
        for name in names
    )
    assert json.loads((run / "posterior.json").read_text())["base"]["id"] == str(folder / "old")
