"""A file's bytes within bounds: no device, no pipe that nobody writes to, nothing without an end."""

from __future__ import annotations

import gzip
import io
import os
import stat
import time
from pathlib import Path
from typing import Protocol

PIPE_SECONDS = 10.0
"""How long a named pipe may be without a writer."""

_CHUNK = 1 << 20


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes | None: ...


class OutOfBoundsError(OSError):
    """A file is not read to its end; the message is a few words that say why."""


def bytes_within(path: Path, most: int) -> bytes:
    """The bytes of a file; those of a name that ends in .gz are unpacked.

    A pipe is waited for as long as somebody holds it open for writing; of one with a name that nobody does, for
    `PIPE_SECONDS`.

    Args:
        path: the file, or a pipe.
        most: most bytes, packed and unpacked.

    Raises:
        OutOfBoundsError: it is a device, a pipe that nobody writes to, or larger.
        OSError: it cannot be read, or is no whole packed file.
        EOFError: it is no whole packed file.
        zlib.error: likewise.
    """
    with _opened(path, most) as stream:
        if path.suffix.lower() != ".gz":
            return _read(stream, most)
        with gzip.GzipFile(fileobj=stream) as unpacked:
            return _read(unpacked, most)


def _opened(path: Path, most: int) -> io.BufferedReader:
    mode = path.stat().st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode) or path.samefile(os.devnull)):
        raise OutOfBoundsError("a device, which may have no end")
    if stat.S_ISREG(mode) and path.stat().st_size > most:
        raise _too_large(most)
    # what a shell makes (cat x | ..., <(cat x)) has no name, and ends when its writers have gone
    has_name = path.resolve().exists()
    if stat.S_ISFIFO(mode) and has_name:
        return _opened_pipe(path)
    # what looks like a file may wait for its next line (/proc/kmsg): it says so, and is not waited for
    return os.fdopen(os.open(path, os.O_RDONLY | (os.O_NONBLOCK if stat.S_ISREG(mode) else 0)), "rb")


def _opened_pipe(path: Path) -> io.BufferedReader:
    """The pipe, as soon as somebody writes to it; `open` alone would wait for ever."""
    pipe = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    until = time.monotonic() + PIPE_SECONDS
    while time.monotonic() < until:
        try:
            first = os.read(pipe, _CHUNK)
        except BlockingIOError:  # open for writing, and nothing there yet
            first = b""
            break
        if first:
            break
        time.sleep(0.02)
    else:
        os.close(pipe)
        raise OutOfBoundsError(f"a pipe that nobody writes to ({PIPE_SECONDS:g} s)")
    os.set_blocking(pipe, True)
    return io.BufferedReader(_Begun(first, pipe))


class _Begun(io.RawIOBase):
    """A pipe whose first bytes have been read."""

    def __init__(self, first: bytes, pipe: int) -> None:
        self.first, self.rest = first, os.fdopen(pipe, "rb", buffering=0)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if not self.first:
            return self.rest.readinto(buffer) or 0
        size = min(len(buffer), len(self.first))
        buffer[:size], self.first = self.first[:size], self.first[size:]
        return size

    def close(self) -> None:
        self.rest.close()
        super().close()


def _read(stream: _Readable, most: int) -> bytes:
    chunks, size = [], 0
    while (chunk := stream.read(_CHUNK)) != b"":
        if chunk is None:
            raise OutOfBoundsError("a file without an end")
        chunks.append(chunk)
        if (size := size + len(chunk)) > most:
            raise _too_large(most)
    return b"".join(chunks)


def _too_large(most: int) -> OutOfBoundsError:
    return OutOfBoundsError(f"more than {most / 10**6:,g} MB")
