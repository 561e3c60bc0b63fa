"""One process at a time writes into a folder: real processes, real kills."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import shlex
import socket
import sys
import textwrap
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from blob_pyro.errors import RunDirectoryError
from blob_pyro.system.locks import LOCK, alone_in


def _hold(folder: Path, held: Connection) -> None:
    with alone_in(folder):
        held.send("held")
        held.recv()


@pytest.fixture
def holder(tmp_path):
    """A process that is alone in tmp_path/run until it is told to end."""
    context = multiprocessing.get_context("fork")  # it opens files, and nothing else
    here, there = context.Pipe()
    process = context.Process(target=_hold, args=(tmp_path / "run", there))
    process.start()
    assert here.recv() == "held"
    process.end = lambda: (here.send("end"), process.join())
    yield process
    process.kill()
    process.join()


def test_a_second_process_is_told_of_the_first(holder, tmp_path):
    with pytest.raises(RunDirectoryError) as refused, alone_in(tmp_path / "run"):
        pytest.fail("both are in")
    told = str(refused.value)
    assert told.startswith(f"{tmp_path}/run: expected a directory that nobody else writes to; process {holder.pid} on ")
    command = textwrap.shorten(shlex.join(sys.orig_argv), 200, placeholder="...")
    assert f" on {socket.gethostname()} does, since 20" in told and f" ({command}): wait for it, or end it" in told
    assert "\n" not in told
    holder.end()  # and leaves nothing
    assert not (tmp_path / "run").exists()


def test_the_system_lets_go_of_what_a_killed_process_held(holder, tmp_path):
    holder.kill()
    holder.join()
    assert (tmp_path / "run" / LOCK).exists()
    with alone_in(tmp_path / "run"):
        text = (tmp_path / "run" / LOCK).read_text()
        assert text.startswith(f"process {os.getpid()} on ") and str(holder.pid) not in text
        (tmp_path / "run" / "file").touch()
    assert [entry.name for entry in (tmp_path / "run").iterdir()] == ["file"]


def test_folders_that_were_made_go_where_nothing_was_written(tmp_path):
    (tmp_path / "there").mkdir()
    with alone_in(tmp_path / "there" / "a" / "b"), pytest.raises(RunDirectoryError), alone_in(tmp_path / "there/a/b"):
        pass
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]
    with alone_in(tmp_path / "there" / "a"):
        pass
    with alone_in(tmp_path / "there" / "a"):  # let go of, it is free
        (tmp_path / "there" / "a" / "file").touch()
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "there", tmp_path / "there/a", tmp_path / "there/a/file"]


@pytest.mark.parametrize("odd", ["file", "link", "pipe", "escapes"])
def test_what_lies_in_the_way_is_not_written_to(tmp_path, odd):
    run = tmp_path / "run"
    (tmp_path / "outside").write_text("as it was")
    if odd == "file":
        run.write_text("a file")
        with pytest.raises(RunDirectoryError, match="expected a directory to write to; got a file"), alone_in(run):
            pass
        return
    run.mkdir()
    if odd == "link":
        (run / LOCK).symlink_to(tmp_path / "outside")
        with pytest.raises(RunDirectoryError, match="expected a directory to write to; "), alone_in(run):
            pass
        assert (tmp_path / "outside").read_text() == "as it was"
    elif odd == "pipe":
        os.mkfifo(run / LOCK)
        with alone_in(run), pytest.raises(RunDirectoryError, match="another process does"), alone_in(run):
            pass
    else:
        with alone_in(run):
            (run / LOCK).write_text("x" * 10**6)
            with pytest.raises(RunDirectoryError) as refused, alone_in(run):
                pass
        assert len(str(refused.value)) < 700


def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch):
    """As some network file systems are; none of them is here."""

    def none(descriptor: int, operation: int) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", none)
    with pytest.warns(UserWarning, match="its file system has no locks"), alone_in(tmp_path / "run"):
        (tmp_path / "run" / "file").touch()
    assert (tmp_path / "run" / "file").exists()
