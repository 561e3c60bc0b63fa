"""Interleaved timing, and what is made of the times: medians, pairwise ratios, a line through growth."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Action = Callable[[int], object]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles.

    Attributes:
        median: half of the values lie below.
        lower: a quarter of the values lies below.
        upper: a quarter of the values lies above.
    """

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Quartiles by linear interpolation between the values.

        Example:
            >>> Spread.of([4.0, 1.0, 2.0, 3.0, 5.0])
            Spread(median=3.0, lower=2.0, upper=4.0)
        """
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper)


@dataclass(frozen=True)
class Line:
    """y = intercept + slope x by least squares.

    Attributes:
        intercept: y at x = 0.
        slope: growth of y for each unit of x.
        r_squared: share of y's variance that the line explains; None below three points, where it says nothing.
    """

    intercept: float
    slope: float
    r_squared: float | None


def interleaved(
    actions: Mapping[str, Action],
    rounds: int,
    warmup: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
    synchronize: Callable[[], object] = lambda: None,
    on_round: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Time A B C, A B C, ...: what slows the machine down for a while slows down all of them.

    Args:
        actions: contender -> what to time; called with the number of the round, from 0 in the warm-up.
        rounds: timed rounds.
        warmup: rounds before those, not timed.
        clock: seconds.
        synchronize: waits until the device has done what was asked of it; called before every reading.
        on_round: called behind each round, outside what is timed; in the warm-up too.

    Returns:
        Contender -> seconds of each round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in actions}
    for number in range(warmup + rounds):
        for name, action in actions.items():
            synchronize()
            start = clock()
            action(number)
            synchronize()
            if number >= warmup:
                seconds[name].append(clock() - start)
        on_round()
    return seconds


def ratio(seconds: Sequence[float], others: Sequence[float]) -> Spread:
    """Spread of the ratios of each round.

    Example:
        >>> ratio([1.0, 4.0, 3.0], [2.0, 4.0, 4.0])
        Spread(median=0.75, lower=0.625, upper=0.875)
    """
    return Spread.of([one / other for one, other in zip(seconds, others, strict=True)])


def difference(seconds: Sequence[float], others: Sequence[float]) -> Spread:
    """Spread of the differences of each round."""
    return Spread.of([one - other for one, other in zip(seconds, others, strict=True)])


def fit_line(points: Mapping[int, float]) -> Line | None:
    """The least-squares line through x -> y; None below two points.

    Example:
        >>> fit_line({1: 3.0, 2: 5.0, 4: 9.0})
        Line(intercept=1.0, slope=2.0, r_squared=1.0)
    """
    if len(points) < 2:
        return None
    x, y = list(points), list(points.values())
    slope, intercept = statistics.linear_regression(x, y)
    total = sum((value - statistics.fmean(y)) ** 2 for value in y)
    left = sum((value - intercept - slope * at) ** 2 for at, value in points.items())
    return Line(intercept, slope, 1 - left / total if len(points) > 2 and total > 0 else None)
