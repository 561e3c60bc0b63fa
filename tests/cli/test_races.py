"""Two processes race in every command that writes: what is there afterwards is one's, whole; the other is told."""

from __future__ import annotations

import json
import re
import shutil
import signal
from functools import partial

import pytest
import tiny
from processes import Process
from processes import finished as run_to_its_end

from blob_pyro.cli.dispatch import COMMANDS
from blob_pyro.storage.run_files import read_run
from blob_pyro.system.locks import LOCK

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:the posterior is")]

WRITES_NOTHING = {"generate", "tasks", "completion"}
LAST_ONE_COUNTS = {"predict", "acquire", "report", "bench"}  # one file, whole
LOCKED = {
    "fit": ["fit", "{dir}/own.yaml", "--output", "out"],
    "evaluate": ["evaluate", "run"],
    "compare": ["compare", "{dir}/own.yaml", "--output", "out", "--methods", "mle", "--seeds", "0"],
    "reproduce": ["reproduce", "figure2", "--out", "out"],
}
WRITES = LOCKED | {
    "export": ["export", "run", "--as", "mean"],
    "predict": ["predict", "run", "{dir}/test.jsonl", "--output", "run/answers.csv"],
    "acquire": ["acquire", "run", "{dir}/test.jsonl", "--k", "2", "--output", "run/chosen.jsonl"],
    "report": ["report", "run", "--output", "run/report.html"],
    "bench": ["bench", "bookkeeping", "--rounds", "2", "--warmup", "1", "--in_features", "8", "--num_sites", "2",
              "--output", "run/bench.json"],
}  # fmt: skip
TIMED = ("cost.json", "bench.json", "comparison.csv", "comparison.md")
LOSES = (
    r"blob-pyro: error: .*: expected a directory that nobody else writes to; process \d+ on \S+ does, since .*: wait "
    r"for it, or end it\n",
    r"blob-pyro: error: .*: expected a new run directory; it holds a run .*\n",
    r"blob-pyro: error: .*: expected a new or an empty folder; it holds files; .*\n",
)


def content(folder):
    """What there is, times aside; of a hidden file the name alone."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {str(path.relative_to(folder)): None if path.name in TIMED else path.read_bytes() for path in files}


def test_every_command_is_raced_or_writes_nothing():
    assert set(WRITES) | WRITES_NOTHING == set(COMMANDS) and not set(WRITES) & WRITES_NOTHING


@pytest.mark.parametrize("command", WRITES)
def test_two_at_once_leave_what_one_leaves(command, finished, tmp_path, monkeypatch):
    words = [word.format(dir=finished) for word in WRITES[command]]
    for place in ("alone", "raced"):
        (tmp_path / place).mkdir()
        shutil.copytree(finished / "run", tmp_path / place / "run")
    monkeypatch.chdir(tmp_path / "alone")
    start = partial(Process, *words, quiet=command != "report")
    code, _, errors = start().wait()
    assert code == 0, errors
    monkeypatch.chdir(tmp_path / "raced")
    racers = [start() for _ in range(2)]
    ends = sorted(racer.wait() for racer in racers)
    assert ends[0][0] == 0, ends
    if command in LAST_ONE_COUNTS:
        assert ends[1][0] == 0, ends
    elif ends[1][0] != 0:
        assert ends[1][0] == 2 and any(re.fullmatch(line, ends[1][2]) for line in LOSES), ends
    else:  # one was done before the other came, which found it done
        assert command in ("evaluate", "compare", "reproduce"), ends
    assert content(tmp_path / "raced") == content(tmp_path / "alone")


@pytest.fixture
def start():
    """Starts a command that is killed with the test, be it halted."""
    started = []
    yield lambda *words: started.append(Process(*words)) or started[-1]
    for process in started:
        if process.is_alive():
            process.send(signal.SIGKILL)


def test_a_run_in_training_is_its_process_s_alone(start, tmp_path):
    settings = tiny.settings(tmp_path, tiny.llama(), train={"num_steps": 120, "save_steps": 20})
    config = tiny.write_yaml(tmp_path / "own.yaml", settings)
    assert run_to_its_end("fit", config, "--output", tmp_path / "alone")[0] == 0
    first = start("fit", config)
    first.wait_for_lines(tmp_path / "run" / "history.jsonl", 30)
    first.send(signal.SIGSTOP)  # it is at it for as long as this takes
    for words in (["fit", config, "--resume"], ["evaluate", tmp_path / "run"]):
        code, out, told = run_to_its_end(*words)
        assert (code, out) == (2, "")
        assert re.fullmatch(
            rf"blob-pyro: error: {tmp_path}/run: expected a directory that nobody else writes to; process {first.pid} "
            r"on \S+ does, since 20.*: wait for it, or end it\n", told,
        ), told  # fmt: skip
    assert read_run(tmp_path / "run").unfinished  # who reads is not kept waiting
    first.send(signal.SIGCONT)
    assert first.wait()[0] == 0
    raced, alone = content(tmp_path / "run"), content(tmp_path / "alone")
    for files in (raced, alone):
        del files["config.yaml"]  # its output
    assert raced == alone
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_killed_process_keeps_nobody_out(start, tmp_path):
    settings = tiny.settings(tmp_path, tiny.llama(), train={"num_steps": 60, "save_steps": 10})
    config = tiny.write_yaml(tmp_path / "own.yaml", settings)
    first = start("fit", config)
    first.wait_for_lines(tmp_path / "run" / "history.jsonl", 2)
    first.send(signal.SIGKILL)
    first.wait()
    assert (tmp_path / "run" / LOCK).exists()
    assert run_to_its_end("fit", config, "--resume")[0] == 0
    assert json.loads((tmp_path / "run" / "metrics.json").read_text()).keys() == {"N=0", "N=2"}
    assert not (tmp_path / "run" / LOCK).exists()


def test_a_run_of_a_comparison_that_is_at_work_elsewhere_is_told_in_its_table(start, tmp_path):
    settings = tiny.settings(tmp_path, tiny.llama(), train={"num_steps": 60}, output=str(tmp_path / "many"))
    config = tiny.write_yaml(tmp_path / "own.yaml", settings)
    methods = ["--methods", "mle,blob", "--seeds", "0"]
    first = start("compare", config, *methods)
    first.wait_for_lines(tmp_path / "many" / "mle" / "seed0" / "history.jsonl", 2)
    first.send(signal.SIGSTOP)
    code, out, told = run_to_its_end("compare", config, *methods, "--workers", 2)
    assert (code, out) == (2, "") and f"{tmp_path}/many: expected a directory that nobody else writes to" in told
    first.send(signal.SIGKILL)
    first.wait()
    single = start("fit", tmp_path / "many" / "mle" / "seed0" / "config.yaml", "--resume")
    single.wait_for_lines(tmp_path / "many" / "mle" / "seed0" / "history.jsonl", 30)
    single.send(signal.SIGSTOP)
    code, out, told = run_to_its_end("compare", config, *methods)
    assert code == 1 and "mle, seed 0: " in told and f"process {single.pid} on " in told
    assert "Failed: mle, seed 0: " in (tmp_path / "many" / "comparison.md").read_text()
    single.send(signal.SIGCONT)
    assert single.wait()[0] == 0
    assert run_to_its_end("compare", config, *methods)[0] == 0
