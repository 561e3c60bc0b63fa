"""A user's folder with a base model, data, a configuration, a finished run and one that was stopped."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import tiny

from blob_pyro.cli import main

STEPS = 12


def command(*words: object) -> int:
    """The exit code of `blob-pyro WORDS`."""
    return main([*map(str, words), "--quiet"])


def make_user_folder(user: Path) -> None:
    """Make it at `user`: own.yaml, train.jsonl, test.jsonl, net, run, stopped; every name in a file is relative."""
    user.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(user)
        shutil.copytree(tiny.llama(), "net")
        train = {"num_steps": STEPS, "save_steps": 3, "batch_size": 3, "lr": 0.01, "max_skipped_steps": 0}
        tiny.write_yaml(Path("own.yaml"), tiny.settings(Path(), Path("net"), train=train))
        assert command("fit", "own.yaml") == 0
        thread = threading.Thread(target=_stop_after, args=(4, Path("stopped/history.jsonl").absolute()))
        thread.start()
        assert command("fit", "own.yaml", "--output", "stopped") == 128 + signal.SIGTERM
        thread.join()


def _stop_after(step: int, history: Path) -> None:
    """SIGTERM to this process once a training has done so many steps."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not history.exists() or history.read_bytes().count(b"\n") < step):
        time.sleep(0.001)
    signal.raise_signal(signal.SIGTERM)
