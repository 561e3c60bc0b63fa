"""Risk and coverage against a loop over every order of the tied items."""

from __future__ import annotations

import itertools

import pytest
import torch

from blob_pyro.errors import DataError
from blob_pyro.evaluation import evaluate, risk_coverage
from blob_pyro.evaluation.predictions import Predictions


def of_confidences(confidences: list[float], correct: list[bool]) -> Predictions:
    """Two-class predictions of class 0 with these confidences (at least 0.5)."""
    first = torch.tensor(confidences)
    probs = torch.stack((first, 1 - first), -1)
    return Predictions(probs, probs[None], torch.tensor([0 if right else 1 for right in correct]))


def random_answers(n: int, seed: int) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    probs = torch.randn(n, 4, generator=generator).mul(2).softmax(-1)
    return Predictions(probs, probs[None], torch.randint(4, (n,), generator=generator))


def by_orders(confidences: list[float], correct: list[bool]) -> list[float]:
    """Risk at each coverage, the mean over every order that does not rise in confidence."""
    orders = [
        order
        for order in itertools.permutations(range(len(confidences)))
        if all(confidences[a] >= confidences[b] for a, b in itertools.pairwise(order))
    ]
    risks = []
    for k in range(1, len(confidences) + 1):
        shares = [sum(not correct[item] for item in order[:k]) / k for order in orders]
        risks.append(sum(shares) / len(shares))
    return risks


@pytest.mark.parametrize(
    ("confidences", "correct"),
    [
        ([0.9, 0.8, 0.7, 0.6], [True, False, True, False]),
        ([0.6, 0.9, 0.6, 0.9, 0.6, 0.75], [False, True, True, False, True, False]),
        ([1.0, 1.0, 1.0, 1.0, 0.5, 1.0], [True, True, False, True, False, True]),
        ([0.7] * 5, [False, True, True, False, True]),
        ([0.9], [False]),
    ],
)
def test_the_curve_is_the_mean_over_the_orders_of_ties(confidences: list[float], correct: list[bool]) -> None:
    curve = risk_coverage(of_confidences(confidences, correct))
    risks = by_orders(confidences, correct)
    n = len(confidences)
    assert curve.risk.tolist() == pytest.approx(risks)
    assert curve.area == pytest.approx(sum(risks) / n)
    assert curve.coverage.tolist() == pytest.approx([k / n for k in range(1, n + 1)])
    assert curve.confidence.tolist() == pytest.approx(sorted(confidences, reverse=True))


def test_the_whole_coverage_has_the_risk_of_the_accuracy() -> None:
    predictions = random_answers(200, 0)
    assert float(risk_coverage(predictions).risk[-1]) == pytest.approx(1 - evaluate(predictions).accuracy)


def test_the_order_of_the_items_does_not_matter() -> None:
    predictions = random_answers(100, 1)
    assert predictions.labels is not None
    coarse = (predictions.probs * 4).round().clamp(min=0.5)  # many ties
    probs = coarse / coarse.sum(-1, keepdim=True)
    order = torch.randperm(100, generator=torch.Generator().manual_seed(2))
    one = risk_coverage(Predictions(probs, probs[None], predictions.labels))
    other = risk_coverage(Predictions(probs[order], probs[order][None], predictions.labels[order]))
    assert len(probs.max(-1).values.unique()) < 50
    torch.testing.assert_close(one.risk, other.risk, atol=1e-12, rtol=0)


def test_ranking_the_errors_last_is_the_best_and_first_the_worst() -> None:
    confidences = [0.9, 0.8, 0.7, 0.6, 0.55]
    areas = {
        wrong: risk_coverage(of_confidences(confidences, [i not in wrong for i in range(5)])).area
        for wrong in itertools.combinations(range(5), 2)
    }
    assert min(areas, key=areas.__getitem__) == (3, 4)
    assert max(areas, key=areas.__getitem__) == (0, 1)


def test_no_errors_and_only_errors() -> None:
    assert risk_coverage(of_confidences([0.9, 0.6], [True, True])).area == 0.0
    assert risk_coverage(of_confidences([0.9, 0.6], [False, False])).area == 1.0


def test_predictions_without_labels_are_refused() -> None:
    predictions = random_answers(3, 0)
    with pytest.raises(DataError, match="expected labels; got None"):
        risk_coverage(Predictions(predictions.probs, predictions.draws))
