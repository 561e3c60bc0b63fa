"""How far training is: a bar on a terminal, now and then a line elsewhere."""

from __future__ import annotations

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator

from tqdm.auto import tqdm

from blob_pyro.inference.svi import StepResult

Tell = Callable[[StepResult], None]
NUM_LINES = 20  # about so many, where there is no terminal


@contextlib.contextmanager
def progress_of(num_steps: int, done: int, title: str) -> Iterator[Tell]:
    """Tells of each step with NLL, KL, KL weight, step time and time left, on standard error.

    Args:
        num_steps: of all training.
        done: how many were done before.
        title: what is being trained.
    """
    if not sys.stderr.isatty() and not _in_notebook():
        yield _Lines(num_steps, done, title)
        return
    # one line of at most 80 characters; tqdm's own bar would push the numbers off a narrow terminal
    form = "{desc} {percentage:.0f}% {n_fmt}/{total_fmt}, {remaining} left{postfix}"
    with tqdm(total=num_steps, initial=done, desc=title, bar_format=form, dynamic_ncols=True) as bar:
        clock = _Clock()

        def tell(result: StepResult) -> None:
            bar.update()
            bar.set_postfix_str(_status(result, clock.since_last()), refresh=False)

        yield tell


class _Lines:
    """A line for the first step, the last one, and some twenty between them."""

    def __init__(self, num_steps: int, done: int, title: str) -> None:
        self._num_steps, self._title, self._clock = num_steps, title, _Clock()
        self._start, self._done = time.perf_counter(), done
        self._every = max(1, math.ceil(num_steps / NUM_LINES))

    def __call__(self, result: StepResult) -> None:
        seconds, step = self._clock.since_last(), result.step
        if step % self._every and step not in (self._done + 1, self._num_steps):
            return
        left = (time.perf_counter() - self._start) / (step - self._done) * (self._num_steps - step)
        print(
            f"{self._title} {step}/{self._num_steps}, {left:.0f} s left, {_status(result, seconds)}",
            file=sys.stderr,
            flush=True,
        )


class _Clock:
    def __init__(self) -> None:
        self._last = time.perf_counter()

    def since_last(self) -> float:
        """Seconds since the last call."""
        before, self._last = self._last, time.perf_counter()
        return self._last - before


def _status(result: StepResult, seconds: float) -> str:
    times = f"{1000 * seconds:.0f} ms/step"
    if result.skipped:
        return f"not finite, skipped, {times}"
    return f"NLL {result.nll:.2f}, KL {result.kl:.1e}, KL weight {result.kl_weight:.0e}, {times}"


def _in_notebook() -> bool:
    return "ipykernel" in sys.modules
