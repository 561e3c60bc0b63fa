"""Trackers see what history.jsonl has, step by step; from the first process alone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from accelerate import PartialState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker
from processes import Process, finished
from several import in_processes

from blob_pyro.cli import main
from blob_pyro.config.sections import DataConfig, RunConfig, TrainConfig
from blob_pyro.errors import BlobPyroError, ConfigError, MissingPackageError
from blob_pyro.runs.tracking import check_trackers, tracked
from blob_pyro.system.processes import Ranks
from blob_pyro.training.svi import StepResult

pytestmark = pytest.mark.slow

with_tensorboard = pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")


class FileTracker(GeneralTracker):
    """A tracker of a user's own: a JSON line for whatever it is told."""

    name = "own_file"
    requires_logging_directory = True

    def __init__(self, run_name: str, logging_dir: str) -> None:
        super().__init__()
        self.path = Path(logging_dir) / f"{run_name}-{Ranks.here().index}.jsonl"

    @property
    def tracker(self) -> Path:
        return self.path

    def store_init_configuration(self, values: dict[str, Any]) -> None:
        self.write({"settings": values})

    def log(self, values: dict[str, Any], step: int | None = None, **more: Any) -> None:
        self.write(values | {"step": step})

    def finish(self) -> None:
        self.write({"finished": True})

    def write(self, value: Any) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(value) + "\n")


class Unwilling(FileTracker):
    name = "unwilling"

    def start(self) -> None:
        raise OSError("no key\nfor this account")


@pytest.fixture
def own_trackers() -> Iterator[None]:
    for kind in (FileTracker, Unwilling):
        LOGGER_TYPE_TO_CLASS[kind.name] = kind  # as `register_tracker_class` does, which accelerate has from 1.15 on
    yield
    for kind in (FileTracker, Unwilling):
        del LOGGER_TYPE_TO_CLASS[kind.name]


def settings(folder: Path, *trackers: str, **train: Any) -> dict[str, Any]:
    return tiny.settings(folder, tiny.llama(), train=train | {"trackers": list(trackers)})


def history(run: Path) -> list[Any]:
    return tiny.read_jsonl(run / "history.jsonl")


@pytest.mark.parametrize("guide", ["blob", "ensemble"])
def test_a_tracker_sees_every_line_of_the_history_and_the_settings(
    guide: str, tmp_path: Path, own_trackers: None
) -> None:
    own = settings(tmp_path, "own_file", "own_file", eval_steps=2)
    own["guide"] = {"name": guide} | ({"num_members": 2} if guide == "ensemble" else {})
    own["data"]["num_validation"] = 4
    assert main(["fit", str(tiny.write_yaml(tmp_path / "own.yaml", own)), "--quiet"]) == 0
    first, *steps, last = tiny.read_jsonl(tmp_path / "run" / "own_file-0.jsonl")
    found = first["settings"]
    assert found["train.lr"] == 0.01 and found["model.id"] == str(tiny.llama())
    assert json.loads(found["data.labels"]) == list(tiny.LABELS) and found["train.kl_lr"] is None
    lines = history(tmp_path / "run")
    assert len(lines) == (8 if guide == "ensemble" else 4)
    assert steps == [line | {"skipped": 0, "step": number} for number, line in enumerate(lines, 1)]
    assert any("held_out_nll" in line for line in lines) and last == {"finished": True}
    assert not PartialState._shared_state  # accelerate's global state is as it was


def test_steps_that_are_skipped_are_told(tmp_path: Path, own_trackers: None) -> None:
    config = RunConfig(DataConfig(task="tweets"), train=TrainConfig(trackers=["own_file"]))
    with tracked(config, tmp_path, done=7) as track:
        track(StepResult(float("nan"), 2.0, 0.5, 3.0, step=1, skipped=True))
    line = tiny.read_jsonl(tmp_path / "own_file-0.jsonl")[1]
    assert line["skipped"] == 1 and line["step"] == 8 and line["nll"] != line["nll"]


def test_without_trackers_nothing_is_written(tmp_path: Path) -> None:
    with tracked(RunConfig(DataConfig(task="tweets")), tmp_path) as track:
        track(StepResult(1.0, 2.0, 0.5, 2.0, step=1))
    assert not list(tmp_path.iterdir())


def tracked_here(folder: str) -> float:
    """One step told by each process, and whether they are connected afterwards."""
    LOGGER_TYPE_TO_CLASS[FileTracker.name] = FileTracker
    config = RunConfig(DataConfig(task="tweets"), train=TrainConfig(trackers=["own_file"]))
    with tracked(config, folder) as track:
        track(StepResult(1.0, 2.0, 0.5, 2.0, step=1))
    return Ranks.here().totals([1.0])[0]


def test_of_several_processes_the_first_one_alone_sends(tmp_path: Path) -> None:
    assert in_processes(2, tracked_here, str(tmp_path)) == [2.0, 2.0]
    assert [file.name for file in tmp_path.iterdir()] == ["own_file-0.jsonl"]


def test_an_unknown_tracker_is_one_line_that_lists_the_known(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    own = tiny.write_yaml(tmp_path / "own.yaml", settings(tmp_path, "tensorbord"))
    assert main(["fit", str(own), "--quiet"]) == 2
    known = "aim, clearml, comet_ml, dvclive, mlflow, swanlab, tensorboard, trackio, wandb"
    assert capfd.readouterr().err == f"blob-pyro: error: train.trackers: expected some of {known}; got 'tensorbord'\n"
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match=r"train.trackers: expected at least one name, or null; got \[\]"):
        TrainConfig(trackers=[])


def test_a_missing_package_is_one_line() -> None:
    missing = next(name for name in ("aim", "swanlab", "dvclive") if find_spec(name) is None)
    message = f"train.trackers: expected the package of {missing} to be installed; it is not: pip install {missing}"
    with pytest.raises(MissingPackageError, match=message):
        check_trackers([missing])


def test_a_tracker_that_does_not_start_is_one_line(tmp_path: Path, own_trackers: None) -> None:
    config = RunConfig(DataConfig(task="tweets"), train=TrainConfig(trackers=["own_file", "unwilling"]))
    message = "train.trackers: expected unwilling to start; it says: no key for this account"
    with pytest.raises(BlobPyroError, match=message), tracked(config, tmp_path):
        pass
    assert tiny.read_jsonl(tmp_path / "own_file-0.jsonl")[-1] == {"finished": True}  # the first one is not left open


@with_tensorboard
def test_tensorboard_has_the_history(tmp_path: Path) -> None:
    """Of a run that SIGTERM stopped and that went on."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    own = tiny.write_yaml(tmp_path / "own.yaml", settings(tmp_path, "tensorboard", num_steps=9, save_steps=3))
    started = Process("fit", own)
    started.wait_for_lines(tmp_path / "run" / "history.jsonl", 4)
    started.send(15)
    started.wait()
    code, _, err = finished("fit", own, "--resume")
    assert code == 0, err
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert set(events.Tags()["scalars"]) == {"nll", "kl", "kl_weight", "loss", "skipped", "scale"}
    for name in ("nll", "kl", "kl_weight", "loss", "scale"):
        found = [(event.step, event.value) for event in events.Scalars(name)]
        expected = [(line["step"], float(torch.tensor(line[name]))) for line in history(tmp_path / "run")]
        assert found == expected
