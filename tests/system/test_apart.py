"""Requests answered by processes of their own, none of which outlives the one that asked."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import requests_apart
from processes import server

from blob_pyro.errors import BlobPyroError
from blob_pyro.system.apart import run_apart

MODULE = requests_apart.__name__


@pytest.fixture(autouse=True)
def found_by_a_fresh_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    places = [str(Path(requests_apart.__file__).parent), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, places)))


@pytest.mark.slow
def test_what_main_gives_comes_back() -> None:
    request = {"text": "ü\n\"'$", "numbers": [1, 2.5, None]}
    assert run_apart(MODULE, request) == request


@pytest.mark.slow
def test_the_last_word_of_one_that_fails() -> None:
    told = "^expected its process to end well; got exit code {}, and it says: {}$"
    with pytest.raises(BlobPyroError, match=told.format(-9, "Killed by the system")):
        run_apart(MODULE, {"killed": "Killed by the system"})
    with pytest.raises(BlobPyroError, match=told.format(1, "ValueError: no such thing")):
        run_apart(MODULE, {"error": "no such thing"})


def _ask(path: str, places: str) -> None:
    os.environ["PYTHONPATH"] = places
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run_apart(MODULE, {"sleep": path})


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_it_ends_with_the_process_that_asked(tmp_path: Path, number: signal.Signals) -> None:
    """`bench`'s and `reproduce cost`'s used to work on alone."""
    told = tmp_path / "pid"
    asking = server().Process(target=_ask, args=(str(told), os.environ["PYTHONPATH"]))
    asking.start()
    deadline = time.monotonic() + 120
    while not (told.exists() and told.read_text()):
        assert asking.is_alive() and time.monotonic() < deadline
        time.sleep(0.05)
    child = Path("/proc") / told.read_text()
    assert child.exists()
    os.kill(int(asking.pid or 0), number)
    asking.join(30)
    assert not asking.is_alive()
    while child.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
