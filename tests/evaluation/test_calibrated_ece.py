"""The ECE of calibrated answers: what few items alone give."""

from __future__ import annotations

import pytest
import torch

import blob_pyro as bp
from blob_pyro.errors import ConfigError, DataError
from blob_pyro.evaluation.predictions import Predictions


def answers(n: int, num_classes: int = 3, seed: int = 0) -> Predictions:
    """Answers of every confidence."""
    generator = torch.Generator().manual_seed(seed)
    probs = (3 * torch.randn(n, num_classes, generator=generator)).softmax(-1)
    return Predictions(probs, probs[None])


def drawn(predictions: Predictions, seed: int) -> Predictions:
    """The same answers, and labels that are drawn from them: perfect calibration."""
    labels = torch.multinomial(predictions.probs, 1, generator=torch.Generator().manual_seed(seed))[:, 0]
    return Predictions(predictions.probs, predictions.draws, labels)


@pytest.mark.slow
@pytest.mark.parametrize("n", [20, 100, 500])
def test_it_is_the_mean_ece_of_labels_drawn_from_the_answers(n):
    """The naive twin: `evaluate` on 200 sets of such labels. Off by 4 standard errors once in 16,000 cases."""
    predictions = answers(n)
    mean, spread = bp.calibrated_ece(predictions)
    eces = torch.tensor([bp.evaluate(drawn(predictions, seed)).ece for seed in range(200)])
    error = (2 / 200) ** 0.5 * float(eces.std())
    assert mean == pytest.approx(float(eces.mean()), abs=4 * error)
    assert spread == pytest.approx(float(eces.std()), rel=0.3)


def test_it_falls_with_the_items_and_knows_no_labels():
    few, many = answers(50), answers(5000)
    assert bp.calibrated_ece(few)[0] > 3 * bp.calibrated_ece(many)[0]
    assert bp.calibrated_ece(few) == bp.calibrated_ece(drawn(few, 1))


def test_certain_answers_have_none():
    probs = torch.tensor([[1.0, 0.0]]).repeat(9, 1)
    assert bp.calibrated_ece(Predictions(probs, probs[None])) == (0.0, 0.0)


def test_what_it_refuses():
    with pytest.raises(ConfigError, match="num_bins: expected at least 1; got 0"):
        bp.calibrated_ece(answers(3), 0)
    with pytest.raises(ConfigError, match="num_resamples: expected at least 2; got 1"):
        bp.calibrated_ece(answers(3), num_resamples=1)
    with pytest.raises(DataError, match="expected at least one item"):
        bp.calibrated_ece(answers(0))
