"""How far a long work is: a bar on a terminal, now and then a line elsewhere. Whatever is counted is counted here."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Iterator
from typing import Any, Protocol

from tqdm.auto import tqdm

from blob_pyro.system.printing import printable, tell_aside

NUM_LINES = 20  # about so many, where there is no terminal


class Tell(Protocol):
    """Tells that some more is done."""

    def __call__(self, count: int = 1, status: str = "") -> None:
        """Count so many more; `status` is what else there is to say of now."""


@contextlib.contextmanager
def counted(total: int | None, title: str, *, unit: str = "", done: int = 0, show: bool = True) -> Iterator[Tell]:
    """Tells on standard error how much of a work is done, and how much time is left.

    Args:
        total: all of it; None where that is not known.
        title: what it is.
        unit: what is counted, "items"; none for steps.
        done: how much was done before.
        show: False tells nothing.
    """
    if not show:
        yield _tell_nothing
    elif sys.stderr.isatty() or _in_notebook():
        # one line of at most 80 characters; tqdm's own bar would push the numbers off a narrow terminal
        unit = f" {unit}" if unit else ""
        form = f"{{desc}} {{percentage:.0f}}% {{n_fmt}}/{{total_fmt}}{unit}, {{remaining}} left{{postfix}}"
        if total is None:
            form = f"{{desc}} {{n_fmt}}{unit}, {{elapsed}}{{postfix}}"
        with tqdm(total=total, initial=done, desc=printable(title), bar_format=form, **_width()) as bar:

            def tell(count: int = 1, status: str = "") -> None:
                bar.update(count)
                bar.set_postfix_str(status, refresh=False)

            yield tell
    else:
        lines = _Lines(total, title, unit, done)
        yield lines
        lines.end()


class _Lines:
    """A line for the first count, the last one, and some twenty between them; of an unknown whole at 2, 4, 8, ..."""

    def __init__(self, total: int | None, title: str, unit: str, done: int) -> None:
        self._total, self._title, self._unit = total, title, f" {unit}" if unit else ""
        self._start, self._before, self._done, self._told = time.perf_counter(), done, done, done
        self._every = max(1, math.ceil((total or 0) / NUM_LINES))

    def __call__(self, count: int = 1, status: str = "") -> None:
        last, self._done = self._done, self._done + count
        if not count or not (last == self._before or self._is_mark(last)):
            return
        self._tell(status)

    def end(self) -> None:
        """Of an unknown whole the last count is known now."""
        if self._total is None and self._told < self._done:
            self._tell("")

    def _tell(self, status: str) -> None:
        self._told = self._done
        words = [f"{self._title} {self._done}{self._of}{self._unit}", self._time, *([status] if status else [])]
        tell_aside(", ".join(words))

    def _is_mark(self, last: int) -> bool:
        if self._total is None:
            return self._done.bit_length() > last.bit_length()
        return self._done // self._every > last // self._every or self._done >= self._total

    @property
    def _of(self) -> str:
        return "" if self._total is None else f"/{self._total}"

    @property
    def _time(self) -> str:
        seconds = time.perf_counter() - self._start
        if self._total is None:
            return f"{seconds:.0f} s"
        return f"{seconds / (self._done - self._before) * (self._total - self._done):.0f} s left"


def _width() -> dict[str, Any]:
    """The terminal's, as it changes; some (a container's, a script's) say that they have no column at all."""
    try:
        columns = os.get_terminal_size(sys.stderr.fileno()).columns
    except (OSError, ValueError, AttributeError):  # no real terminal: a notebook's
        return {"dynamic_ncols": True}
    return {"dynamic_ncols": True} if columns else {"ncols": 80, "nrows": 24}


def _tell_nothing(count: int = 1, status: str = "") -> None:
    """For who does not want to see it."""


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules
