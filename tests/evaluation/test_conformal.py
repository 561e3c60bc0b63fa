"""Conformal sets against loops, and their coverage: exactly, by leaving each item out in turn, and by simulation."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch

from blob_pyro.errors import ConfigError, DataError
from blob_pyro.evaluation import SET_SCORES, fit_conformal
from blob_pyro.evaluation.predictions import Predictions


def random_answers(n: int, seed: int, num_classes: int = 4, levels: int | None = None) -> Predictions:
    """Answers that know something of the labels, and are overconfident; of a few levels if given, so that many tie."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (n,), generator=generator)
    logits = torch.randn(n, num_classes, generator=generator)
    logits[torch.arange(n), labels] += 1
    probs = (2 * logits).softmax(-1)
    if levels is not None:
        probs = (probs * levels).round() + 1
        probs = probs / probs.sum(-1, keepdim=True)
    return Predictions(probs, probs[None], labels)


def part(predictions: Predictions, keep: list[int]) -> Predictions:
    assert predictions.labels is not None
    return Predictions(predictions.probs[keep], predictions.draws[:, keep], predictions.labels[keep])


def naive_score(name: str, probs: list[float], label: int) -> float:
    if name == "lac":
        return 1 - probs[label]
    return math.fsum(p for p in probs if p > probs[label])


def naive_sets(name: str, held_out: Predictions, new: Predictions, coverage: str) -> list[list[bool]]:
    """Which classes have a score that few enough held-out items have a lower one than."""
    assert held_out.labels is not None
    rows = held_out.probs.double().tolist()
    scores = sorted(naive_score(name, row, label) for row, label in zip(rows, held_out.labels.tolist(), strict=True))
    rank = math.ceil((len(scores) + 1) * Fraction(coverage))
    limit = math.inf if rank > len(scores) else scores[rank - 1]
    return [
        [naive_score(name, row, k) <= limit + 1e-12 for k in range(len(row))] for row in new.probs.double().tolist()
    ]


@pytest.mark.parametrize("levels", [None, 5])
@pytest.mark.parametrize("coverage", ["0.5", "0.8", "0.9", "0.95"])
@pytest.mark.parametrize("score", sorted(SET_SCORES))
def test_sets_are_those_of_a_loop_over_items_and_classes(score: str, coverage: str, levels: int) -> None:
    held_out, new = random_answers(57, 0, levels=levels), random_answers(80, 1, levels=levels)
    sets = fit_conformal(held_out, float(coverage), score=score)(new)
    assert sets.dtype == torch.bool and sets.shape == (80, 4)
    assert sets.tolist() == naive_sets(score, held_out, new, coverage)
    assert 0 < int(sets.sum()) < sets.numel()


@pytest.mark.parametrize("coverage", ["0.3", "0.55", "0.75", "0.9"])
@pytest.mark.parametrize(("score", "levels"), [("lac", None), ("lac", 5), ("aps", None), ("aps", 5)])
def test_leaving_each_item_out_covers_exactly_the_share_of_the_rank(score: str, levels: int, coverage: str) -> None:
    """Exchangeable items are each the new one equally often, so this share is the finite-sample coverage itself."""
    n = 41
    everyone = random_answers(n, 3, levels=levels)
    assert everyone.labels is not None
    covered = 0
    for new in range(n):
        held_out = part(everyone, [i for i in range(n) if i != new])
        sets = fit_conformal(held_out, float(coverage), score=score)(part(everyone, [new]))
        covered += bool(sets[0, everyone.labels[new]])
    rank = math.ceil(n * Fraction(coverage))
    if (score, levels) == ("lac", None):  # the scores of lac differ; many of aps are 0
        assert covered == rank
    assert covered >= rank


@pytest.mark.parametrize("score", sorted(SET_SCORES))
def test_the_coverage_of_new_items_is_what_was_asked_for(score: str) -> None:
    """800 held-out sets of 30 items, 50 new items each, fixed seeds.

    The coverage of a set varies by Beta(28, 3), with a standard deviation of 0.052; the mean over 800 is below 0.9
    by 0.0085 (four standard errors, with the new items' own chance) with a probability of 3e-5.
    """
    covered = []
    for seed in range(800):
        items = random_answers(80, 5000 + seed)
        assert items.labels is not None
        new = part(items, list(range(30, 80)))
        sets = fit_conformal(part(items, list(range(30))), 0.9, score=score)(new)
        covered.append(float(sets.gather(1, items.labels[30:, None]).double().mean()))
    mean = torch.tensor(covered).mean()
    assert mean > 0.9 - 0.0085
    if score == "lac":  # exactly 28 / 31, as scores do not tie
        assert float(mean) == pytest.approx(28 / 31, abs=0.0085)


def test_the_spread_that_is_told_is_that_of_the_coverage() -> None:
    held_out = random_answers(99, 0)
    law = torch.distributions.Beta(torch.tensor(90.0), torch.tensor(10.0))
    assert f"± {100 * float(law.stddev):.2g} % by the chance in 99 held-out items" in str(fit_conformal(held_out, 0.9))


@pytest.mark.parametrize(("coverage", "fewest"), [(0.9, 9), (0.95, 19), (0.55, 2), (0.5, 1)])
def test_too_few_items_give_every_class_and_say_so(coverage: float, fewest: int) -> None:
    assert not fit_conformal(random_answers(fewest, 0), coverage).is_trivial
    if fewest == 1:
        return
    sets = fit_conformal(random_answers(fewest - 1, 0), coverage)
    assert sets.is_trivial and sets(random_answers(20, 1)).all()
    told = f"{fewest - 1} held-out items are too few for a coverage of {coverage:g} (at least {fewest})"
    assert str(sets) == f"{told}: every set has all classes"


def test_the_rank_is_that_of_the_decimal_number() -> None:
    """0.55 * 100 is 55.00000000000001 in floating point: the 55th of 99 scores is meant."""
    confidence = torch.linspace(0.95, 0.05, 99)
    probs = torch.stack((confidence, 1 - confidence), -1)
    held_out = Predictions(probs, probs[None], torch.zeros(99, dtype=torch.long))
    assert fit_conformal(held_out, 0.55).quantile == 1 - float(confidence.double()[54])


def test_the_most_probable_class_is_in_every_set_of_aps_and_a_set_of_lac_may_be_empty() -> None:
    held_out, new = random_answers(200, 0), random_answers(200, 1)
    for coverage in (0.1, 0.5, 0.9):
        sets = fit_conformal(held_out, coverage, score="aps")(new)
        assert sets.gather(1, new.probs.argmax(-1, keepdim=True)).all()
    assert not fit_conformal(held_out, 0.1)(new).any(-1).all()


def test_equally_probable_classes_are_in_a_set_together() -> None:
    probs = torch.tensor([[0.4, 0.2, 0.2, 0.2], [0.25, 0.25, 0.25, 0.25]])
    new = Predictions(probs, probs[None])
    for score in SET_SCORES:
        for coverage in (0.2, 0.5, 0.8, 0.9):
            sets = fit_conformal(random_answers(30, 2), coverage, score=score)(new)
            assert sets[0, 1] == sets[0, 2] == sets[0, 3]
            assert sets[1].all() or not sets[1].any()


def test_what_cannot_be_is_refused() -> None:
    predictions = random_answers(20, 0)
    for coverage in (0, 1, -0.5, 90, math.nan):
        with pytest.raises(ConfigError, match="coverage: expected a number between 0 and 1; got"):
            fit_conformal(predictions, coverage)
    with pytest.raises(ConfigError, match="set score: expected one of lac, aps; got 'raps'"):
        fit_conformal(predictions, 0.9, score="raps")
    with pytest.raises(DataError, match="expected labels; got None"):
        fit_conformal(Predictions(predictions.probs, predictions.draws))
