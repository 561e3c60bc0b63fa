"""A context in which nothing hangs and nothing takes more memory than it should."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any


class Hang(BaseException):
    """A case took too long; no `except Exception` catches it."""


@contextlib.contextmanager
def bounded(seconds: int, memory: int) -> Iterator[None]:
    """`Hang` after some seconds, MemoryError beyond so many bytes more than there are now."""

    def ring(number: int, frame: Any) -> None:
        raise Hang(f"more than {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + memory, hard))
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
