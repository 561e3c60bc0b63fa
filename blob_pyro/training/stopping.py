"""Ctrl-C, SIGTERM and SIGHUP as requests that a loop answers between two steps."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

from blob_pyro.errors import Stopped

FURTHER = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
"""Signals that stop a process as Ctrl-C does: SIGHUP comes where a terminal closes."""
_OF_TERMINALS = FURTHER[1:]


class StopRequest:
    """Whether the process was asked to stop.

    Attributes:
        signal: the number of the signal that asked; 0 where none did.
    """

    def __init__(self) -> None:
        self.signal = 0

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Note the signal; the second one stops at once."""
        if self.signal:
            raise KeyboardInterrupt
        self.signal = number


@contextlib.contextmanager
def stop_requests() -> Iterator[StopRequest]:
    """Ctrl-C and `FURTHER` inside only leave a note; a second one raises KeyboardInterrupt. Former handlers come back.

    Outside the main thread, where Python takes no handlers, signals do what they did before.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    with _handled((signal.SIGINT, *FURTHER), request):
        yield request


@contextlib.contextmanager
def signals_as_ctrl_c() -> Iterator[None]:
    """Inside, the signals of `FURTHER` raise `Stopped` where Ctrl-C raises KeyboardInterrupt, so that what cleans up
    after one does after all. Not outside the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise Stopped("", number)

    with _handled(FURTHER, stop):
        yield


@contextlib.contextmanager
def _handled(numbers: Iterable[int], handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Inside, the handler of signals; but for SIGHUP where that is ignored, as under nohup."""
    ignored = {n for n in numbers if n in _OF_TERMINALS and signal.getsignal(n) is signal.SIG_IGN}
    taken = [n for n in numbers if n not in ignored]
    before = {number: signal.signal(number, handler) for number in taken}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
