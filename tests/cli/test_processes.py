"""Commands in processes of their own, and trainings that end early: what was learnt stays."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import tiny
import torch

import blob_pyro as bp
from blob_pyro.cli import main
from blob_pyro.storage.saving import load

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]


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


def _process(*words: object, **options: Any) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | options.pop("env", {})
    command = [sys.executable, "-m", "blob_pyro", *(str(word) for word in words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
    return subprocess.Popen(command, env=environment, text=True, **pipes)


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
    def interrupted(*args, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("blob_pyro.runs.fit.load_data", interrupted)
    assert main(["fit", str(config)]) == 130
    assert capfd.readouterr().err == "blob-pyro: stopped by Ctrl-C; nothing was saved\n"
    assert not (tmp_path / "run").exists()


def test_items_from_a_pipe_are_read_once(tmp_path):
    """With labels that are read from them; the run is that of the file. What reads them again says what to do."""
    config = tiny.write_yaml(tmp_path / "own.yaml", tiny.settings(tmp_path, tiny.llama(), data={"labels": None}))
    assert main(["fit", str(config), "--output", str(tmp_path / "file"), "--quiet"]) == 0
    words = ["--data.train_file", "/dev/stdin", "--quiet"]
    with (tmp_path / "train.jsonl").open("rb") as items, subprocess.Popen(["cat"], stdin=items, stdout=PIPE) as cat:
        process = _process("fit", config, *words, stdin=cat.stdout)
        out, err = process.communicate(timeout=120)
        assert (process.returncode, err) == (0, "")
    assert "labels: negative, positive (the values of 'label' in /dev/stdin)" in out
    names = ("history.jsonl", "metrics.json", "adapter/adapter_model.safetensors", "posterior.safetensors")
    for name in names:
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "file" / name).read_bytes()
    process = _process("evaluate", tmp_path / "run", "--quiet", stdin=subprocess.DEVNULL)
    _, err = process.communicate(timeout=120)
    told = (
        "expected a JSON-lines file; got a pipe with nothing in it, or nothing left, for it is read once: write a file"
    )
    assert process.returncode == 2 and err.startswith(f"blob-pyro: error: /dev/stdin: {told}") and err.count("\n") == 1


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
