"""Temperature scaling: what T does to an answer, and that the fitted T is the minimum of what `evaluate` reports."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from blob_pyro.errors import ConfigError, DataError
from blob_pyro.evaluation import Temperature, evaluate, fit_temperature
from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.evaluation.temperature import HIGHEST, LOWEST, mean_nll


def answers(
    num_draws: int = 1, n: int = 400, num_classes: int = 3, sharpness: float = 3.0, seed: int = 0
) -> Predictions:
    """Draws about common logits; labels from the softmax of the common logits, which `sharpness` then multiplies."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, num_classes, generator=generator) * 1.5
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]
    noise = 0.5 * torch.randn(num_draws, n, num_classes, generator=generator)
    draws = (sharpness * (logits + (noise if num_draws > 1 else 0 * noise))).softmax(-1)
    return Predictions(draws.mean(0), draws, labels)


def of_rows(rows: list[list[float]], labels: list[int]) -> Predictions:
    probs = torch.tensor(rows)
    return Predictions(probs, probs[None], torch.tensor(labels))


def by_loop(predictions: Predictions, temperature: float) -> list[list[float]]:
    """Mean over draws of p^(1/T), normalised, item by item."""
    found = []
    for item in range(len(predictions)):
        rows = [[float(p) ** (1 / temperature) for p in draw[item]] for draw in predictions.draws]
        shares = [[p / sum(row) for p in row] for row in rows]
        found.append([sum(column) / len(shares) for column in zip(*shares, strict=True)])
    return found


def derivative(predictions: Predictions, temperature: float) -> float:
    """d nll / d log T by autograd, written anew."""
    assert predictions.labels is not None
    log_temperature = torch.tensor(math.log(temperature), dtype=torch.float64, requires_grad=True)
    scaled = (predictions.draws.double().log() / log_temperature.exp()).softmax(-1).mean(0)
    nll = -scaled[torch.arange(len(predictions)), predictions.labels].log().mean()
    return float(torch.autograd.grad(nll, log_temperature)[0])


@pytest.mark.parametrize("temperature", [0.5, 1.7, 30.0])
def test_each_draw_is_scaled_and_then_averaged(temperature: float) -> None:
    predictions = answers(num_draws=4, n=20)
    found = Temperature(temperature)(predictions)
    torch.testing.assert_close(found.probs, torch.tensor(by_loop(predictions, temperature)), atol=1e-6, rtol=0)
    assert torch.equal(found.probs, found.draws.mean(0))
    assert found.labels is predictions.labels
    assert found.draws.shape == predictions.draws.shape and found.draws.dtype == predictions.draws.dtype


def test_dividing_logits_and_scaling_their_softmax_are_the_same() -> None:
    logits = 4 * torch.randn(2, 50, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    probs = logits.softmax(-1)
    found = Temperature(2.5)(Predictions(probs.mean(0), probs))
    torch.testing.assert_close(found.draws, (logits / 2.5).softmax(-1), atol=1e-12, rtol=0)


def test_one_leaves_every_bit() -> None:
    predictions = answers(num_draws=3)
    found = Temperature(1.0)(predictions)
    assert torch.equal(found.probs, predictions.probs) and torch.equal(found.draws, predictions.draws)


@pytest.mark.parametrize("temperature", [0.1, 0.9, 3.0, 20.0])
def test_a_draw_keeps_its_most_probable_class(temperature: float) -> None:
    predictions = answers(num_draws=5, num_classes=4)
    found = Temperature(temperature)(predictions)
    assert torch.equal(found.draws.argmax(-1), predictions.draws.argmax(-1))


def test_temperatures_multiply() -> None:
    predictions = answers(num_draws=3)
    twice, once = Temperature(1.5)(Temperature(2.0)(predictions)), Temperature(3.0)(predictions)
    torch.testing.assert_close(twice.draws, once.draws, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("num_draws", [1, 10])
@pytest.mark.parametrize("sharpness", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("num_classes", [2, 5])
def test_the_fit_is_a_minimum_of_the_nll_that_is_reported(num_draws: int, sharpness: float, num_classes: int) -> None:
    predictions = answers(num_draws, num_classes=num_classes, sharpness=sharpness)
    fitted = fit_temperature(predictions)
    assert not fitted.at_bound
    assert derivative(predictions, fitted.value) == pytest.approx(0.0, abs=1e-10)
    nll = evaluate(fitted(predictions)).nll
    assert nll <= evaluate(predictions).nll + 1e-7
    # the best of a fine grid, by the numbers that a user sees
    grid = [math.exp(step / 200) for step in range(-920, 921, 4)]
    assert nll <= min(evaluate_nll(predictions, value) for value in grid) + 1e-7


def evaluate_nll(predictions: Predictions, temperature: float) -> float:
    """The NLL that `evaluate` reports at a temperature (without its bootstrap, for speed)."""
    scaled = Temperature(temperature)(predictions)
    assert scaled.labels is not None
    label_probs = scaled.probs.double()[torch.arange(len(scaled)), scaled.labels]
    return float(-label_probs.clamp(min=torch.finfo(torch.float32).tiny).log().mean())


def test_logits_that_were_multiplied_are_divided_again() -> None:
    # Labels come from softmax(logits), so the optimum for 3 x logits is near 3. Over 20 seeds of 4,000 items the fitted
    # T had a mean of 3.02 and a standard deviation of 0.09; four of those, with the seed fixed.
    assert fit_temperature(answers(n=4000, sharpness=3.0)).value == pytest.approx(3.0, abs=0.35)


def test_a_row_of_one_confidence_takes_on_the_accuracy() -> None:
    # Confidence c everywhere, share a right: the optimum puts the confidence at a, T = logit c / logit a.
    predictions = of_rows([[0.99, 0.01]] * 5, [0, 0, 0, 0, 1])
    fitted = fit_temperature(predictions)
    assert fitted.value == pytest.approx(math.log(99) / math.log(4), rel=1e-5)
    assert evaluate(fitted(predictions)).ece == pytest.approx(0.0, abs=1e-6)


def test_fitting_again_finds_one() -> None:
    predictions = answers(sharpness=3.0)
    assert fit_temperature(fit_temperature(predictions)(predictions)).value == pytest.approx(1.0, abs=1e-5)


@pytest.mark.parametrize(
    ("disagreed", "sure", "right", "deeper", "other"), [(5, 4.0, 8, 1.49, 15.2), (4, 5.0, 6, 12.9, 3.06)]
)
def test_it_takes_the_deeper_of_two_valleys(
    disagreed: int, sure: float, right: int, deeper: float, other: float
) -> None:
    # Two draws that disagree with different strength (logits -10 and 1) are best at either extreme of T; the sure
    # answers, of which one is wrong, are best in between. Together the NLL has two valleys.
    margins = torch.tensor([[first] * disagreed + [sure] * right + [-sure] for first in (-10.0, 1.0)]).double()
    draws = torch.stack((margins, torch.zeros_like(margins)), -1).softmax(-1)
    labels = torch.zeros(draws.shape[1]).long()
    grid = [math.exp(step / 50) for step in range(-230, 231)]
    nlls = [mean_nll(draws.log(), labels, math.log(value))[0] for value in grid]
    valleys = [i for i in range(1, len(grid) - 1) if nlls[i] < min(nlls[i - 1], nlls[i + 1])]
    assert sorted(grid[i] for i in valleys) == pytest.approx(sorted((deeper, other)), rel=0.03)
    fitted = fit_temperature(Predictions(draws.mean(0), draws, labels))
    assert fitted.value == pytest.approx(deeper, rel=0.03)
    assert mean_nll(draws.log(), labels, math.log(fitted.value))[0] <= min(nlls)


def test_its_derivative_is_that_of_its_value() -> None:
    predictions = answers(num_draws=4)
    assert predictions.labels is not None
    for temperature in (0.3, 1.0, 4.0):
        _, found = mean_nll(predictions.draws.double().log(), predictions.labels, math.log(temperature))
        assert found == pytest.approx(derivative(predictions, temperature), abs=1e-10)


def test_probabilities_that_underflowed_stay_finite() -> None:
    predictions = of_rows([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]], [0, 1, 2, 1])
    fitted = fit_temperature(predictions)
    scaled = fitted(predictions)
    assert 1 < fitted.value < HIGHEST and torch.isfinite(scaled.probs).all()
    # the logit of 0 is that of the smallest normal number, 87.3 below; one in four is wrong
    assert scaled.probs[0, 1] == pytest.approx(scaled.probs[0, 2])
    assert -math.log(float(scaled.probs[0, 1] / scaled.probs[0, 0])) == pytest.approx(87.3365 / fitted.value, rel=1e-4)
    assert torch.isfinite(Temperature(LOWEST)(predictions).probs).all()


@pytest.mark.parametrize(
    ("labels", "bound", "text"),
    [
        ([0, 0, 0], LOWEST, "T = 0.01, the bottom of the range: the sharper, the better on the held-out items"),
        ([1, 1, 1], HIGHEST, "T = 100, the top of the range: the milder, the better on the held-out items"),
    ],
)
def test_a_bound_is_said(labels: list[int], bound: float, text: str) -> None:
    fitted = fit_temperature(of_rows([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]], labels))
    assert fitted.value == bound and fitted.at_bound
    assert str(fitted) == text
    assert str(Temperature(1.5)) == "T = 1.5"


def test_items_that_no_temperature_changes_leave_it_at_one() -> None:
    assert fit_temperature(of_rows([[0.5, 0.5]] * 4, [0, 1, 1, 1])) == Temperature(1.0)


def test_the_order_of_items_and_draws_does_not_matter() -> None:
    predictions = answers(num_draws=6)
    assert predictions.labels is not None
    turned = Predictions(predictions.probs.flip(0), predictions.draws.flip(0, 1), predictions.labels.flip(0))
    assert fit_temperature(turned).value == pytest.approx(fit_temperature(predictions).value, rel=1e-6)


def test_nothing_random_and_nothing_changed() -> None:
    predictions = answers(num_draws=3)
    before, state = predictions.draws.clone(), torch.get_rng_state()
    assert fit_temperature(predictions) == fit_temperature(predictions)
    assert torch.equal(predictions.draws, before) and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_temperature_is_above_zero(value: float) -> None:
    with pytest.raises(ConfigError, match="temperature: expected a number above 0; got"):
        Temperature(value)


def test_what_cannot_be_fitted_is_refused() -> None:
    predictions = answers()
    assert predictions.labels is not None
    with pytest.raises(DataError, match="expected labels; got None"):
        fit_temperature(dataclasses.replace(predictions, labels=None))
    empty = Predictions(predictions.probs[:0], predictions.draws[:, :0], predictions.labels[:0])
    with pytest.raises(DataError, match="expected at least one item"):
        fit_temperature(empty)
    with pytest.raises(DataError, match="expected at least one item"):
        Temperature(2.0)(empty)
    logits = Predictions(predictions.probs.log(), predictions.draws.log(), predictions.labels)
    with pytest.raises(DataError, match="give probabilities, not logits"):
        Temperature(2.0)(logits)
