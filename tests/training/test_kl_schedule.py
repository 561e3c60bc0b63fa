"""KL schedules against exact fractions, and what they do to a posterior scale that only the KL moves."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import pytest

from blob_pyro.errors import ConfigError
from blob_pyro.training.kl_schedule import (
    KL_SCHEDULES,
    constant,
    cycle_length,
    kl_schedule,
    late,
    reweighted,
    uniform,
    warmup,
)
from blob_pyro.training.lr_schedule import linear_warmup_decay

PRIOR_SCALE = 0.2
KL_LR = 0.01
MEAN_INIT = 0.05 * (1 + 1 / math.sqrt(2)) / 2  # mean of U(eps / sqrt 2, eps) at eps = 0.05


@pytest.mark.parametrize(
    ("num_data", "expected"), [(640, 316), (2558, 544), (1119, 393), (2251, 517), (4957, 706), (9427, 909)]
)
def test_cycle_length_of_the_papers_six_tasks(num_data: int, expected: int) -> None:
    assert cycle_length(num_data, batch_size=4) == expected


def test_cycle_length_is_shared_by_processes_and_never_zero() -> None:
    assert cycle_length(640, batch_size=4, num_processes=2) == 158
    assert cycle_length(1, batch_size=1000) == 1
    assert cycle_length(3, batch_size=4) == int(100 * 3 ** (math.pi / 8) / 4)


@pytest.mark.parametrize("name", ["num_data", "batch_size", "gamma", "num_processes"])
def test_cycle_length_refuses_what_is_not_positive(name: str) -> None:
    arguments = {"num_data": 640, "batch_size": 4, "gamma": 8.0, "num_processes": 1} | {name: 0}
    with pytest.raises(ConfigError, match=f"expected {name} above 0; got 0"):
        cycle_length(**arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize("cycle", [1, 2, 3, 24, 51, 52, 53, 54, 316, 909, 1023, 1500])
def test_reweighted_is_the_correctly_rounded_fraction(cycle: int) -> None:
    for step in {1, 2, cycle // 2 + 1, cycle, cycle + 1, 2 * cycle}:
        place = (step - 1) % cycle + 1
        assert reweighted(step, cycle) == float(Fraction(2**place, 2 ** (cycle + 1) - 1))


@pytest.mark.parametrize("cycle", [1, 5, 316])
def test_the_weights_of_a_cycle_sum_to_about_one(cycle: int) -> None:
    steps = range(cycle + 1, 2 * cycle + 1)
    exact = 1 - Fraction(1, 2 ** (cycle + 1) - 1)
    assert math.fsum(reweighted(step, cycle) for step in steps) == pytest.approx(float(exact), rel=1e-15)
    assert math.fsum(uniform(step, cycle) for step in steps) == pytest.approx(1.0, rel=1e-15)


def test_warmup_rises_once_and_constant_does_not_move() -> None:
    assert [warmup(step, 4) for step in range(1, 7)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert {constant(step) for step in range(1, 7)} == {1.0}


@pytest.mark.parametrize("name", KL_SCHEDULES)
def test_every_schedule_is_bound_by_name_and_lies_in_0_1(name: str) -> None:
    weight = kl_schedule(name, cycle=7)
    assert [weight(step) for step in range(1, 20)] == [KL_SCHEDULES[name](step, cycle=7) for step in range(1, 20)]
    first = 4 if name == "late" else 1
    assert all(0 < weight(step) <= 1 for step in range(first, 8)) and not any(weight(step) for step in range(1, first))


@pytest.mark.parametrize("cycle", [1, 2, 3, 10, 101])
def test_late_shares_one_kl_among_the_second_half(cycle: int) -> None:
    weights = [late(step, cycle) for step in range(1, 2 * cycle + 1)]
    assert weights[:cycle] == weights[cycle:] and math.fsum(weights[:cycle]) == pytest.approx(1.0)
    assert len(set(weights)) <= 2 and weights[: cycle // 2] == [0.0] * (cycle // 2)


@pytest.mark.parametrize("name", KL_SCHEDULES)
def test_every_schedule_refuses_step_0_and_cycle_0(name: str) -> None:
    with pytest.raises(ValueError, match="expected a step of at least 1; got 0"):
        kl_schedule(name, cycle=3)(0)
    with pytest.raises(ValueError, match="expected a cycle of at least 1 step; got 0"):
        KL_SCHEDULES[name](1, cycle=0)


def test_kl_schedule_refuses_an_unknown_name_and_an_empty_cycle() -> None:
    with pytest.raises(ConfigError, match="expected a KL schedule among late, reweighted, uniform.*got 'cosine'"):
        kl_schedule("cosine", cycle=3)
    with pytest.raises(ConfigError, match="expected a KL cycle of at least 1 step; got 0"):
        kl_schedule("reweighted", cycle=0)


def square_gradient(g: float) -> float:
    """dKL/dG of one entry at M = 0, where sigma = G^2."""
    return 2 * g**3 / PRIOR_SCALE**2 - 2 / g


def softplus_gradient(rho: float) -> float:
    """dKL/drho of one entry at M = 0, where sigma = log(1 + e^rho)."""
    sigma = math.log1p(math.exp(rho))
    return (sigma / PRIOR_SCALE**2 - 1 / sigma) / (1 + math.exp(-rho))


def descend_kl(start: float, gradient: Callable[[float], float], num_steps: int, schedule_steps: int) -> list[float]:
    """SGD on the reweighted KL of one entry, winogrande_s' cycle; the parameter after each step."""
    weight, num_warmup_steps = kl_schedule("reweighted", cycle=316), int(0.06 * schedule_steps)
    path, parameter = [], start
    for step in range(1, num_steps + 1):
        lr = KL_LR * linear_warmup_decay(step - 1, schedule_steps, num_warmup_steps)
        parameter -= lr * weight(step) * gradient(parameter)
        path.append(parameter)
    return path


@pytest.mark.parametrize(
    ("schedule_steps", "tolerance"),
    [
        # The public code trains whole epochs, 32 x 160 = 5,120 steps, on a schedule of max_train_steps = 5,000.
        (5000, 5e-4),
        # A schedule over all 5,120 steps ends each pulse at most 0.0008 higher.
        (5120, 8e-4),
    ],
)
def test_kl_only_pulses_of_winogrande_s(schedule_steps: int, tolerance: float) -> None:
    path = descend_kl(MEAN_INIT, square_gradient, 5120, schedule_steps)
    sigmas = [path[316 * pulse - 1] ** 2 for pulse in (1, 2, 3, 4)] + [path[-1] ** 2]
    assert sigmas == pytest.approx([0.048, 0.084, 0.111, 0.132, 0.187], abs=tolerance)


def test_figure_2_the_square_leaves_zero_while_softplus_lags() -> None:
    sigma = MEAN_INIT**2
    square = descend_kl(MEAN_INIT, square_gradient, 5000, 5000)[-1] ** 2
    rho = descend_kl(math.log(math.expm1(sigma)), softplus_gradient, 5000, 5000)[-1]
    assert square > 0.9 * PRIOR_SCALE
    assert sigma < math.log1p(math.exp(rho)) < 1.2 * sigma
