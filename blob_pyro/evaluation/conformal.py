"""Split conformal prediction: sets of classes that hold the true one as often as asked, whatever the network."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from blob_pyro.config.checks import unknown_name
from blob_pyro.evaluation.checks import check_probabilities, check_share, checked
from blob_pyro.evaluation.predictions import Predictions


@dataclass(frozen=True)
class ConformalSets:
    """Turns predictions into sets of classes: those whose score is at most a quantile of held-out ones.

    Attributes:
        coverage: the share of new items whose set is to hold the true class, 1 - alpha.
        score: name of the score, one of `SET_SCORES`.
        quantile: largest score of a class in a set; infinite where there are too few held-out items.
        num_items: held-out items n.
    """

    coverage: float
    score: str
    quantile: float
    num_items: int

    def __call__(self, predictions: Predictions) -> Tensor:
        """(n, K) bool: which classes are in the set of each item.

        Raises:
            DataError: there are no items, or a row of probabilities is not one, as in `evaluate`.
        """
        check_probabilities(predictions)
        return SET_SCORES[self.score](predictions.probs.detach().cpu().double()) <= self.quantile

    @property
    def is_trivial(self) -> bool:
        """Whether every set has all classes, since there are too few held-out items for this coverage."""
        return math.isinf(self.quantile)

    def __str__(self) -> str:
        """What it promises, and how far chance moves that for the held-out items at hand."""
        if self.is_trivial:
            fewest = math.ceil(_exact(self.coverage) / (1 - _exact(self.coverage)))
            return (
                f"{self.num_items} held-out items are too few for a coverage of {self.coverage:g} (at least {fewest}): "
                "every set has all classes"
            )
        rank, n = _rank(self.num_items, self.coverage), self.num_items
        spread = math.sqrt(rank * (n + 1 - rank) / (n + 2)) / (n + 1)
        return (
            f"sets hold the true class of at least {100 * self.coverage:g} % of new items, "
            f"± {100 * spread:.2g} % by the chance in {n} held-out items"
        )


def fit_conformal(held_out: Predictions, coverage: float = 0.9, *, score: str = "lac") -> ConformalSets:
    r"""The sets that hold the true class of a new item with at least the probability `coverage`.

    .. math:: P(y \in set(x)) \ge coverage

    over new item and held-out items together, whatever the network and its calibration, if they are exchangeable
    (independent draws of one law, say) and nothing was trained, tuned or calibrated on the held-out ones. It is an
    average over items: hard ones may be covered less often than easy ones. For the held-out items at hand the coverage
    of new ones varies by Beta(k, n + 1 - k), which ``str`` tells the standard deviation of; it is not above coverage +
    1 / (n + 1) on average unless scores tie.

    The quantile is the k-th smallest score of the held-out items' true classes, k = ceil((n + 1) coverage); for k > n
    it is infinite, and every set has all classes. Scores of class y:

    - "lac": 1 - p_y. The smallest sets on average. A set can be empty, where no class is probable enough; that comes
      with a coverage below the accuracy.
    - "aps": the probability of all classes more probable than y. Sets follow the difficulty of the item, and the most
      probable class is in each. Not randomised (U = 1 in the paper's equations), so that the coverage may be higher.

    Args:
        held_out: n labelled items that were not trained on, under the guide and draws to be used.
        coverage: 1 - alpha, in (0, 1).
        score: "lac" or "aps".

    Raises:
        ConfigError: coverage is outside (0, 1), or there is no such score.
        DataError: as `evaluate`.

    Source: Vovk, Gammerman and Shafer 2005, Algorithmic learning in a random world; Sadinle, Lei and Wasserman,
    arXiv 1609.00451 (LAC); Romano, Sesia and Candès, arXiv 2006.02544 (APS); Angelopoulos and Bates, A gentle
    introduction, arXiv 2107.07511 (the law of the coverage, and a proof).

    Example:
        >>> probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.4, 0.6]])
        >>> held_out = Predictions(probs, probs[None], labels=torch.tensor([0, 0, 0, 0]))
        >>> sets = fit_conformal(held_out, coverage=0.6)
        >>> round(sets.quantile, 4), sets(held_out).tolist()[2:]
        (0.3, [[True, False], [False, False]])
        >>> fit_conformal(held_out, coverage=0.9).is_trivial
        True
    """
    check_share("coverage", coverage)
    check_set_score(score)
    probs, labels = checked(held_out)
    scores = SET_SCORES[score](probs).gather(1, labels[:, None])[:, 0].sort().values
    rank = _rank(len(labels), coverage)
    quantile = math.inf if rank > len(labels) else float(scores[rank - 1])
    return ConformalSets(coverage, score, quantile, len(labels))


def check_set_score(score: str) -> None:
    """Raise unless there is such a score.

    Raises:
        ConfigError: names those there are.
    """
    if score not in SET_SCORES:
        raise unknown_name("set score", SET_SCORES, score)


def _rank(n: int, coverage: float) -> int:
    """ceil((n + 1) coverage) of the decimal number that was written: in binary 0.55 * 100 is above 55."""
    return math.ceil((n + 1) * _exact(coverage))


def _exact(coverage: float) -> Fraction:
    return Fraction(repr(float(coverage)))


def _lac(probs: Tensor) -> Tensor:
    """(n, K) 1 - p_k."""
    return 1 - probs


def _aps(probs: Tensor) -> Tensor:
    """(n, K) sum of the probabilities above p_k; classes of equal probability have equal scores."""
    falling = probs.sort(-1, descending=True).values
    above = torch.nn.functional.pad(falling.cumsum(-1), (1, 0))
    return above.gather(-1, torch.searchsorted(-falling, -probs))


SET_SCORES: dict[str, Callable[[Tensor], Tensor]] = {"lac": _lac, "aps": _aps}
