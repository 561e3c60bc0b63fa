"""`fit --resume` with more steps goes on with a finished run; a break leaves the old run or the new one."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import tiny
import tiny_runs
import torch
from processes import Process, finished

import blob_pyro as bp
from blob_pyro.cli import main
from blob_pyro.errors import RunDirectoryError
from blob_pyro.runs.fit import fit_run
from blob_pyro.storage.directory import EXTENSION, read_config
from blob_pyro.training.kl_rate import default_width

pytestmark = pytest.mark.slow

STEPS, MORE = 6, 24
FILES = ("config.yaml", "history.jsonl", "metrics.json", "adapter/adapter_model.safetensors", "posterior.safetensors")
MORE_STEPS = ("--resume", "--train.num_steps", MORE)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("config")
    train = {"num_steps": STEPS, "save_steps": 3, "batch_size": 3, "lr": 0.01}
    return tiny.write_yaml(folder / "own.yaml", tiny.settings(folder, tiny.llama(), train=train))


@pytest.fixture(scope="module")
def old(config: Path) -> Path:
    """A finished run."""
    assert finished("fit", config)[0] == 0
    return config.parent / "run"


@pytest.fixture
def run(old: Path, tmp_path: Path) -> Path:
    """A copy of it, under a configuration that says so."""
    shutil.copytree(old, tmp_path / "run")
    renamed = (old / "config.yaml").read_text().replace(str(old), str(tmp_path / "run"))
    (tmp_path / "run" / "config.yaml").write_text(renamed)
    return tmp_path / "run"


def contents(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes().replace(str(run).encode(), b"RUN") for name in FILES}


@pytest.fixture(scope="module")
def extended(old: Path, config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, extended in one go."""
    run = tmp_path_factory.mktemp("extended") / "run"
    shutil.copytree(old, run)
    (run / "config.yaml").write_text((old / "config.yaml").read_text().replace(str(old), str(run)))
    code, out, err = finished("fit", config, "--output", run, *MORE_STEPS)
    assert code == 0, err
    assert f"extended from {STEPS} to {MORE} steps: {run}\n" in out
    return run


def test_the_history_goes_on_and_the_posterior_comes_to_the_width_of_the_whole(old: Path, extended: Path) -> None:
    before, after = (tiny.read_jsonl(run / "history.jsonl") for run in (old, extended))
    assert after[:STEPS] == before and [line["step"] for line in after] == list(range(1, MORE + 1))
    scales = json.loads((old / "posterior.json").read_text())["mean_scales"].values()
    assert after[STEPS]["scale"] == pytest.approx(sum(scales) / len(scales), rel=1e-5)  # where it was left
    widths = [json.loads((run / "posterior.json").read_text())["width"] for run in (old, extended)]
    assert widths[0] == pytest.approx(default_width(12, 3, STEPS), abs=0.05)
    assert widths[1] == pytest.approx(default_width(12, 3, MORE), abs=0.05) and widths[1] > widths[0] + 0.1


def test_the_directory_is_that_of_a_run_of_so_many_steps(old: Path, extended: Path) -> None:
    assert read_config(extended).train.num_steps == MORE and read_config(extended).output == str(extended)
    kinds = [sorted(str(file.relative_to(run)) for file in run.rglob("*")) for run in (old, extended)]
    assert kinds[0] == kinds[1]  # neither checkpoints nor the folder of the extension
    told = [json.loads((run / "metrics.json").read_text()) for run in (old, extended)]
    assert told[0] != told[1]
    again = bp.evaluate_run(extended, progress=False, say=lambda line: None).metrics
    assert {name: found.to_dict() for name, found in again.items()} == told[1]
    about = json.loads((extended / "about.json").read_text())
    assert about["extended_at"] == [STEPS]
    seconds = [json.loads((run / "cost.json").read_text())["train_seconds"] for run in (old, extended)]
    assert seconds[1] > seconds[0]


def test_it_is_done_once_and_can_be_done_again(extended: Path, config: Path, tmp_path: Path) -> None:
    before = contents(extended)
    code, out, _ = finished("fit", config, "--output", extended, *MORE_STEPS)
    assert code == 0 and f"already done: {extended}" in out and contents(extended) == before
    run = tmp_path / "run"
    shutil.copytree(extended, run)
    (run / "config.yaml").write_text((extended / "config.yaml").read_text().replace(str(extended), str(run)))
    assert finished("fit", config, "--output", run, "--resume", "--train.num_steps", MORE + 4)[0] == 0
    assert len(tiny.read_jsonl(run / "history.jsonl")) == MORE + 4
    assert json.loads((run / "about.json").read_text())["extended_at"] == [STEPS, MORE]


def test_a_run_that_was_moved_is_extended_where_it_lies(
    old: Path, extended: Path, config: Path, tmp_path: Path
) -> None:
    moved = tmp_path / "moved"
    shutil.copytree(old, moved)  # its configuration tells the old place
    code, _, err = finished("fit", config, "--output", moved, *MORE_STEPS)
    assert code == 0, err
    assert contents(moved) == contents(extended)


def test_killed_again_and_again_it_is_the_old_run_until_it_is_the_new_one(
    config: Path, run: Path, extended: Path
) -> None:
    """A real SIGKILL behind a random step of the extension; the run as it was answers meanwhile."""
    moments, before = random.Random(3), contents(run)
    inside = run / EXTENSION
    for step in (STEPS, STEPS + 1, STEPS + 5, STEPS + 9, MORE - 1):
        started = Process("fit", config, "--output", run, *MORE_STEPS)
        started.wait_for_lines(inside / "history.jsonl", step)
        time.sleep(moments.uniform(0, 0.05))
        started.send(signal.SIGKILL)
        started.wait()
        assert contents(run) == before and (step == STEPS or (inside / "config.yaml").is_file())
        code, out, _ = finished("fit", config, "--output", run, "--resume")
        assert code == 0 and f"already done: {run}" in out  # the old run by its own command
    code, _, err = finished("fit", config, "--output", run, *MORE_STEPS)
    assert code == 0, err
    assert contents(run) == contents(extended) and not inside.exists()


def test_a_signal_keeps_the_old_run_and_another_length_is_not_mixed_in(
    config: Path, run: Path, extended: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before, inside = contents(run), run / EXTENSION
    started = Process("fit", config, "--output", run, *MORE_STEPS)
    started.wait_for_lines(inside / "history.jsonl", STEPS + 3)
    started.send(signal.SIGTERM)
    code, _, err = started.wait()
    lines = (inside / "history.jsonl").read_text().count("\n")
    assert code == 128 + signal.SIGTERM and lines < MORE
    assert err == (
        f"blob-pyro: stopped by SIGTERM; {inside} holds the adapter and posterior after step {lines}, and a "
        "checkpoint: the same command with --resume goes on\n"
    )
    assert contents(run) == before
    words = ["fit", str(config), "--output", str(run), "--quiet", "--resume", "--train.num_steps", str(MORE + 1)]
    assert main(words) == 2
    assert (
        f"{inside}: expected an extension to {MORE + 1} steps; one with another train.num_steps was begun: go on with "
        "that, or delete this folder\n"
    ) in capfd.readouterr().err
    assert finished("fit", config, "--output", run, *MORE_STEPS)[0] == 0
    assert contents(run) == contents(extended)


def test_what_is_fitted_behind_training_is_fitted_to_the_longer_one(tmp_path: Path) -> None:
    """Laplace's adapter is that of the point it trains, extended in the same way."""
    adapters = {}
    for guide in ("map", "laplace"):
        (tmp_path / guide).mkdir()
        short, longer = (
            tiny_runs.make_config(
                tmp_path / guide, guide={"name": guide}, model={"bayesian": "both"},
                train={"num_steps": steps, "batch_size": 3, "lr": 0.01},
            )
            for steps in (3, 8)
        )  # fmt: skip
        tiny_runs.run(short)
        spread = bp.load(short.output).guide.tensors() if guide == "laplace" else {}
        fit_run(longer, resume=True, progress=False, say=lambda line: None)
        adapters[guide] = tiny_runs.adapter_bytes(Path(longer.output))
        if guide == "laplace":
            again = bp.load(longer.output).guide.tensors()
            assert any(not torch.equal(again[name], value) for name, value in spread.items())
    assert adapters["map"] == adapters["laplace"]


def test_parameters_of_the_lowest_held_out_nll_stay_until_there_are_better_ones(tmp_path: Path) -> None:
    """A rate that throws the adapter about: what is found behind the extension is the best of all steps."""
    train = {"batch_size": 3, "lr": 0.3, "eval_steps": 1, "kl_lr": 0.0}
    short, longer = (
        tiny_runs.make_config(tmp_path, data={"num_validation": 4}, train=train | {"num_steps": steps})
        for steps in (4, 10)
    )
    tiny_runs.run(short)
    before = tiny_runs.adapter_bytes(Path(short.output))
    fit_run(longer, resume=True, progress=False, say=lambda line: None)
    nlls = [line["held_out_nll"] for line in tiny.read_jsonl(Path(longer.output) / "history.jsonl")]
    assert len(nlls) == 10
    assert (tiny_runs.adapter_bytes(Path(longer.output)) == before) == (min(nlls) == min(nlls[:4]))


REFUSED = {
    "fewer": ({"num_steps": STEPS - 1}, r"train.num_steps 6, now 5: go on with the same"),
    "another setting too": ({"num_steps": MORE, "lr": 0.5}, r"train.lr 0.01, now 0.5"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_nothing_but_more_steps_is_an_extension(name: str, run: Path, config: Path, tmp_path: Path) -> None:
    changed, message = REFUSED[name]
    before = contents(run)
    words = [word for key, value in changed.items() for word in (f"--train.{key}", value)]
    code, _, err = finished("fit", config, "--output", run, "--resume", *words)
    assert code == 2 and message in err and err.count("\n") == 1 and contents(run) == before


def test_an_ensemble_and_a_run_that_has_not_ended_are_not_extended(config: Path, tmp_path: Path) -> None:
    config_of = {
        steps: tiny_runs.make_config(
            tmp_path, guide={"name": "ensemble", "num_members": 2}, train={"num_steps": steps, "batch_size": 3}
        )
        for steps in (2, 3)
    }
    tiny_runs.run(config_of[2])
    with pytest.raises(RunDirectoryError, match="expected a run that can be extended; got one of an ensemble"):
        fit_run(config_of[3], resume=True, progress=False, say=lambda line: None)
    run = tmp_path / "stopped"
    started = Process("fit", config, "--output", run)
    started.wait_for_lines(run / "history.jsonl", 2)
    started.send(signal.SIGKILL)
    started.wait()
    code, _, err = finished("fit", config, "--output", run, *MORE_STEPS)
    assert code == 2 and "its training of 6 has not ended: go on with --resume and that many first" in err
