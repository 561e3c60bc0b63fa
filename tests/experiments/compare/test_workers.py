"""Runs made at once in processes of their own: the same runs, and no process is left behind.

Fresh interpreters where a command is stopped, as a user has them; forked ones elsewhere, which start sooner.
"""

from __future__ import annotations

import dataclasses
import functools
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
from processes import Process, Worker, finished, worker_ids
from tiny_runs import make_config

from blob_pyro.config.file import to_dict
from blob_pyro.config.methods import METHODS
from blob_pyro.config.sections import RunConfig
from blob_pyro.errors import ConfigError
from blob_pyro.experiments.compare import compare
from blob_pyro.experiments.compare.runs import Ended, run_path
from blob_pyro.experiments.compare.workers import make_runs_at_once
from blob_pyro.system.terminal import SILENT

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")]
PATIENCE = 120  # seconds


@pytest.fixture
def config(tmp_path) -> RunConfig:
    return make_config(tmp_path, data={"num_validation": 4}, output=str(tmp_path / "all"))


@pytest.fixture
def forked(monkeypatch) -> None:
    """`compare` has its runs made by forked processes."""
    at_once = functools.partial(make_runs_at_once, start=Worker)
    monkeypatch.setattr("blob_pyro.experiments.compare.comparison.make_runs_at_once", at_once)


def endless(config: RunConfig) -> RunConfig:
    """Steps for an hour: whoever ends was stopped."""
    return dataclasses.replace(config, train=dataclasses.replace(config.train, num_steps=1_000_000))


def wait_for(*paths: Path) -> None:
    """Until these are there."""
    end = time.monotonic() + PATIENCE
    while not all(path.exists() for path in paths):
        assert time.monotonic() < end, f"waited in vain for {paths}"
        threading.Event().wait(0.1)


def test_runs_at_once_are_those_made_in_turn(config, tmp_path, forked):
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


def test_a_run_that_fails_is_told_and_the_others_go_on(config, forked):
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
    started: list[Worker] = []

    def start(*given: Any) -> Worker:
        started.append(Worker(*given))
        return started[-1]

    runs = make_runs_at_once(endless(config), [METHODS["blob"]], (0,), 2, SILENT, start)
    consumer = threading.Thread(target=lambda: ends.extend(runs))
    consumer.start()
    wait_for(run_path(config, "blob", 0) / "history.jsonl")
    (worker,) = started
    worker.send_signal(signal.SIGKILL)
    consumer.join(PATIENCE)
    (ended,) = ends
    assert ended.failure.startswith("expected its process to end well; got exit code -9")


@pytest.fixture
def words(config, tmp_path) -> list[object]:
    """A comparison by two processes, that takes some seconds."""
    long = dataclasses.replace(config, train=dataclasses.replace(config.train, num_steps=1000))
    file = tiny.write_yaml(tmp_path / "compare.yaml", to_dict(long))
    return ["compare", file, "--methods", "mle,blob", "--seeds", "0", "--workers", "2"]


def stop(words: list[object], config: RunConfig, number: signal.Signals) -> tuple[int, str]:
    """Exit code and error of a command that gets a signal, alone, while both of its processes train."""
    process = Process(*words)
    wait_for(*(run_path(config, name, 0) / "history.jsonl" for name in ("mle", "blob")))
    workers = worker_ids(process.pid)
    assert len(workers) == 2
    process.send(number)
    code, _, error = process.wait()
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    for name in ("mle", "blob"):
        path = run_path(config, name, 0)
        assert (path / "adapter" / "adapter_model.safetensors").is_file() and not (path / "metrics.json").exists()
    return code, error


def test_ctrl_c_stops_every_process_once_and_the_same_command_goes_on(config, words):
    """Both processes save what they have learnt, and end before the command does."""
    code, error = stop(words, config, signal.SIGINT)
    assert code == 130 and error.count("\n") == 1
    assert "stopped by Ctrl-C" in error and "the same command goes on" in error
    code, out, _ = finished(*words)
    assert code == 0 and "| BLoB N=2 " in out and "Failed" not in out


def test_sigterm_stops_every_process_once(config, words):
    code, error = stop(words, config, signal.SIGTERM)
    assert code == 143 and error.count("\n") == 1
    assert "stopped by SIGTERM" in error and "the same command goes on" in error


def test_sigterm_stops_the_processes_of_a_command_in_the_background(config, words):
    """What a script starts with "&" ignores Ctrl-C, and so would what it starts in turn."""
    command = [sys.executable, "-m", "blob_pyro", *map(str, words)]
    ignores = functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    with subprocess.Popen(command, preexec_fn=ignores, stderr=subprocess.PIPE, text=True) as process:
        wait_for(*(run_path(config, name, 0) / "history.jsonl" for name in ("mle", "blob")))
        process.terminate()
        _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143 and "the same command goes on" in error
    assert not any((run_path(config, name, 0) / "metrics.json").exists() for name in ("mle", "blob"))


@pytest.mark.parametrize("workers", [0, -1])
def test_no_workers_are_refused(config, workers):
    with pytest.raises(ConfigError, match=f"workers: expected at least 1; got {workers}"):
        compare(config, ["mle"], (0,), workers=workers, progress=False, say=lambda line: None)
    assert not Path(config.output).exists()
