"""Selections against a loop in exact fractions, and their promise against every data set there can be."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction
from typing import Any

import pytest
import torch

from blob_pyro.errors import ConfigError, DataError
from blob_pyro.evaluation import Selection, empirical_selection, evaluate, guaranteed_selection, risk_coverage
from blob_pyro.evaluation.abstain import fewest_items
from blob_pyro.evaluation.predictions import Predictions


def of_confidences(confidences: list[float], correct: list[bool]) -> Predictions:
    """Two-class predictions of class 0 with these confidences (at least 0.5)."""
    first = torch.tensor(confidences)
    probs = torch.stack((first, 1 - first), -1)
    return Predictions(probs, probs[None], torch.tensor([0 if right else 1 for right in correct]))


def random_answers(n: int, seed: int, levels: int | None = None) -> Predictions:
    """Calibrated two-class answers, their confidences on a few levels if given."""
    generator = torch.Generator().manual_seed(seed)
    confidence = 0.5 + 0.5 * torch.rand(n, generator=generator).sqrt()
    if levels is not None:
        confidence = (confidence * levels).round() / levels
    right = torch.rand(n, generator=generator) < confidence
    return of_confidences(confidence.tolist(), right.tolist())


def tail(count: int, errors: int, risk: Fraction) -> Fraction:
    """P(Binomial(count, risk) <= errors), exactly."""
    return sum(
        (math.comb(count, j) * risk**j * (1 - risk) ** (count - j) for j in range(errors + 1)), start=Fraction(0)
    )


def by_walks(predictions: Predictions, target_risk: float, delta: float) -> list[bool]:
    """The guaranteed selection, place by place and in exact fractions, every start walked on its own."""
    confidence = predictions.probs[:, 0].tolist()
    wrong = predictions.labels.tolist() if predictions.labels is not None else []
    n, target = len(confidence), Fraction(repr(target_risk))
    level = Fraction(repr(delta)) / 3
    falling = sorted(confidence, reverse=True)

    def answered(place: int) -> list[bool]:
        return [place == n or c > falling[place] for c in confidence]

    def trusted(place: int) -> bool:
        chosen = answered(place)
        errors = sum(w for w, c in zip(wrong, chosen, strict=True) if c)
        return tail(sum(chosen), errors, target) <= level

    first = next(m for m in itertools.count(1) if (1 - target) ** m <= level)
    best = 0
    for place in (first, round((first + n) / 2), n):
        while place <= n and trusted(place):
            best, place = max(best, place), place + 1
    return answered(best) if best else [False] * n


@pytest.mark.parametrize("levels", [None, 40, 12])
@pytest.mark.parametrize("case", [(60, 0.2, 0.1), (137, 0.18, 0.05), (200, 0.25, 0.3), (64, 0.4, 0.02)])
def test_the_guaranteed_selection_is_that_of_the_naive_walks(
    case: tuple[int, float, float], levels: int | None
) -> None:
    n, target_risk, delta = case
    kept = []
    for seed in range(4):
        predictions = random_answers(n, seed, levels)
        selection = guaranteed_selection(predictions, target_risk, delta)
        assert selection(predictions).tolist() == by_walks(predictions, target_risk, delta)
        kept.append(selection.coverage)
    assert max(kept) > 0


@pytest.mark.parametrize("seed", range(3))
def test_the_empirical_selection_is_the_largest_that_meets_the_target(seed: int) -> None:
    predictions = random_answers(80, seed, levels=30)
    confidence, wrong = predictions.probs[:, 0], predictions.labels
    assert wrong is not None
    met = [0]
    for threshold in confidence.unique():
        chosen = confidence >= threshold
        if float(wrong[chosen].double().mean()) <= 0.15:
            met.append(int(chosen.sum()))
    selection = empirical_selection(predictions, 0.15)
    assert int(selection(predictions).sum()) == max(met) > 0


@pytest.mark.parametrize("build", [guaranteed_selection, empirical_selection])
def test_risk_and_coverage_are_those_of_the_answered_held_out_items(build: Any) -> None:
    predictions = random_answers(200, 5, levels=50)
    selection = build(predictions, 0.15)
    chosen = selection(predictions)
    assert predictions.labels is not None and 0 < int(chosen.sum()) < 200
    assert selection.coverage == pytest.approx(float(chosen.double().mean()))
    assert selection.risk == pytest.approx(float(predictions.labels[chosen].double().mean()))
    assert selection.num_items == 200
    curve = risk_coverage(predictions)
    assert float(curve.risk[int(chosen.sum()) - 1]) == pytest.approx(selection.risk)


# --- the promise ---


def data_sets(n: int, cells: int) -> list[tuple[int, ...]]:
    """Every way to put n items into cells."""
    bars = itertools.combinations(range(n + cells - 1), cells - 1)
    return [tuple(b - a - 1 for a, b in itertools.pairwise((-1, *bar, n + cells - 1))) for bar in bars]


@pytest.mark.slow
def test_the_target_is_missed_at_most_as_often_as_said_whatever_the_law() -> None:
    """Exactly: every data set of 8 items on 3 confidences, under laws whose risk may rise or fall with coverage.

    All probabilities are sums over all data sets, so that nothing is left to chance.
    """
    n, target, delta, levels = 8, 0.45, 0.2, (0.9, 0.8, 0.7)
    sets = data_sets(n, 6)  # of each confidence the right and the wrong ones
    chosen = []
    for counts in sets:
        confidences = [levels[i // 2] for i, count in enumerate(counts) for _ in range(count)]
        right = [i % 2 == 0 for i, count in enumerate(counts) for _ in range(count)]
        selection = guaranteed_selection(of_confidences(confidences, right), target, delta)
        probes = of_confidences(list(levels), [True, True, True])
        chosen.append(selection(probes).tolist())
    orders = torch.tensor([math.factorial(n) / math.prod(map(math.factorial, counts)) for counts in sets]).double()
    table, answers = torch.tensor(sets).double(), torch.tensor(chosen).double()
    missed_most = 0.0
    for masses in ((0.4, 0.3, 0.3), (0.7, 0.2, 0.1), (0.85, 0.1, 0.05), (0.5, 0.49, 0.01)):
        for risks in itertools.product((0.0, 0.35, 0.46, 0.6, 1.0), repeat=3):
            mass, risk = torch.tensor(masses).double(), torch.tensor(risks).double()
            cells = torch.stack((mass * (1 - risk), mass * risk), -1).flatten()
            probability = orders * (cells**table).prod(-1)
            assert float(probability.sum()) == pytest.approx(1)
            answered = (answers * mass).sum(-1)
            too_risky = (answers * mass * risk).sum(-1) > target * answered + 1e-12
            missed = float(probability[too_risky].sum())
            missed_most = max(missed_most, missed)
            assert missed <= delta
    assert missed_most > delta / 4, "no law came near the target, so that nothing was tested"


def missed(build: Any, target: float, num_sets: int, n: int) -> int:
    """How many of many held-out sets give a selection whose true risk is above the target.

    Confidence c = (1 + sqrt U) / 2 is right with probability c, so that answers with c above t have a risk of
    integral_t^1 (1 - c) 8 (c - 1/2) dc / (1 - 4 (t - 1/2)^2).
    """
    count = 0
    for seed in range(num_sets):
        selection = build(random_answers(n, seed + 1000), target)
        above = max(1 - selection.threshold, 0.5) - 0.5  # in terms of x = c - 1/2
        if selection.coverage:
            errors = 8 * ((0.5 * 0.5**2 / 2 - 0.5**3 / 3) - (0.5 * above**2 / 2 - above**3 / 3))
            count += errors / (1 - 4 * above**2) > target
    return count


@pytest.mark.slow
def test_on_new_items_the_guaranteed_target_holds_and_the_empirical_one_does_not() -> None:
    """300 held-out sets of 150 items, delta 0.05, fixed seeds.

    Were the target missed with a probability of 0.05, more than 27 misses would come with a probability of 0.001.
    """
    assert missed(guaranteed_selection, 0.12, 300, 150) <= 27
    assert missed(empirical_selection, 0.12, 300, 150) > 90


# --- the edges ---


def test_equal_confidences_are_answered_together() -> None:
    confidences = [0.99] * 50 + [0.9] * 30 + [0.6] * 20
    correct = [True] * 50 + [True] * 15 + [False] * 15 + [False] * 20
    for order in (list(range(100)), list(reversed(range(100)))):
        predictions = of_confidences([confidences[i] for i in order], [correct[i] for i in order])
        for selection in (guaranteed_selection(predictions, 0.1, 0.1), empirical_selection(predictions, 0.1)):
            assert selection(predictions).tolist() == [confidences[i] == 0.99 for i in order]
            assert (selection.risk, selection.coverage) == (0.0, 0.5)


def test_all_right_answers_everything_even_less_sure_new_items() -> None:
    predictions = of_confidences([0.9] * 60, [True] * 60)
    selection = guaranteed_selection(predictions, 0.1)
    assert selection.threshold == math.inf and selection.coverage == 1.0
    assert selection(of_confidences([0.5], [True])).all()


def test_all_wrong_answers_nothing_and_says_so() -> None:
    predictions = of_confidences([0.9, 0.8] * 40, [False] * 80)
    for selection in (guaranteed_selection(predictions, 0.1), empirical_selection(predictions, 0.1)):
        assert not selection(of_confidences([1.0], [True])).any()
        assert selection.coverage == 0.0 and math.isnan(selection.risk)
        assert str(selection).startswith("answers nothing: no threshold keeps the risk at or below 10 %")
    assert "with 95 % certainty, by 80 held-out items" in str(guaranteed_selection(predictions, 0.1))


def test_too_few_items_are_refused_and_the_number_named_is_enough() -> None:
    for target_risk, delta in ((0.1, 0.05), (0.01, 0.1), (0.5, 0.5)):
        fewest = fewest_items(target_risk, delta)
        right = of_confidences([0.9] * fewest, [True] * fewest)
        assert guaranteed_selection(right, target_risk, delta).coverage == 1.0
        if fewest > 1:
            fewer = of_confidences([0.9] * (fewest - 1), [True] * (fewest - 1))
            with pytest.raises(DataError, match=f"held-out items: expected at least {fewest} for a risk of at most"):
                guaranteed_selection(fewer, target_risk, delta)


def test_other_scores_select_by_their_own_order() -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.randn(5, 120, 3, generator=generator).mul(2).softmax(-1)
    probs = draws.mean(0)
    predictions = Predictions(probs, draws, probs.argmax(-1))
    right = Predictions(
        probs, draws, torch.where(probs.max(-1).values > 0.5, probs.argmax(-1), (probs.argmax(-1) + 1) % 3)
    )
    assert evaluate(right).accuracy < 1
    for score in ("confidence", "margin", "entropy", "bald"):
        assert empirical_selection(predictions, 0.1, score=score).coverage == 1.0
        assert empirical_selection(right, 0.1, score=score).score == score
    assert empirical_selection(right, 1e-6).coverage > empirical_selection(right, 1e-6, score="bald").coverage


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.5, math.nan])
def test_shares_outside_their_range_are_refused(value: float) -> None:
    predictions = random_answers(60, 0)
    for build in (guaranteed_selection, empirical_selection):
        with pytest.raises(ConfigError, match="target_risk: expected a number between 0 and 1; got"):
            build(predictions, value)
    with pytest.raises(ConfigError, match="delta: expected a number between 0 and 1; got"):
        guaranteed_selection(predictions, 0.2, value)


def test_predictions_without_labels_are_refused() -> None:
    predictions = random_answers(60, 0)
    with pytest.raises(DataError, match="expected labels; got None"):
        guaranteed_selection(Predictions(predictions.probs, predictions.draws), 0.2)


def test_what_it_says_names_what_it_promises() -> None:
    told = str(Selection("confidence", 0.2, 0.1, 0.05, 0.03, 0.5, 60))
    assert (
        told == "answers 50 % of 60 held-out items, 3 % wrongly; of new items at most 10 % wrongly, with 95 % certainty"
    )
    told = str(Selection("confidence", 0.2, 0.1, None, 0.03, 0.5, 60))
    assert told.endswith("of new items above 10 % wrongly about as often as not")
