"""How far training is, with what each step saw."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from blob_pyro.system.progress import counted
from blob_pyro.training.svi import StepResult

Tell = Callable[[StepResult], None]


@contextlib.contextmanager
def progress_of(num_steps: int, done: int, title: str, *, show: bool = True) -> Iterator[Tell]:
    """Tells of each step with NLL, KL, KL weight, step time and time left, on standard error.

    Args:
        num_steps: of all training.
        done: how many were done before.
        title: what is being trained.
        show: False tells nothing.
    """
    with counted(num_steps, title, done=done, show=show) as count:
        clock = _Clock()
        yield lambda result: count(1, _status(result, clock.since_last()))


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
