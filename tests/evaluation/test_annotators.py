"""Scores against annotators: those of every annotator's own label, one by one."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

import blob_pyro as bp
from blob_pyro.errors import DataError
from blob_pyro.report.tables import annotators_table, metrics_table

EXPECTED = ("accuracy", "nll", "brier", "ece")


def answers(n: int, num_classes: int, seed: int, num_draws: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(num_draws, n, num_classes, generator=generator).mul(2).softmax(-1)


def votes(n: int, num_classes: int, num_annotators: int, seed: int) -> Tensor:
    """(n, annotators) labels."""
    return torch.randint(num_classes, (n, num_annotators), generator=torch.Generator().manual_seed(seed))


def shares_of(found: Tensor, num_classes: int) -> Tensor:
    return torch.nn.functional.one_hot(found, num_classes).float().mean(1)


def scored(draws: Tensor, shares: Tensor) -> bp.AnnotatorMetrics:
    found = bp.evaluate(bp.Predictions(draws.mean(0), draws, shares=shares)).annotators
    assert found is not None
    return found


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("num_classes", "num_annotators"), [(2, 3), (3, 5), (5, 2)])
def test_expected_scores_are_those_of_every_annotator_in_turn(num_classes: int, num_annotators: int, seed: int) -> None:
    """The twin: each item once for each annotator, with that one's label, under the hard metrics."""
    draws, found = answers(40, num_classes, seed), votes(40, num_classes, num_annotators, seed)
    expanded = draws.repeat_interleave(num_annotators, 1)
    hard = bp.evaluate(bp.Predictions(expanded.mean(0), expanded, found.flatten()))
    soft = scored(draws, shares_of(found, num_classes))
    for name in EXPECTED:
        assert getattr(soft, f"expected_{name}") == pytest.approx(getattr(hard, name), abs=1e-5), name


@pytest.mark.parametrize("num_classes", [2, 4])
def test_annotators_who_agree_are_a_label(num_classes: int) -> None:
    """One-hot shares: every expected score, and its error, is the hard one; the NLL has no floor."""
    draws, labels = answers(50, num_classes, 7), votes(50, num_classes, 1, 7)[:, 0]
    hard = bp.evaluate(bp.Predictions(draws.mean(0), draws, labels))
    both = bp.evaluate(bp.Predictions(draws.mean(0), draws, shares=torch.nn.functional.one_hot(labels, num_classes)))
    assert both.annotators is not None and dataclasses.replace(both, annotators=None) == hard
    for name in EXPECTED:
        for field in (name, f"{name}_se"):
            assert getattr(both.annotators, f"expected_{field}") == pytest.approx(getattr(hard, field), abs=1e-6), field
    assert both.annotators.annotator_entropy == 0.0
    assert both.annotators.kl == both.annotators.expected_nll
    assert both.annotators.dist_ce == pytest.approx(1 - float(draws.mean(0).gather(1, labels[:, None]).mean()))


def test_every_mean_equals_its_loop() -> None:
    draws, shares = answers(30, 3, 1), shares_of(votes(30, 3, 4, 1), 3)
    rows = list(zip(draws.mean(0).tolist(), shares.tolist(), strict=True))
    soft = scored(draws, shares)
    kl = [sum(q * math.log(q / p) for p, q in zip(*row, strict=True) if q) for row in rows]
    entropy = [-sum(q * math.log(q) for q in qs if q) for _, qs in rows]
    distance = [max(sum(p - q for p, q in zip(*row, strict=True) if p > q), 0.0) for row in rows]
    assert soft.kl == pytest.approx(sum(kl) / 30, abs=1e-6)
    assert soft.annotator_entropy == pytest.approx(sum(entropy) / 30, abs=1e-6)
    assert soft.dist_ce == pytest.approx(sum(distance) / 30, abs=1e-6)
    assert soft.expected_nll == pytest.approx(soft.kl + soft.annotator_entropy)


def test_the_shares_themselves_are_the_best_answer() -> None:
    """At p = q the NLL is its floor and no distance is left; any other answer has a higher NLL and Brier score."""
    shares = shares_of(votes(60, 3, 6, 2), 3)
    best = scored(shares[None], shares)
    assert best.kl == pytest.approx(0.0, abs=1e-6) and best.dist_ce == pytest.approx(0.0, abs=1e-6)
    assert best.expected_brier == pytest.approx(1 - float(shares.square().sum(-1).mean()))
    assert best.expected_accuracy == pytest.approx(float(shares.max(-1).values.mean()))
    for seed in range(5):
        other = scored(answers(60, 3, seed), shares)
        assert other.kl > best.kl and other.expected_brier > best.expected_brier
        assert other.expected_accuracy <= best.expected_accuracy and other.expected_nll > other.annotator_entropy


def test_shares_go_wherever_predictions_go() -> None:
    draws, shares = answers(12, 3, 3), shares_of(votes(12, 3, 5, 3), 3)
    predictions = bp.Predictions(draws.mean(0), draws, shares=shares)
    assert predictions.labels is not None and torch.equal(predictions.labels, shares.argmax(-1))
    for found in (predictions.first_draws(2), bp.Temperature(2.0)(predictions)):
        assert torch.equal(found.shares, shares) and torch.equal(found.labels, predictions.labels)


def test_scores_come_back_from_their_record() -> None:
    draws, shares = answers(12, 3, 3), shares_of(votes(12, 3, 5, 3), 3)
    for predictions in (
        bp.Predictions(draws.mean(0), draws, shares=shares),
        bp.Predictions(draws.mean(0), draws, labels=shares.argmax(-1)),
    ):
        metrics = bp.evaluate(predictions)
        record = metrics.to_dict()
        assert bp.Metrics.from_dict(record) == metrics
        assert ("expected_nll" in record) == (predictions.shares is not None)
    with pytest.raises(TypeError, match="recall"):
        bp.Metrics.from_dict(record | {"recall": 1.0})


def test_the_table_has_those_that_were_scored_so() -> None:
    draws, shares = answers(12, 2, 4), shares_of(votes(12, 2, 3, 4), 2)
    soft = bp.evaluate(bp.Predictions(draws.mean(0), draws, shares=shares))
    hard = dataclasses.replace(soft, annotators=None)
    assert metrics_table({"a": soft}) == metrics_table({"a": hard})
    assert annotators_table({"a": hard}) == ""
    lines = annotators_table({"a": hard, "b": soft}).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:-2]] == ["b"]
    assert soft.annotators is not None
    assert (
        f"{100 * soft.annotators.expected_accuracy:.1f} ± {100 * soft.annotators.expected_accuracy_se:.1f}" in lines[2]
    )
    assert lines[-1].startswith(f"The annotators' own entropy, {soft.annotators.annotator_entropy:.3f} nats")


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        (torch.tensor([[0.5, 0.5], [0.7, 0.7]]), "expected rows of shares that sum to 1; got a sum off by 0.4"),
        (torch.tensor([[0.5, 0.5], [1.5, -0.5]]), "expected shares of at least 0; got -0.5"),
        (torch.tensor([[0.5, 0.5], [math.nan, 1.0]]), "expected finite shares; got NaN"),
    ],
)
def test_rows_that_are_no_shares_are_refused(shares: Tensor, message: str) -> None:
    probs = torch.full((2, 2), 0.5)
    with pytest.raises(DataError, match=message):
        bp.evaluate(bp.Predictions(probs, probs[None], shares=shares))


def test_shares_of_another_shape_are_refused() -> None:
    probs = torch.full((2, 2), 0.5)
    with pytest.raises(ValueError, match=r"expected shares of shape \(2, 2\); got \(2, 3\)"):
        bp.Predictions(probs, probs[None], shares=torch.full((2, 3), 1 / 3))
