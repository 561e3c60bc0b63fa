"""One process at a time writes into a folder; the system lets it go however that process ends."""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import socket
import sys
import textwrap
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from blob_pyro.errors import RunDirectoryError
from blob_pyro.system.files import remove_empty
from blob_pyro.system.printing import is_text
from blob_pyro.system.processes import Ranks

LOCK = ".lock"
_WAIT = 0.3  # seconds, in which a process that is just ending lets go
_LONGEST = 400  # characters of what a lock says


@contextlib.contextmanager
def alone_in(folder: str | Path, ranks: Ranks | None = None) -> Iterator[None]:
    """Nobody else writes into a folder inside, as long as everyone asks here; readers need not.

    The lock is the system's (flock) on a hidden file, which says who holds it and is there only meanwhile. It ends with
    the process that holds it, by SIGKILL too.

    Args:
        folder: made where it is not there; gone again where nothing was written into it.
        ranks: the processes that write together, all of which call this; the first one takes the lock for all.

    Raises:
        RunDirectoryError: another process writes there, which the message names; or it cannot be written.
    """
    told: str | None = None
    with contextlib.ExitStack() as stack:
        if ranks is None or ranks.is_first:
            try:
                stack.enter_context(_locked(Path(folder)))
            except RunDirectoryError as error:
                told = str(error)
        told = told if ranks is None else ranks.gather(told)[0]
        if told is not None:
            raise RunDirectoryError(told)
        yield


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    if "\0" in str(folder):
        raise RunDirectoryError(f"{str(folder)!r}: expected a directory to write to; got a NUL in its name")
    if not is_text(str(folder)):  # Arrow and safetensors take no other
        raise RunDirectoryError(f"{folder}: expected a directory with a name in UTF-8; choose another --output")
    if folder.exists() and not folder.is_dir():
        raise RunDirectoryError(f"{folder}: expected a directory to write to; got a file; choose another --output")
    made = [place for place in (folder, *folder.parents) if not place.exists()]
    file = folder / LOCK
    lock = FileLock(file, timeout=_WAIT, on_acquired=_say_who)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _take(lock, folder)
    except OSError as error:
        remove_empty(made)
        if isinstance(error, RunDirectoryError):
            raise
        raise RunDirectoryError(f"{folder}: expected a directory to write to; {error.strerror or error}") from error
    try:
        yield
    finally:
        if lock.is_locked:
            with contextlib.suppress(OSError):  # some systems keep a file that is open
                file.unlink()  # before it is let go: who has opened it meanwhile sees that it is gone
            lock.release()
        remove_empty(made)


def _take(lock: FileLock, folder: Path) -> None:
    try:
        lock.acquire()
    except Timeout:
        raise RunDirectoryError(
            f"{folder}: expected a directory that nobody else writes to; {_who(folder / LOCK)}: wait for it, or end it"
        ) from None
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
            raise
        warnings.warn(
            f"{folder}: its file system has no locks ({error.strerror}): nothing tells if two processes write there",
            stacklevel=2,
        )


def _say_who(descriptor: int) -> None:
    command = textwrap.shorten(shlex.join(sys.orig_argv), _LONGEST // 2, placeholder="...")
    since = time.strftime("%Y-%m-%d %H:%M:%S %z")
    text = f"process {os.getpid()} on {socket.gethostname()} does, since {since} ({command})"
    with contextlib.suppress(OSError):  # a full disk has locks, too
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(errors="replace"), 0)


def _who(file: Path) -> str:
    """What a lock says; whoever wrote the file."""
    text = ""
    with contextlib.suppress(OSError):  # it is just let go
        if file.is_file():  # a pipe would wait for a writer
            with file.open(encoding="utf-8", errors="replace") as stream:
                text = stream.read(_LONGEST)
    return text or "another process does"
