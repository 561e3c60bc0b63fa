"""Uncertainty scores, what is acquired by them, and p-values of being of another kind, each against a loop."""

from __future__ import annotations

import math

import pytest
import torch

from blob_pyro.errors import ConfigError, DataError
from blob_pyro.evaluation import SCORES, acquire, ood_p_values, uncertainty
from blob_pyro.evaluation.predictions import Predictions


def answers(n: int, seed: int, scale: float = 2.0, num_draws: int = 4) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(num_draws, n, 3, generator=generator).mul(scale).softmax(-1)
    return Predictions(draws.mean(0), draws)


def entropy(probs: list[float]) -> float:
    return -math.fsum(p * math.log(p) for p in probs)


def naive(score: str, predictions: Predictions, item: int) -> float:
    probs = predictions.probs[item].double().tolist()
    rising = sorted(probs)
    draws = predictions.draws[:, item].double()
    return {
        "confidence": 1 - rising[-1],
        "margin": 1 - rising[-1] + rising[-2],
        "entropy": entropy(probs),
        "bald": entropy(draws.mean(0).tolist()) - sum(map(entropy, draws.tolist())) / len(draws),
    }[score]


@pytest.mark.parametrize("score", SCORES)
def test_a_score_is_that_of_its_definition(score: str) -> None:
    predictions = answers(50, 0)
    found = uncertainty(predictions, score)
    assert found.dtype == torch.float64
    assert found.tolist() == pytest.approx([naive(score, predictions, item) for item in range(50)], abs=1e-9)


@pytest.mark.parametrize("score", SCORES)
def test_certainty_is_0_and_an_even_answer_the_highest(score: str) -> None:
    sure = torch.eye(3)
    draws = torch.stack((sure, sure.roll(1, 0), sure.roll(2, 0)))  # of one mind each, and of different minds
    one_mind, even = sure.expand(3, 3, 3), Predictions(draws.mean(0), draws)
    highest = {"confidence": 2 / 3, "margin": 1.0, "entropy": math.log(3), "bald": math.log(3)}[score]
    assert uncertainty(Predictions(one_mind.mean(0), one_mind), score).tolist() == [0.0] * 3
    assert uncertainty(even, score).tolist() == pytest.approx([highest] * 3)


@pytest.mark.parametrize("score", SCORES)
def test_acquired_are_the_most_uncertain_in_order(score: str) -> None:
    predictions = answers(30, 1)
    values = uncertainty(predictions, score).tolist()
    found = acquire(predictions, 7, score)
    assert found.index.tolist() == sorted(range(30), key=lambda i: (-values[i], i))[:7]
    assert found.scores.tolist() == [values[i] for i in found.index.tolist()]
    assert sorted(acquire(predictions, 30, score).index.tolist()) == list(range(30))


def test_of_equals_the_first_are_acquired() -> None:
    one = answers(1, 2)
    same = Predictions(one.probs.repeat(9, 1), one.draws.repeat(1, 9, 1))
    for score in SCORES:
        assert acquire(same, 4, score).index.tolist() == [0, 1, 2, 3]


def test_bald_prefers_disagreement_to_ambiguity() -> None:
    draws = torch.tensor([[[0.5, 0.5], [0.9, 0.1]], [[0.5, 0.5], [0.3, 0.7]]])
    predictions = Predictions(draws.mean(0), draws)
    assert acquire(predictions, 1, "bald").index.tolist() == [1]
    assert acquire(predictions, 1, "entropy").index.tolist() == [0]


def test_bald_of_draws_that_cannot_disagree_is_refused() -> None:
    single, agreeing = answers(6, 0, num_draws=1), answers(6, 0, num_draws=1).draws.expand(7, -1, -1)
    with pytest.raises(ConfigError, match="score 'bald': expected at least 2 posterior draws, .*; got 1"):
        acquire(single, 2)
    # what rounding leaves of their mutual information must not pass for disagreement
    with pytest.raises(ConfigError, match="score 'bald': expected draws that disagree on some item; got 7 that agree"):
        acquire(Predictions(agreeing.mean(0), agreeing), 2)
    assert len(acquire(single, 2, "entropy").index) == 2


def test_what_cannot_be_acquired_is_refused() -> None:
    predictions = answers(5, 0)
    for k in (0, -1, 6):
        with pytest.raises(ConfigError, match=f"k: expected 1 to 5, the number of items; got {k}"):
            acquire(predictions, k)
    with pytest.raises(ConfigError, match="score: expected one of confidence, margin, entropy, bald; got 'variance'"):
        acquire(predictions, 2, "variance")
    with pytest.raises(DataError, match="expected at least one item"):
        acquire(Predictions(predictions.probs[:0], predictions.draws[:, :0]), 1)


@pytest.mark.parametrize("score", SCORES)
def test_p_values_count_the_held_out_items_that_are_as_unsure(score: str) -> None:
    held_out, new = answers(40, 0), answers(25, 1, scale=1.0)
    # some exactly as unsure as held-out ones
    draws = torch.cat((new.draws, held_out.draws[:, :5]), 1)
    new = Predictions(draws.mean(0), draws)
    inside, scores = uncertainty(held_out, score).tolist(), uncertainty(new, score).tolist()
    expected = [(1 + sum(other >= own for other in inside)) / 41 for own in scores]
    assert ood_p_values(held_out, new, score).tolist() == pytest.approx(expected)


def test_p_values_of_items_of_the_same_kind_are_as_small_as_chance_has_it() -> None:
    """Exactly: each of 40 exchangeable items in turn is the new one; their p-values are then 1/40, 2/40, ..., 1."""
    everyone = answers(40, 7)
    found = []
    for new in range(40):
        keep = [i for i in range(40) if i != new]
        held_out = Predictions(everyone.probs[keep], everyone.draws[:, keep])
        found += ood_p_values(held_out, Predictions(everyone.probs[[new]], everyone.draws[:, [new]])).tolist()
    assert sorted(found) == pytest.approx([i / 40 for i in range(1, 41)])


def test_p_values_of_less_sure_items_are_smaller() -> None:
    held_out, outside = answers(300, 0, scale=4.0), answers(300, 1, scale=0.5)
    assert (
        ood_p_values(held_out, outside).mean() < 0.1 < 0.4 < ood_p_values(held_out, answers(300, 2, scale=4.0)).mean()
    )
