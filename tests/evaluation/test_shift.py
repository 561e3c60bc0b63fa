"""AUROC of uncertainties against counting pairs."""

from __future__ import annotations

import math

import pytest
import torch

from blob_pyro.errors import DataError
from blob_pyro.evaluation import auroc_out_of_distribution, mutual_information, predictive_entropy
from blob_pyro.evaluation.predictions import Predictions


def answers(n: int, num_classes: int, scale: float, seed: int, num_draws: int = 4) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(num_draws, n, num_classes, generator=generator).mul(scale).softmax(-1)
    return Predictions(draws.mean(0), draws)


def by_pairs(inside: list[float], outside: list[float]) -> float:
    """Share of pairs in which the outside item is the more uncertain one; ties are half a pair."""
    wins = [1.0 if o > i else 0.5 if o == i else 0.0 for i in inside for o in outside]
    return sum(wins) / len(wins)


@pytest.mark.parametrize("classes", [(2, 2), (4, 4), (4, 5)])
@pytest.mark.parametrize("seed", range(3))
def test_both_areas_are_shares_of_pairs(classes: tuple[int, int], seed: int) -> None:
    inside, outside = answers(40, classes[0], 3.0, seed), answers(23, classes[1], 1.0, seed + 100)
    found = auroc_out_of_distribution(inside, outside)
    entropies = [predictive_entropy(part.probs).tolist() for part in (inside, outside)]
    information = [mutual_information(part.draws).tolist() for part in (inside, outside)]
    assert found.entropy == pytest.approx(by_pairs(*entropies), abs=1e-6)
    assert found.mutual_information == pytest.approx(by_pairs(*information), abs=1e-6)
    assert (found.num_inside, found.num_outside) == (40, 23)


def test_entropies_above_one_nat_are_compared_as_they_are() -> None:
    # torchmetrics would put scores above 1 through a sigmoid in their own precision.
    near = torch.full((1, 5), 0.2)
    further = near + torch.tensor([1e-4, -1e-4, 0.0, 0.0, 0.0])
    found = auroc_out_of_distribution(Predictions(further, further[None]), Predictions(near, near[None]))
    assert predictive_entropy(near).item() > 1 and found.entropy == 1.0


def test_uniform_against_certain_is_perfect_and_turned_round_it_is_zero() -> None:
    certain, uniform = torch.eye(4), torch.full((3, 4), 0.25)
    one, other = Predictions(certain, certain[None]), Predictions(uniform, uniform[None])
    assert auroc_out_of_distribution(one, other).entropy == 1.0
    assert auroc_out_of_distribution(other, one).entropy == 0.0
    assert auroc_out_of_distribution(one, one).entropy == 0.5


def test_draws_that_agree_tell_nothing() -> None:
    # The mutual information of equal draws is 0 up to rounding, and rounding must not order the items.
    inside, outside = answers(50, 3, 3.0, 0, num_draws=1), answers(50, 3, 1.0, 1, num_draws=1)
    assert auroc_out_of_distribution(inside, outside).mutual_information == 0.5
    sevenfold = [Predictions(part.probs, part.draws.expand(7, -1, -1)) for part in (inside, outside)]
    assert any(0 < float(mutual_information(part.draws).max()) < 1e-12 for part in sevenfold)
    assert auroc_out_of_distribution(*sevenfold).mutual_information == 0.5


def test_what_cannot_be_compared_is_refused() -> None:
    good = answers(5, 3, 1.0, 0)
    empty = Predictions(good.probs[:0], good.draws[:, :0])
    for pair in ((good, empty), (empty, good)):
        with pytest.raises(DataError, match="expected at least one item"):
            auroc_out_of_distribution(*pair)
    with pytest.raises(DataError, match="expected finite draws"):
        auroc_out_of_distribution(good, Predictions(good.probs, good.draws * math.nan))
