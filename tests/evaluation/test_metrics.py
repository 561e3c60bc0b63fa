"""Metrics and uncertainties against loops that are obviously right."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import subprocess
import sys

import pytest
import torch
from torch import Tensor

from blob_pyro.errors import DataError
from blob_pyro.evaluation import evaluate, mutual_information, predictive_entropy, reliability_bins
from blob_pyro.evaluation.predictions import Predictions


def make_predictions(n: int = 60, num_classes: int = 3, num_draws: int = 4, seed: int = 0) -> Predictions:
    """Random draws, their mean, random labels."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(num_draws, n, num_classes, generator=generator).mul(2).softmax(-1)
    labels = torch.randint(num_classes, (n,), generator=generator)
    return Predictions(draws.mean(0), draws, labels)


def of_confidences(confidences: list[float], correct: list[bool]) -> Predictions:
    """Two-class predictions of class 0 with these confidences (at least 0.5)."""
    first = torch.tensor(confidences)
    probs = torch.stack((first, 1 - first), -1)
    return Predictions(probs, probs[None], torch.tensor([0 if right else 1 for right in correct]))


def entropy_by_loop(row: Tensor) -> float:
    return -sum(float(p) * math.log(float(p)) for p in row if p > 0)


def ece_by_loop(predictions: Predictions, num_bins: int) -> float:
    """Bins [b / num_bins, (b + 1) / num_bins) and a last one for 1.0; edges in float32."""
    assert predictions.labels is not None
    edges = [float(edge) for edge in torch.linspace(0, 1, num_bins + 1)] + [math.inf]
    total = 0.0
    for low, high in itertools.pairwise(edges):
        inside = [
            (float(row.max()), int(row.argmax()) == int(label))
            for row, label in zip(predictions.probs, predictions.labels, strict=True)
            if low <= float(row.max()) < high
        ]
        if inside:
            confidence = sum(c for c, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            total += len(inside) / len(predictions) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_classes", [2, 5])
def test_every_mean_equals_its_loop(seed: int, num_classes: int) -> None:
    predictions = make_predictions(num_classes=num_classes, seed=seed)
    assert predictions.labels is not None
    rows = list(zip(predictions.probs, predictions.labels.tolist(), strict=True))
    n, metrics = len(rows), evaluate(predictions)
    brier = sum(sum((float(p) - (k == y)) ** 2 for k, p in enumerate(row)) for row, y in rows) / n
    information = sum(
        entropy_by_loop(predictions.draws[:, i].double().mean(0))
        - sum(entropy_by_loop(draw[i]) for draw in predictions.draws) / len(predictions.draws)
        for i in range(n)
    )
    assert metrics.accuracy == sum(int(row.argmax()) == y for row, y in rows) / n
    assert metrics.nll == pytest.approx(-sum(math.log(float(row[y])) for row, y in rows) / n)
    assert metrics.brier == pytest.approx(brier)
    assert metrics.ece == pytest.approx(ece_by_loop(predictions, 15), abs=1e-6)
    assert metrics.entropy == pytest.approx(sum(entropy_by_loop(row) for row, _ in rows) / n)
    assert metrics.mutual_information == pytest.approx(information / n)
    assert (metrics.num_items, metrics.num_samples, metrics.num_bins) == (60, 4, 15)


@pytest.mark.parametrize("num_bins", [1, 4, 5, 10, 15])
def test_ece_at_confidences_on_bin_edges_and_at_one(num_bins: int) -> None:
    confidences = [0.5, 0.6, 0.6, 2 / 3, 0.75, 0.8, 0.8, 0.9, 14 / 15, 0.99, 1.0, 1.0]
    correct = [True, False, True, True, False, True, True, False, True, True, True, False]
    predictions = of_confidences(confidences, correct)
    assert evaluate(predictions, num_bins).ece == pytest.approx(ece_by_loop(predictions, num_bins), abs=1e-6)


def test_torchmetrics_gives_the_confidence_of_one_a_bin_of_its_own() -> None:
    # One bin: the gaps +0.2 (right at 0.8) and -1 (wrong at 1.0) would cancel to 0.4 if 1.0 were in that bin.
    assert evaluate(of_confidences([0.8, 1.0], [True, False]), num_bins=1).ece == pytest.approx(0.6)


def test_an_edge_belongs_to_the_bin_above_it_and_one_to_the_last() -> None:
    bins = reliability_bins(of_confidences([0.5, 0.75, 1.0, 0.6], [True, True, False, False]), num_bins=4)
    assert bins.count.tolist() == [0, 0, 2, 2]
    assert bins.accuracy[2:].tolist() == [0.5, 0.5]
    assert bins.confidence[2:].tolist() == pytest.approx([0.55, 0.875])
    assert bins.accuracy[:2].isnan().all() and bins.confidence[:2].isnan().all()


def test_reliability_bins_hold_the_ece() -> None:
    predictions = make_predictions(500)
    bins = reliability_bins(predictions)
    by_hand = (bins.count / 500 * (bins.accuracy - bins.confidence).abs()).nansum()
    assert bins.ece == evaluate(predictions).ece == pytest.approx(float(by_hand), abs=1e-6)
    assert int(bins.count.sum()) == 500


def test_a_calibrated_forecast_has_the_known_scores() -> None:
    # 10 items at confidence 0.8, 8 of them right: ECE 0, accuracy 0.8, Brier 2 * (0.8 * 0.04 + 0.2 * 0.64).
    metrics = evaluate(of_confidences([0.8] * 10, [True] * 8 + [False] * 2))
    assert metrics.ece == pytest.approx(0.0, abs=1e-6)
    assert metrics.accuracy == 0.8
    assert metrics.brier == pytest.approx(0.32)
    assert metrics.entropy == pytest.approx(-0.8 * math.log(0.8) - 0.2 * math.log(0.2))
    assert metrics.mutual_information == 0.0


def test_an_impossible_label_costs_87_nats_and_not_infinity() -> None:
    metrics = evaluate(of_confidences([1.0], [False]))
    assert metrics.nll == pytest.approx(-math.log(torch.finfo(torch.float32).tiny)) == pytest.approx(87.34, abs=0.01)


def test_a_confidence_that_rounds_above_one_is_not_taken_for_a_logit() -> None:
    probs = torch.tensor([[1.0000001, 0.0], [0.9, 0.1]])
    metrics = evaluate(Predictions(probs, probs[None], torch.tensor([0, 0])))
    assert metrics.ece == pytest.approx(0.05)


def test_the_order_of_the_items_does_not_matter() -> None:
    predictions = make_predictions()
    assert predictions.labels is not None
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    shuffled = Predictions(predictions.probs[order], predictions.draws[:, order], predictions.labels[order])
    first, second = evaluate(predictions).to_dict(), evaluate(shuffled).to_dict()
    # The bootstrap draws positions, so its error of 1 / sqrt(2 * 200) = 5 % shows there.
    assert second.pop("ece_se") == pytest.approx(first.pop("ece_se"), rel=0.35)
    assert second == pytest.approx(first, abs=1e-6)


def test_unequal_batches_are_weighted_by_their_items() -> None:
    whole = make_predictions()
    assert whole.labels is not None
    parts = [
        evaluate(Predictions(whole.probs[a:b], whole.draws[:, a:b], whole.labels[a:b])) for a, b in ((0, 53), (53, 60))
    ]
    for name in ("accuracy", "nll", "brier", "entropy", "mutual_information"):
        weighted = sum(part.num_items * getattr(part, name) for part in parts) / 60
        assert getattr(evaluate(whole), name) == pytest.approx(weighted)


def test_standard_errors_are_those_of_a_mean() -> None:
    predictions = make_predictions()
    assert predictions.labels is not None
    nll = [-math.log(float(row[y])) for row, y in zip(predictions.probs, predictions.labels.tolist(), strict=True)]
    mean = sum(nll) / 60
    metrics = evaluate(predictions)
    assert metrics.nll_se == pytest.approx(math.sqrt(sum((value - mean) ** 2 for value in nll) / 59 / 60))
    p = metrics.accuracy
    assert metrics.accuracy_se == pytest.approx(math.sqrt(p * (1 - p) / 59))


def test_the_ece_error_agrees_with_repeated_sampling() -> None:
    # Confidence 0.9 throughout, accuracy 0.6: the ECE is |mean of 0/1 - 0.9|, so its error is that of the accuracy.
    # 200 resamples: relative error of a standard deviation 5 %; four of those.
    metrics = evaluate(of_confidences([0.9] * 500, [i % 5 < 3 for i in range(500)]))
    assert metrics.ece == pytest.approx(0.3, abs=1e-5)  # torchmetrics sums in float32
    assert metrics.ece_se == pytest.approx(metrics.accuracy_se, rel=0.2)


def test_evaluate_is_deterministic_and_leaves_the_global_generator_alone() -> None:
    predictions = make_predictions()
    torch.manual_seed(7)
    state = torch.get_rng_state()
    first = evaluate(predictions)
    assert torch.equal(torch.get_rng_state(), state)
    assert evaluate(predictions) == first


def test_one_item_has_no_standard_errors() -> None:
    metrics = evaluate(of_confidences([0.9], [True]))
    assert all(math.isnan(getattr(metrics, f"{name}_se")) for name in ("accuracy", "nll", "ece", "brier"))


def test_metrics_are_frozen_and_become_json() -> None:
    metrics = evaluate(make_predictions())
    with pytest.raises(dataclasses.FrozenInstanceError):
        metrics.nll = 0.0  # type: ignore[misc]
    assert json.loads(json.dumps(metrics.to_dict()))["num_items"] == 60


def replaced(**changes: Tensor | None) -> Predictions:
    return dataclasses.replace(make_predictions(), **changes)  # type: ignore[arg-type]


NAN_ROW = make_predictions().probs.clone()
NAN_ROW[3, 0] = math.nan
HALF_ROW = make_predictions().probs.clone()
HALF_ROW[3] *= 0.5
LOGITS = make_predictions().probs.clone()
LOGITS[3] = torch.tensor([2.0, -1.0, 0.0])
ONES = torch.ones(2, 1)


@pytest.mark.parametrize(
    ("predictions", "message"),
    [
        (replaced(labels=None), "expected labels; got None"),
        (replaced(labels=torch.full((60,), 3)), r"expected labels in 0\.\.2; got 3"),
        (replaced(labels=torch.full((60,), -100)), r"expected labels in 0\.\.2; got -100"),
        (replaced(labels=torch.zeros(60)), "expected integer labels; got torch.float32"),
        (replaced(probs=NAN_ROW), "expected finite probs; got NaN or infinity"),
        (replaced(draws=NAN_ROW[None]), "expected finite draws; got NaN or infinity"),
        (replaced(probs=HALF_ROW), "expected rows of probs that sum to 1; got a sum off by 0.5"),
        (replaced(probs=LOGITS), "expected probs of at least 0; got -1"),
        (replaced(draws=torch.zeros(0, 60, 3)), "expected draws of at least one draw; got 0"),
        (Predictions(ONES, ONES[None], torch.zeros(2).long()), "expected probs of at least 2 classes; got 1"),
        (Predictions(ONES[:0], ONES[None, :0], torch.zeros(0).long()), "expected at least one item"),
    ],
)
def test_what_cannot_be_scored_is_refused(predictions: Predictions, message: str) -> None:
    for score in (evaluate, reliability_bins):
        with pytest.raises(DataError, match=message):
            score(predictions)


def test_no_bins_are_refused() -> None:
    with pytest.raises(ValueError, match="expected num_bins of at least 1; got 0"):
        evaluate(make_predictions(), num_bins=0)


def test_entropy_is_log_K_at_most_and_zero_for_certainty() -> None:
    assert predictive_entropy(torch.full((1, 5), 0.2)).item() == pytest.approx(math.log(5))
    assert predictive_entropy(torch.eye(3)).tolist() == [0.0, 0.0, 0.0]


def test_mutual_information_is_zero_for_one_draw_and_for_equal_draws() -> None:
    draws = make_predictions().draws
    assert mutual_information(draws[:1]).tolist() == [0.0] * 60
    assert (mutual_information(draws[:1].expand(7, -1, -1)) <= 1e-15).all()
    assert (mutual_information(draws) >= 0).all()
    with pytest.raises(ValueError, match="expected at least one draw; got 0"):
        mutual_information(draws[:0])


@pytest.mark.slow
def test_torchmetrics_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys, blob_pyro.evaluation, blob_pyro.report; print({'torchmetrics', 'matplotlib'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"
