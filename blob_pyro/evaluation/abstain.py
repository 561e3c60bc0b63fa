"""Selective prediction: answer what is sure enough for a target risk, and abstain from the rest."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from blob_pyro.errors import DataError
from blob_pyro.evaluation.checks import check_share, checked
from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.evaluation.scores import uncertainty

# Of 60 to 200 simulated items three starts answer more than one, four or log2 n do, and more than SGR's bisection.
NUM_STARTS = 3


@dataclass(frozen=True)
class Selection:
    """Answers the items whose uncertainty is below a threshold.

    The risk of a selection is the share of wrong answers among those that it gives.

    Attributes:
        score: name of the uncertainty, one of `SCORES`.
        threshold: items with an uncertainty below it are answered; infinite where all are, -infinite where none is.
        target_risk: the risk that was asked for.
        delta: how often, at most, such a selection misses the target on new items; None where nothing is promised.
        risk: that on the held-out items, which is lower than to be expected of new ones; NaN where none is answered.
        coverage: share of the held-out items that are answered.
        num_items: held-out items.
    """

    score: str
    threshold: float
    target_risk: float
    delta: float | None
    risk: float
    coverage: float
    num_items: int

    def __call__(self, predictions: Predictions) -> Tensor:
        """(n,) bool: which items are answered.

        Raises:
            DataError: as `uncertainty`.
        """
        return uncertainty(predictions, self.score) < self.threshold

    def __str__(self) -> str:
        """What it does on the held-out items, and what it promises of new ones."""
        certainty = "" if self.delta is None else f", with {_percent(1 - self.delta)} certainty"
        if self.coverage == 0:
            target = f"the risk at or below {_percent(self.target_risk)}{certainty}"
            return f"answers nothing: no threshold keeps {target}, by {self.num_items} held-out items"
        found = f"answers {_percent(self.coverage)} of {self.num_items} held-out items, {_percent(self.risk)} wrongly"
        if self.delta is None:
            return f"{found}; of new items above {_percent(self.target_risk)} wrongly about as often as not"
        return f"{found}; of new items at most {_percent(self.target_risk)} wrongly{certainty}"


def guaranteed_selection(
    held_out: Predictions, target_risk: float, delta: float = 0.05, *, score: str = "confidence"
) -> Selection:
    r"""The selection that answers most items of those whose risk is at most `target_risk` with certainty 1 - delta.

    .. math:: P(risk(selection) > target) \le delta

    over the draw of the held-out items, whatever the network, the score and its calibration, if the held-out items
    are independent draws of the law that new items come from and nothing was trained, tuned or calibrated on them.
    Where no threshold can be trusted, none is answered.

    A threshold is trusted where the e errors among the m items below it are too few for a risk above the target,
    P(Binomial(m, target) <= e) <= delta / 3: the exact binomial bound, corrected for three starts. From each start,
    places in the order of uncertainty spread over those that m can decide at all, thresholds rise by one item at a
    time for as long as each is trusted. Places are fixed by n alone and each walk ends at its first failure, so that
    no correction is needed for the steps of a walk, nor must the risk rise with coverage. An item at the threshold is
    not answered, so that those with equal uncertainty are answered together or not at all.

    Args:
        held_out: n labelled items that were not trained on, under the guide and draws to be used.
        target_risk: highest share of wrong answers among those given, in (0, 1).
        delta: how often the target may be missed over many sets of held-out items, in (0, 1).
        score: the uncertainty to threshold, one of `SCORES`.

    Raises:
        ConfigError: target_risk or delta is outside (0, 1), or there is no such score.
        DataError: n is too small for any threshold to be trusted, even without an error, or as `evaluate`.

    Source: selection with guaranteed risk (SGR), Geifman and El-Yaniv, Selective classification for deep neural
    networks, arXiv 1705.08500, section 3, whose bisection for the threshold tries log2 n of them; testing in a fixed
    sequence from several starts instead: Angelopoulos et al., Learn then test, arXiv 2110.01052.

    Example:
        >>> confidence = torch.linspace(0.99, 0.51, 200)
        >>> probs = torch.stack((confidence, 1 - confidence), -1)
        >>> labels = (torch.arange(200) >= 120).long()  # right on the 120 surest
        >>> selection = guaranteed_selection(Predictions(probs, probs[None], labels), target_risk=0.1)
        >>> print(selection)
        answers 62.5 % of 200 held-out items, 4 % wrongly; of new items at most 10 % wrongly, with 95 % certainty
    """
    check_share("target_risk", target_risk)
    check_share("delta", delta)
    order = _Order.of(held_out, score)
    n = len(order.values)
    check_enough(n, target_risk, delta)
    found = 0
    for start in torch.linspace(fewest_items(target_risk, delta), n, NUM_STARTS).round().long().tolist():
        place = start
        # a start inside the last walk would end where that did
        while found < place <= n and _tail(*order.below(place), target_risk) <= delta / NUM_STARTS:
            found, place = place, place + 1
    return order.selection(found, score, target_risk, delta)


def empirical_selection(held_out: Predictions, target_risk: float, *, score: str = "confidence") -> Selection:
    """The selection that answers most held-out items at a risk of at most `target_risk` on these same items.

    It describes the held-out items and promises nothing: being the best of all thresholds on these items it looks
    better than it is, and on new items its risk is above the target about as often as not. Where that matters, take
    `guaranteed_selection`.

    Args:
        held_out: n labelled items that were not trained on.
        target_risk: highest share of wrong answers among those given, in (0, 1).
        score: the uncertainty to threshold, one of `SCORES`.

    Raises:
        ConfigError: target_risk is outside (0, 1), or there is no such score.
        DataError: as `evaluate`.

    Example:
        >>> probs = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
        >>> held_out = Predictions(probs, probs[None], labels=torch.tensor([0, 0, 1, 1]))
        >>> selection = empirical_selection(held_out, target_risk=0.4)
        >>> selection(held_out).tolist(), round(selection.risk, 3)
        ([True, True, True, False], 0.333)
    """
    check_share("target_risk", target_risk)
    order = _Order.of(held_out, score)
    met = [place for place in range(len(order.values) + 1) if order.risk(place) <= target_risk]
    return order.selection(max(met, default=0), score, target_risk, None)


def check_enough(n: int, target_risk: float, delta: float) -> None:
    """Raise unless `guaranteed_selection` can answer something by n held-out items.

    Raises:
        DataError: it cannot, even if all of them are answered rightly.
    """
    if n < (fewest := fewest_items(target_risk, delta)):
        raise DataError(
            f"held-out items: expected at least {fewest} for a risk of at most {target_risk:g} with delta {delta:g}; "
            f"got {n}: hold out more, or allow a higher risk"
        )


def fewest_items(target_risk: float, delta: float) -> int:
    """The smallest number of held-out items with which `guaranteed_selection` can answer any.

    These are so many that, without any error among them, a higher risk than the target is unlikely enough.

    Example:
        >>> fewest_items(0.1, 0.05)
        39
    """
    return math.ceil(math.log(delta / NUM_STARTS) / math.log1p(-target_risk))


@dataclass(frozen=True)
class _Order:
    """Held-out items by rising uncertainty. Place i answers those strictly below item i; place n answers all.

    Attributes:
        values: (n,) uncertainties.
        errors: (n + 1,) wrong answers among the first i items.
    """

    values: Tensor
    errors: Tensor

    @classmethod
    def of(cls, held_out: Predictions, score: str) -> _Order:
        probs, labels = checked(held_out)
        values, order = uncertainty(held_out, score).sort(stable=True)
        wrong = (probs.max(-1).indices != labels)[order].long()
        return cls(values, torch.cat((torch.zeros(1, dtype=torch.long), wrong.cumsum(0))))

    def threshold(self, place: int) -> float:
        return float(self.values[place]) if place < len(self.values) else math.inf

    def below(self, place: int) -> tuple[int, int]:
        """How many items a place answers, and how many of them wrongly."""
        count = int((self.values < self.threshold(place)).sum())
        return count, int(self.errors[count])

    def risk(self, place: int) -> float:
        count, errors = self.below(place)
        return errors / count if count else math.nan

    def selection(self, place: int, score: str, target_risk: float, delta: float | None) -> Selection:
        count, _ = self.below(place)
        threshold = self.threshold(place) if count else -math.inf
        n = len(self.values)
        return Selection(score, threshold, target_risk, delta, self.risk(place), count / n, n)


def _tail(count: int, errors: int, risk: float) -> float:
    """P(Binomial(count, risk) <= errors)."""
    law = torch.distributions.Binomial(count, probs=torch.tensor(risk, dtype=torch.float64), validate_args=False)
    return float(law.log_prob(torch.arange(errors + 1, dtype=torch.float64)).logsumexp(0).exp())


def _percent(share: float) -> str:
    return f"{100 * share:.3g} %"
