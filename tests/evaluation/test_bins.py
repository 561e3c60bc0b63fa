"""The one resampler: every interval is what a loop over the same random stream gives, to the last bit."""

from __future__ import annotations

import torch

import blob_pyro as bp
from blob_pyro.evaluation.bins import bin_index
from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.report.page.cautions.draws import ece_difference


def answers(n: int) -> Predictions:
    """Ten draws for n items of three classes, with labels."""
    generator = torch.Generator().manual_seed(n)
    draws = (3 * torch.randn(10, n, 3, generator=generator)).softmax(-1)
    return Predictions(draws.mean(0), draws, torch.randint(3, (n,), generator=generator))


def ece(predictions: Predictions, items: list[int], right: list[float]) -> float:
    """By a loop over the items, each of which is right or not."""
    confidence = predictions.probs.double().max(-1).values
    bins = [0.0] * 16
    for item, correct in zip(items, right, strict=True):
        bins[int(bin_index(confidence[item], 15))] += correct - float(confidence[item])
    return float(torch.tensor(bins, dtype=torch.float64).abs().sum()) / len(items)


def correct(predictions: Predictions) -> list[float]:
    return (predictions.probs.max(-1).indices == predictions.labels).double().tolist()


def test_the_error_of_the_ece_is_that_of_200_resamples_of_the_items() -> None:
    predictions, generator = answers(40), torch.Generator().manual_seed(0)
    right, eces = correct(predictions), []
    for _ in range(200):
        items = torch.randint(40, (40,), generator=generator).tolist()
        eces.append(ece(predictions, items, [right[item] for item in items]))
    assert bp.evaluate(predictions).ece_se == float(torch.tensor(eces, dtype=torch.float64).std())


def test_the_error_of_a_change_is_that_of_the_same_200_resamples() -> None:
    predictions, generator = answers(40), torch.Generator().manual_seed(0)
    both, changes = (predictions.first_draws(5), predictions), []
    for _ in range(200):
        items = torch.randint(40, (40,), generator=generator).tolist()
        before, after = (ece(one, items, [correct(one)[item] for item in items]) for one in both)
        changes.append(after - before)
    found = ece_difference(predictions, 5)
    assert found == (
        *(ece(one, list(range(40)), correct(one)) for one in both),
        float(torch.tensor(changes, dtype=torch.float64).std()),
    )


def test_the_floor_of_the_ece_is_that_of_answers_that_are_right_as_often_as_they_are_sure() -> None:
    predictions, generator = answers(40), torch.Generator().manual_seed(0)
    confidence, eces = predictions.probs.double().max(-1).values, []
    for _ in range(30):
        right = torch.rand(40, generator=generator, dtype=torch.float64) < confidence
        eces.append(ece(predictions, list(range(40)), right.double().tolist()))
    values = torch.tensor(eces, dtype=torch.float64)
    assert bp.calibrated_ece(predictions, num_resamples=30) == (float(values.mean()), float(values.std()))
