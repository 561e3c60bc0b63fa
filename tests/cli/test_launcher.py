"""torchrun for real: what it has started ends with it, also where it is killed and can send no signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny

from blob_pyro.system.locks import LOCK

pytestmark = pytest.mark.slow

STEPS = 3000


def children(parent: int) -> list[int]:
    """Ids of the processes that `parent` has started and that are alive."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            its_parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        if its_parent == parent:
            found.append(int(entry.name))
    return found


def wait_until(holds, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_processes_of_a_killed_launcher_stop_and_can_go_on(tmp_path):
    train = {"num_steps": STEPS, "save_steps": STEPS}
    config = tiny.write_yaml(tmp_path / "own.yaml", tiny.settings(tmp_path, tiny.llama(), train=train))
    words = ["--standalone", "--nproc_per_node", "2", "-m", "blob_pyro", "fit", str(config), "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    with (tmp_path / "told").open("wb") as told:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *words], env=environment, stdout=told, stderr=told
        )
        try:
            history = tmp_path / "run" / "history.jsonl"
            wait_until(lambda: history.exists() and history.read_bytes().count(b"\n") > 5, 240)
            workers = children(launcher.pid)
            launcher.kill()
            launcher.wait()
            assert len(workers) == 2
            wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), 60)
        finally:
            for worker in children(launcher.pid):
                os.kill(worker, signal.SIGKILL)
            launcher.kill()
    steps = history.read_bytes().count(b"\n")
    assert 5 < steps < STEPS
    assert [place.name for place in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step-{steps:08}"]
    assert "stopped by SIGTERM" in (tmp_path / "told").read_text()
    assert not (tmp_path / "run" / LOCK).exists()
