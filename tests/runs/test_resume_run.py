"""Runs that are killed, stopped or cut short go on with --resume, and end bit by bit as if they had not been."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import tiny
import torch
from processes import Process, finished

import blob_pyro as bp
from blob_pyro.cli import main
from blob_pyro.storage.directory import CHECKPOINTS

pytestmark = pytest.mark.slow

STEPS = 12
KILLED_AFTER = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12)
COMPARED = ("history.jsonl", "metrics.json", "adapter/adapter_model.safetensors", "posterior.safetensors")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config")
    train = {"num_steps": STEPS, "save_steps": 3, "batch_size": 3, "lr": 0.01}
    return tiny.write_yaml(folder / "own.yaml", tiny.settings(folder, tiny.llama(), train=train))


def contents(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in COMPARED}


@pytest.fixture(scope="module")
def whole(config: Path) -> dict[str, bytes]:
    """What a run that is never interrupted leaves."""
    code, _, err = finished("fit", config)
    assert code == 0, err
    assert not (config.parent / "run" / CHECKPOINTS).exists()
    return contents(config.parent / "run")


def test_killed_again_and_again_a_run_ends_as_if_it_had_not_been(
    config: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    """A real SIGKILL, at a random moment behind a random step: while a step, a line or a checkpoint is written."""
    run, moments = tmp_path / "run", random.Random(5)
    for step in KILLED_AFTER:
        started = Process("fit", config, "--output", run, "--resume")
        started.wait_for_lines(run / "history.jsonl", step)
        time.sleep(moments.uniform(0, 0.05))
        started.send(signal.SIGKILL)
        assert started.wait()[0] == -signal.SIGKILL
    code, out, err = finished("fit", config, "--output", run, "--resume")
    assert code == 0, err
    assert contents(run) == whole
    assert not (run / CHECKPOINTS).exists()
    code, out, err = finished("fit", config, "--output", run, "--resume")
    assert code == 0 and f"already done: {run}" in out and contents(run) == whole


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGHUP, "SIGHUP"), (signal.SIGINT, "Ctrl-C")]
)
def test_signals_save_and_stop(number: int, name: str, config: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("the tests were started under nohup")
    run = tmp_path / "run"
    started = Process("fit", config, "--output", run)
    started.wait_for_lines(run / "history.jsonl", 4)
    started.send(number)
    code, _, err = started.wait()
    lines = (run / "history.jsonl").read_text().count("\n")
    assert code == 128 + number
    assert err == (
        f"blob-pyro: stopped by {name}; {run} holds the adapter and posterior after step {lines}, and a checkpoint: "
        "the same command with --resume goes on\n"
    )
    assert (run / CHECKPOINTS / f"step-{lines:08d}").is_dir()
    assert finished("fit", config, "--output", run, "--resume")[0] == 0
    assert contents(run) == whole


def stopped_after(step: int, config: Path, run: Path, *words: object) -> None:
    """A run that SIGTERM has stopped behind a step or later."""
    started = Process("fit", config, "--output", run, *words)
    started.wait_for_lines(run / "history.jsonl", step)
    started.send(signal.SIGTERM)
    started.wait()
    assert (run / CHECKPOINTS).is_dir()


GUIDES = {"ensemble": {"num_members": 2}, "laplace": {}, "tfb": {}}


@pytest.mark.parametrize("guide", list(GUIDES))
def test_guides_of_several_stages_go_on(guide: str, config: Path, tmp_path: Path) -> None:
    """The second member of an ensemble, and what is fitted behind training."""
    settings = [word for name, value in GUIDES[guide].items() for word in (f"--guide.{name}", value)]
    words = ["--guide.name", guide, *settings]
    assert finished("fit", config, "--output", tmp_path / "whole", *words)[0] == 0
    run = tmp_path / "run"
    stopped_after(STEPS + 4 if guide == "ensemble" else 4, config, run, *words)
    code, _, err = finished("fit", config, "--output", run, *words, "--resume")
    assert code == 0, err
    assert contents(run) == contents(tmp_path / "whole")


def test_a_checkpoint_is_a_posterior_that_can_be_loaded(config: Path, tmp_path: Path) -> None:
    """The parameters behind a stop are in the newest checkpoint and in the run."""
    run = tmp_path / "run"
    stopped_after(4, config, run)
    newest = sorted((run / CHECKPOINTS).iterdir())[-1]
    of_run, of_checkpoint = bp.load(run), bp.load(newest)
    for one, other in ((of_run.guide, of_checkpoint.guide), (of_run.model.network, of_checkpoint.model.network)):
        assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def test_another_configuration_is_refused(config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    stopped_after(2, config, run)
    words = ["fit", str(config), "--output", str(run), "--quiet", "--resume", "--train.lr", "0.5", "--model.r", "3"]
    assert main(words) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "its run was made with; model.r 2, now 3; train.lr 0.01, now 0.5: go on with the same" in err


def test_a_run_that_was_moved_goes_on_where_it_lies(config: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    run, moved = tmp_path / "run", tmp_path / "elsewhere" / "moved"
    stopped_after(4, config, run)
    moved.parent.mkdir()
    run.rename(moved)
    assert main(["fit", str(config), "--output", str(moved), "--quiet", "--resume"]) == 0
    assert contents(moved) == whole and not run.exists()


@pytest.mark.parametrize("begun", [[], ["--model.device_map", '{"": cpu}']], ids=["without", "with"])
@pytest.mark.parametrize("gone_on", [[], ["--model.device_map", "cpu"], ["--model.device_map", '{"": cpu}']], ids=str)
def test_a_device_map_says_where_and_not_what(
    begun: list[str], gone_on: list[str], config: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    """A run goes on wherever the base is put, and where that is the same device to the same bytes."""
    run = tmp_path / "run"
    stopped_after(4, config, run, *begun)
    assert main(["fit", str(config), "--output", str(run), "--quiet", "--resume", *gone_on]) == 0
    assert contents(run) == whole


def test_a_damaged_checkpoint_is_told_and_the_older_one_serves(
    config: Path, tmp_path: Path, whole: dict[str, bytes], capfd: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    stopped_after(8, config, run)
    newest = sorted((run / CHECKPOINTS).iterdir())[-1]
    path = newest / "training.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    words = ["fit", str(config), "--output", str(run), "--quiet", "--resume"]
    assert main(words) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and f"{newest}: expected a whole checkpoint; training.safetensors" in err
    shutil.rmtree(newest)
    assert finished("fit", config, "--output", run, "--resume")[0] == 0
    assert contents(run) == whole


def test_a_disk_that_fills_is_one_error_and_the_older_checkpoint_serves(
    config: Path, tmp_path: Path, whole: dict[str, bytes]
) -> None:
    """Files may suddenly be no larger than what a training state needs, as on a full disk: a real EFBIG."""
    run = tmp_path / "run"
    stopped_after(3, config, run)
    before = sorted((run / CHECKPOINTS).iterdir())
    size = max(file.stat().st_size for file in before[-1].iterdir())
    code, _, err = finished("fit", config, "--output", run, "--resume", max_file_size=size - 1)
    assert code == 2 and err.count("\n") == 1, err
    assert "expected to write a checkpoint; File too large; the one of step" in err and "go on with --resume" in err
    assert sorted((run / CHECKPOINTS).iterdir()) == before
    assert finished("fit", config, "--output", run, "--resume")[0] == 0
    assert contents(run) == whole


def test_without_a_run_resume_starts_one(config: Path, tmp_path: Path, whole: dict[str, bytes]) -> None:
    assert finished("fit", config, "--output", tmp_path / "new", "--resume")[0] == 0
    assert contents(tmp_path / "new") == whole


def test_early_stopping_goes_on_and_ends_alike(config: Path, tmp_path: Path) -> None:
    words = ["--data.num_validation", 4, "--train.eval_steps", 2, "--train.patience", 2, "--train.lr", 0.5]
    assert finished("fit", config, "--output", tmp_path / "whole", *words)[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "whole" / "history.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "held_out_nll" in line] == [step for step in range(2, len(lines) + 1, 2)]
    run = tmp_path / "run"
    stopped_after(3, config, run, *words)
    assert finished("fit", config, "--output", run, *words, "--resume")[0] == 0
    assert contents(run) == contents(tmp_path / "whole")


def test_evaluation_needs_held_out_items(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", str(config), "--quiet", "--output", "none", "--train.eval_steps", "2"]) == 2
    assert "train.eval_steps: expected held-out items to evaluate on; set data.num_validation" in capfd.readouterr().err


def test_without_save_steps_there_is_one_checkpoint_at_a_stop(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    stopped_after(7, config, run, "--train.save_steps", "null")
    (only,) = (run / CHECKPOINTS).iterdir()
    lines = (run / "history.jsonl").read_text().count("\n")
    assert only.name == f"step-{lines:08d}"
