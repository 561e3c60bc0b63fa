"""Scores against annotators who disagree: what is expected of an answer when one of them is asked at random."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from torch import Tensor

from blob_pyro.evaluation.bins import bin_index, bootstrap_ece_se, standard_error, summed_gaps
from blob_pyro.evaluation.checks import SMALLEST_PROB
from blob_pyro.evaluation.scores import predictive_entropy


@dataclass(frozen=True)
class AnnotatorMetrics:
    r"""Scores of n predictions p against the shares q of the annotators for each class.

    The expected scores are those of `Metrics` with a label drawn from q: the mean over all annotators of an item, and
    over the items. Where all annotators of every item agree, they are those of `Metrics`.

    Attributes:
        expected_accuracy: mean share of the annotators who agree with the most probable class (the first, on ties).
            No answer has more than the mean largest share.
        expected_nll: mean of -sum_k q_k log p_k, the cross-entropy, nats per item; it is annotator_entropy + kl.
            Probabilities below 1.2e-38 count as that, as in `Metrics`.
        expected_ece: calibration error whose items are right by the share of annotators who agree, in the bins of
            `Metrics`, in [0, 1].
        expected_brier: mean of sum_k q_k |p - e_k|^2, in [0, 2]; at p = q it is not 0 but 1 - sum_k q_k^2.
        kl: mean of KL(q || p), nats: how far the NLL is above its floor.
        annotator_entropy: mean of H(q), nats: the floor of the NLL, which p = q has.
        dist_ce: mean of the total variation distance 1/2 sum_k |p_k - q_k|, in [0, 1]; 0 where p = q. An instance's
            distribution calibration error, DistCE, of Baan et al.
        expected_accuracy_se: standard error over items, standard deviation (n - 1) / sqrt n; NaN for one item.
        expected_nll_se: likewise.
        expected_brier_se: likewise.
        kl_se: likewise.
        dist_ce_se: likewise.
        expected_ece_se: standard deviation over 200 bootstrap resamples of the items (fixed seed).

    The shares of few annotators are uncertain themselves, and kl and dist_ce hold that too; it is the same for every
    system on the same items.

    Source: Baan, Aziz, Plank and Fernandez, Stop measuring calibration when humans disagree, arXiv 2210.16133 (DistCE);
    Peterson et al., Human uncertainty makes classification more robust, arXiv 1908.07086 (cross-entropy to the shares).
    """

    expected_accuracy: float
    expected_nll: float
    expected_ece: float
    expected_brier: float
    kl: float
    annotator_entropy: float
    dist_ce: float
    expected_accuracy_se: float
    expected_nll_se: float
    expected_ece_se: float
    expected_brier_se: float
    kl_se: float
    dist_ce_se: float

    def to_dict(self) -> dict[str, float]:
        """The fields by name, plain numbers."""
        return asdict(self)


def against_annotators(probs: Tensor, shares: Tensor, num_bins: int) -> AnnotatorMetrics:
    """Score probabilities against shares.

    Args:
        probs: (n, K) float64 probabilities.
        shares: (n, K) float64 shares of the annotators, rows summing to 1.
        num_bins: bins of the ECE.
    """
    confidence, answer = probs.max(-1)
    agreeing = shares.gather(1, answer[:, None])[:, 0]
    nll = -(shares * probs.clamp(min=SMALLEST_PROB).log()).sum(-1)
    brier = probs.square().sum(-1) - 2 * (probs * shares).sum(-1) + 1
    entropy = predictive_entropy(shares)
    distance = (probs - shares).abs().sum(-1) / 2
    return AnnotatorMetrics(
        expected_accuracy=float(agreeing.mean()),
        expected_nll=float(nll.mean()),
        expected_ece=float(summed_gaps(bin_index(confidence, num_bins), agreeing - confidence)),
        expected_brier=float(brier.mean()),
        kl=float((nll - entropy).mean()),
        annotator_entropy=float(entropy.mean()),
        dist_ce=float(distance.mean()),
        expected_accuracy_se=standard_error(agreeing),
        expected_nll_se=standard_error(nll),
        expected_ece_se=bootstrap_ece_se(confidence, agreeing, num_bins),
        expected_brier_se=standard_error(brier),
        kl_se=standard_error(nll - entropy),
        dist_ce_se=standard_error(distance),
    )
