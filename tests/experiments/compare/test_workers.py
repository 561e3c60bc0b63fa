"""Runs made at once in processes of their own: the same runs, and no process is left behind."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from processes import worker_ids
from tiny_runs import make_config

from blob_pyro.config.methods import METHODS
from blob_pyro.config.sections import RunConfig
from blob_pyro.errors import ConfigError
from blob_pyro.experiments.compare import compare
from blob_pyro.experiments.compare.runs import Ended, run_path
from blob_pyro.experiments.compare.workers import make_runs_at_once

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
PATIENCE = 120  # seconds


@pytest.fixture
def config(tmp_path) -> RunConfig:
    return make_config(tmp_path, data={"num_validation": 4}, output=str(tmp_path / "all"))


def endless(config: RunConfig) -> RunConfig:
    """Steps for an hour: whoever ends was stopped."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, num_steps=1_000_000))


def wait_for(*paths: Path) -> None:
    """Until these are there."""
    end = time.monotonic() + PATIENCE
    while not all(path.exists() for path in paths):
        assert time.monotonic() < end, f"waited in vain for {paths}"
        threading.Event().wait(0.1)


def test_runs_at_once_are_those_made_in_turn(config, tmp_path):
    said: list[str] = []
    methods = ["mle", "temperature", "blob"]
    at_once = compare(config, methods, (1, 0), workers=2, progress=False, say=said.append)
    in_turn = compare(
        dataclasses.replace(config, output=str(tmp_path / "turn")), methods, (1, 0), progress=False, say=said.append
    )
    assert at_once.failures == () and list(at_once.rows) == list(in_turn.rows)
    for row, by_seed in in_turn.rows.items():
        assert list(by_seed) == list(at_once.rows[row]) == [1, 0]
        for seed, outcome in by_seed.items():
            assert at_once.rows[row][seed].metrics.nll == pytest.approx(outcome.metrics.nll, rel=1e-5), row
    assert said[0].startswith("2 processes at once") and "[6/6]" in "".join(said)
    said.clear()
    again = compare(config, methods, (1, 0), workers=2, progress=False, say=said.append)
    assert again.rows == at_once.rows and sum("already done" in line for line in said) == 6
    assert not any("processes" in line for line in said)


def test_a_run_that_fails_is_told_and_the_others_go_on(config):
    """And so are the warnings of its process."""
    wrong = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, max_length=8),
        train=dataclasses.replace(config.train, lr=1e38, max_skipped_steps=0),
    )
    said: list[str] = []
    with pytest.raises(ConfigError, match="all failed: mle, seed 0: step"):
        compare(wrong, ["mle", "temperature"], (0,), workers=2, progress=False, say=said.append)
    assert any(line.startswith("warning: ") and "were longer than 8 tokens" in line for line in said)
    assert "temperature, seed 0: expected the run of mle that it starts from; that one has not ended well" in said


def test_a_process_that_is_killed_is_a_failure(config):
    ends: list[Ended] = []
    runs = make_runs_at_once(endless(config), [METHODS["blob"]], (0,), 2, say=lambda line: None)
    consumer = threading.Thread(target=lambda: ends.extend(runs))
    consumer.start()
    wait_for(run_path(config, "blob", 0) / "history.jsonl")
    (worker,) = worker_ids(os.getpid())
    os.kill(worker, signal.SIGKILL)
    consumer.join(PATIENCE)
    (ended,) = ends
    assert ended.failure.startswith("expected its process to end well; got exit code -9")


@pytest.fixture
def command(config, tmp_path) -> list[str]:
    """A comparison by two processes, that takes some seconds."""
    file = tmp_path / "compare.yaml"
    long = dataclasses.replace(config, train=dataclasses.replace(config.train, num_steps=1000))
    file.write_text(yaml.safe_dump(dataclasses.asdict(long)))
    words = ["compare", str(file), "--methods", "mle,blob", "--seeds", "0", "--workers", "2", "--quiet"]
    return [sys.executable, "-m", "blob_pyro", *words]


def stop(command: list[str], config: RunConfig, number: signal.Signals) -> tuple[int, str]:
    """Exit code and error of a command that gets a signal, alone, while both of its processes train."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),  # a shell's background job ignores Ctrl-C
    )
    wait_for(*(run_path(config, name, 0) / "history.jsonl" for name in ("mle", "blob")))
    workers = worker_ids(process.pid)
    assert len(workers) == 2
    process.send_signal(number)
    _, error = process.communicate(timeout=PATIENCE)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    for name in ("mle", "blob"):
        path = run_path(config, name, 0)
        assert (path / "adapter" / "adapter_model.safetensors").is_file() and not (path / "metrics.json").exists()
    return process.returncode, error


def test_ctrl_c_stops_every_process_once_and_the_same_command_goes_on(config, command):
    """Both processes save what they have learnt, and end before the command does."""
    code, error = stop(command, config, signal.SIGINT)
    assert code == 130 and error.count("\n") == 1
    assert "stopped by Ctrl-C" in error and "the same command goes on" in error
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "| BLoB N=2 " in again.stdout and "Failed" not in again.stdout


def test_sigterm_stops_every_process_once(config, command):
    code, error = stop(command, config, signal.SIGTERM)
    assert code == 143 and error.count("\n") == 1
    assert "stopped by SIGTERM" in error and "the same command goes on" in error


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_are_refused(config, workers):
    with pytest.raises(ConfigError, match=f"workers: expected at least 1; got {workers}"):
        compare(config, ["mle"], (0,), workers=workers, progress=False, say=lambda line: None)
    assert not Path(config.output).exists()
