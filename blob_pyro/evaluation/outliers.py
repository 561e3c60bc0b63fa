"""Out of distribution: how unusual an item's uncertainty would be among items of the training kind."""

from __future__ import annotations

import torch
from torch import Tensor

from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.evaluation.scores import uncertainty


def ood_p_values(held_out: Predictions, predictions: Predictions, score: str = "entropy") -> Tensor:
    r"""p-values of "this item is of the held-out items' kind", by its uncertainty; small where it is unusually unsure.

    .. math:: p = (1 + \#\{i: u_i \ge u\}) / (n + 1)

    with u the item's uncertainty and u_i those of the n held-out items. An item exchangeable with them has p <= a with
    a probability of at most a, so that flagging p <= 0.05 raises a false alarm on at most one such item in twenty, on
    average over held-out sets. How many others are found is not promised: `auroc_out_of_distribution` measures it. No
    p is below 1 / (n + 1).

    Args:
        held_out: n items of the training kind that were not trained on; labels are not needed.
        predictions: m items, under the same guide and draws.
        score: one of `SCORES`.

    Returns:
        (m,) in (0, 1], float64.

    Raises:
        ConfigError: there is no such score, or "bald" is asked of a single draw.
        DataError: one of the two has no items, or a row of probabilities is not one, as in `evaluate`.

    Source: conformal p-values, Bates, Candès, Lei, Romano and Sesia, Testing for outliers with conformal p-values,
    arXiv 2104.08279.

    Example:
        >>> sure, unsure = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]]), torch.tensor([[0.5, 0.5], [0.7, 0.3]])
        >>> ood_p_values(Predictions(sure, sure[None]), Predictions(unsure, unsure[None])).tolist()
        [0.25, 0.5]
    """
    inside = uncertainty(held_out, score).sort().values
    as_unsure = len(inside) - torch.searchsorted(inside, uncertainty(predictions, score))
    return (1 + as_unsure).double() / (len(inside) + 1)
