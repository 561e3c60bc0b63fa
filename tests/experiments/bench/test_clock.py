"""Interleaving and the sums made of the times, with times that are known."""

from __future__ import annotations

import pytest

from blob_pyro.experiments.bench.clock import Line, Spread, difference, fit_line, interleaved, ratio


class FakeClock:
    """Seconds that only pass when `work` says so."""

    def __init__(self) -> None:
        self.now = 0.0
        self.log: list[str] = []

    def __call__(self) -> float:
        return self.now

    def work(self, name, seconds):
        def action(number):
            self.log.append(f"{name}{number}")
            self.now += seconds(number)

        return action


def test_contenders_take_turns_and_the_warm_up_is_not_counted():
    clock = FakeClock()
    actions = {"A": clock.work("A", lambda n: 1.0 + n), "B": clock.work("B", lambda n: 10.0)}
    seconds = interleaved(actions, rounds=2, warmup=1, clock=clock)
    assert clock.log == ["A0", "B0", "A1", "B1", "A2", "B2"]
    assert seconds == {"A": [2.0, 3.0], "B": [10.0, 10.0]}


def test_the_device_is_waited_for_before_every_reading():
    """What an action leaves running counts as its own time, and as nobody else's."""
    clock = FakeClock()
    pending = {"seconds": 5.0}  # left over from before

    def synchronize():
        clock.now += pending["seconds"]
        pending["seconds"] = 0.0

    def launch(number):
        pending["seconds"] = 3.0

    actions = {"gpu": launch, "none": lambda number: None}
    assert interleaved(actions, 2, 0, clock=clock, synchronize=synchronize) == {"gpu": [3.0, 3.0], "none": [0.0, 0.0]}


def test_ratios_are_those_of_each_round():
    """A machine that slows down twentyfold in one round changes that round's times, and no ratio."""
    fast, slow = [1.0, 20.0, 1.0], [2.0, 40.0, 2.0]
    assert ratio(fast, slow) == Spread(0.5, 0.5, 0.5)
    assert difference([3.0, 5.0, 4.0], [1.0, 1.0, 1.0]) == Spread(3.0, 2.5, 3.5)
    with pytest.raises(ValueError):
        ratio([1.0], [1.0, 2.0])


def test_spread_of_one_value():
    assert Spread.of([2.0]) == Spread(2.0, 2.0, 2.0)


def test_a_line_is_found_exactly():
    line = fit_line({5: 0.5 + 2.0 * 5, 10: 0.5 + 2.0 * 10, 30: 0.5 + 2.0 * 30})
    assert (line.intercept, line.slope, line.r_squared) == pytest.approx((0.5, 2.0, 1.0))


def test_what_is_no_line_explains_less():
    assert fit_line({0: 0.0, 1: 1.0, 2: 0.0}).r_squared == pytest.approx(0.0)
    assert fit_line({0: 0.0, 1: 1.0, 2: 4.0}).r_squared == pytest.approx(12 / 13)


def test_two_points_have_a_line_that_explains_nothing_and_one_has_none():
    assert fit_line({1: 2.0, 3: 6.0}) == Line(0.0, 2.0, None)
    assert fit_line({1: 2.0}) is None
    assert fit_line({1: 2.0, 2: 2.0, 3: 2.0}).r_squared is None
