"""Commands of many trainings are killed with a real SIGKILL, started again, and leave what they would have left."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from processes import Process, finished, worker_ids

pytestmark = [
    pytest.mark.slow,
    # two or three steps at the rate of eighty: the authors' step throws the spread beyond the prior, or leaves it
    pytest.mark.filterwarnings("ignore:the posterior is"),
]

STEPS = 30
METHODS = "mle,map,ensemble,laplace,tfb,temperature,blob"
TABLES = ("comparison.md", "comparison.csv")
TIMED = ("train_seconds", "tune_seconds", "predict_seconds", "seconds")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config")
    sections: dict[str, Any] = {
        "data": {"num_validation": 4},
        "train": {"num_steps": STEPS, "save_steps": 3, "batch_size": 3, "lr": 0.01},
        "tune": {"num_trials": 4},
    }
    return tiny.write_yaml(folder / "own.yaml", tiny.settings(folder, tiny.llama(), **sections))


def without_times(value: Any) -> Any:
    """JSON values without the seconds that something took."""
    if isinstance(value, dict):
        return {name: without_times(inner) for name, inner in value.items() if name not in TIMED}
    return list(map(without_times, value)) if isinstance(value, list) else value


def content(file: Path) -> Any:
    """The bytes of a file; without times where it holds some."""
    if file.name in ("cost.json", "tuning.json"):
        return without_times(json.loads(file.read_text()))
    if file.name == "tuning.jsonl":
        return without_times(tiny.read_jsonl(file))
    if file.name == "comparison.csv":
        return without_times(list(csv.DictReader(file.read_text().splitlines())))
    if file.name == "comparison.md":  # the last column is "train s"
        return re.sub(r"\|[^|\n]*\|$", "|", file.read_text(), flags=re.MULTILINE)
    return file.read_bytes()


def contents(folder: Path) -> dict[str, Any]:
    """Every file below, but the pictures."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.suffix not in (".png", ".svg")]
    return {str(file.relative_to(folder)): content(file) for file in files}


def runs_of(found: dict[str, Any]) -> dict[str, Any]:
    """The files of the runs, without the tables of them all."""
    return {name: value for name, value in found.items() if name not in TABLES}


def made(config: Path, *words: object) -> dict[str, Any]:
    """What a command that is never interrupted leaves in the folder of its output."""
    output = config.parent / "all"
    code, _, err = finished(*words, "--output", output)
    assert code == 0, err
    found = contents(output)
    shutil.rmtree(output)
    return found


@pytest.fixture(scope="module")
def compared(config: Path) -> dict[str, Any]:
    found = made(config, "compare", config, "--methods", METHODS, "--seeds", 0)
    assert {*TABLES, "blob/seed0/posterior.safetensors", "temperature/seed0/metrics.json"} <= found.keys()
    assert not any("checkpoints" in name for name in found)
    return found


def wait_until(process: Process, there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not there():
        assert process.is_alive(), process.wait()
        assert time.monotonic() < deadline
        time.sleep(0.001)


def killed_when(there: Callable[[], bool], *words: object) -> None:
    """A command that is killed as soon as something is there."""
    process = Process(*words)
    wait_until(process, there)
    process.send(signal.SIGKILL)
    assert process.wait()[0] == -signal.SIGKILL


def holds(folder: Path) -> Callable[[], bool]:
    """Whether a folder has a whole checkpoint, and is not done with."""
    return lambda: any(folder.glob("step-*"))


PLACES = {
    "map": "map/seed0/checkpoints",
    "ensemble": "ensemble/seed0/checkpoints/member-1",
    "blob": "blob/seed0/checkpoints",
}


def test_a_comparison_that_is_killed_again_and_again_ends_alike(config: Path, compared: dict[str, Any]) -> None:
    """In a run, in the second member of an ensemble, in what is fitted behind training, in a copy of a run."""
    output = config.parent / "all"
    words = ["compare", config, "--methods", METHODS, "--seeds", 0, "--output", output]
    for place in (PLACES["map"], PLACES["ensemble"]):
        killed_when(holds(output / place), *words)
        assert holds(output / place)()
    for name in ("laplace", "tfb", "temperature"):
        killed_when((output / name / "seed0" / "config.yaml").is_file, *words)
    killed_when(holds(output / PLACES["blob"]), *words)
    code, out, err = finished(*words)
    assert code == 0, err
    (resumed,) = re.findall(r"^blob seed 0: resumed at step (\d+) of 30$", out, re.MULTILINE)
    assert int(resumed) in range(3, STEPS + 1, 3) or int(resumed) == STEPS
    assert out.count("already done") == 6
    assert contents(output) == compared
    shutil.rmtree(output)


def test_an_ensemble_tells_of_all_its_members(config: Path, compared: dict[str, Any]) -> None:
    output = config.parent / "all"
    words = ["compare", config, "--methods", "ensemble", "--seeds", 0, "--output", output]
    killed_when(holds(output / PLACES["ensemble"]), *words)
    code, out, err = finished(*words)
    assert code == 0, err
    assert re.search(r"^ensemble seed 0: resumed at step (3[3-9]|[456]\d) of 90$", out, re.MULTILINE), out
    runs = runs_of(contents(output))
    assert runs == {name: compared[name] for name in runs} and "ensemble/seed0/metrics.json" in runs
    shutil.rmtree(output)


def test_with_two_workers_the_processes_end_and_their_runs_go_on(config: Path, compared: dict[str, Any]) -> None:
    """Killed with its workers in the middle of two runs: none of them goes on by itself, and none is made anew."""
    output = config.parent / "all"
    words = ["compare", config, "--methods", "mle,map,temperature", "--seeds", 0, "--workers", 2, "--output", output]
    process = Process(*words)
    running = [output / name / "seed0" / "checkpoints" for name in ("mle", "map")]
    wait_until(process, lambda: all(holds(place)() for place in running))
    workers = worker_ids(process.pid)
    assert len(workers) == 2
    process.send(signal.SIGKILL)
    assert process.wait()[0] == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < deadline, "a worker outlives the command"
        time.sleep(0.01)
    code, out, err = finished(*words)
    assert code == 0, err
    for name in ("mle", "map"):
        assert re.search(rf"^{name} seed 0: resumed at step \d+ of 30$", out, re.MULTILINE), out
    assert runs_of(contents(output)) == {
        name: value for name, value in compared.items() if name.split("/")[0] in ("mle", "map", "temperature")
    }
    shutil.rmtree(output)


def test_a_search_goes_on_in_the_middle_of_a_trial(config: Path) -> None:
    whole = made(config, "fit", config, "--tune")
    output = config.parent / "all"
    words = ["fit", config, "--tune", "--output", output]
    trials = output / "tuning_checkpoints"
    for number in (1, 3):
        killed_when(holds(trials / f"trial-{number}"), *words)
        assert [entry.name for entry in trials.iterdir()] == [f"trial-{number}"]
    killed_when(holds(output / "checkpoints"), *words)  # in the run behind the search
    assert not trials.exists()
    code, out, err = finished(*words)
    assert code == 2 and "it holds a run" in err and "go on with it by --resume" in err
    code, out, err = finished(*words, "--resume")
    assert code == 0, err
    assert re.search(r"^resumed at step \d+ of \d+$", out, re.MULTILINE), out
    assert contents(output) == whole
    shutil.rmtree(output)


def test_a_tuned_comparison_goes_on_in_the_middle_of_a_trial(config: Path) -> None:
    words = ["compare", config, "--methods", "blob_tuned", "--seeds", 1]
    whole = made(config, *words)
    output = config.parent / "all"
    run = output / "blob_tuned" / "seed1"
    killed_when(holds(run / "tuning_checkpoints" / "trial-2"), *words, "--output", output)
    process = Process(*words, "--output", output)
    wait_until(process, holds(run / "checkpoints"))
    process.send(signal.SIGKILL)
    code, out, err = finished(*words, "--output", output)
    assert code == 0, err
    assert re.search(r"^blob_tuned seed 1: resumed at step \d+ of \d+$", out, re.MULTILINE), out
    assert contents(output) == whole
    shutil.rmtree(output)


def test_seconds_before_a_break_count(config: Path) -> None:
    output = config.parent / "all"
    words = ["compare", config, "--methods", "blob", "--seeds", 0, "--output", output]
    killed_when(holds(output / PLACES["blob"]), *words)
    newest = sorted((output / PLACES["blob"]).glob("step-*"))[-1]
    before = json.loads((newest / "seconds.json").read_text())["train_seconds"]
    assert before > 0
    described = json.loads((newest / "training.json").read_text())["content"]["sha256"]
    assert "seconds.json" in described
    assert finished(*words)[0] == 0
    assert json.loads((output / "blob" / "seed0" / "cost.json").read_text())["train_seconds"] > before
    shutil.rmtree(output)


def test_what_resume_refuses_a_comparison_refuses(config: Path) -> None:
    """Another configuration, before anything runs; an altered checkpoint, as that run's failure."""
    output = config.parent / "all"
    words = ["compare", config, "--methods", "mle,blob", "--seeds", 0, "--output", output]
    killed_when(holds(output / PLACES["blob"]), *words)
    code, _, err = finished(*words, "--train.lr", 0.5)
    assert code == 2 and err.count("\n") == 1
    assert "its run was made with; train.lr 0.01, now 0.5: go on with the same, or choose another --output" in err
    newest = sorted((output / PLACES["blob"]).glob("step-*"))[-1]
    state = newest / "training.safetensors"
    state.write_bytes(state.read_bytes()[:-100])
    code, out, err = finished(*words)
    assert code == 1, err
    told = f"{newest}: expected a whole checkpoint; training.safetensors is not as it was written; delete this folder"
    assert f"\nblob, seed 0: {told}" in out and f"\nFailed: blob, seed 0: {told}" in out and "resumed" not in out
    shutil.rmtree(newest)
    code, out, err = finished(*words)
    assert code == 0 and "Failed" not in out, err
    shutil.rmtree(output)
