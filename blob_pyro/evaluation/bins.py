"""Items binned by confidence: the gaps between being right and being sure, their error, and what few items make."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from blob_pyro.errors import ConfigError
from blob_pyro.evaluation.checks import check_probabilities
from blob_pyro.evaluation.predictions import Predictions

NUM_RESAMPLES = 200


def bin_index(confidence: Tensor, num_bins: int) -> Tensor:
    """(n,) bin of each confidence as torchmetrics has it: 0..num_bins, the last being that of 1.0 alone (float32)."""
    edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float32)
    return torch.bucketize(confidence.float(), edges, right=True) - 1


def summed_gaps(index: Tensor, gap: Tensor) -> Tensor:
    """The ECE in float64, scalar: sum over bins of |sum over the bin's items of their gaps| / n.

    Args:
        index: (n,) bin of each item.
        gap: (n,) how right its answer is, 1.0 and 0.0 or anything between, less how sure.
    """
    return torch.bincount(index, gap).abs().sum() / len(gap)


def resampled(value: Callable[[Generator], Tensor], num_resamples: int = NUM_RESAMPLES) -> Tensor:
    """(num_resamples,) float64: what `value` makes of one random stream (fixed seed), time after time."""
    generator = torch.Generator().manual_seed(0)
    return torch.stack([value(generator) for _ in range(num_resamples)]).double()


def bootstrapped(value: Callable[[Tensor], Tensor], num_items: int) -> Tensor:
    """(200,) float64: what `value` makes of the (n,) positions of n items that are drawn with replacement."""
    return resampled(lambda generator: value(torch.randint(num_items, (num_items,), generator=generator)))


def bootstrap_ece_se(confidence: Tensor, correct: Tensor, num_bins: int) -> float:
    """Standard deviation of `summed_gaps` over 200 resamples of the items (fixed seed); NaN for one item."""
    if len(confidence) < 2:
        return math.nan
    index, gap = bin_index(confidence, num_bins), correct - confidence
    return float(bootstrapped(lambda items: summed_gaps(index[items], gap[items]), len(gap)).std())


def calibrated_ece(predictions: Predictions, num_bins: int = 15, *, num_resamples: int = 200) -> tuple[float, float]:
    r"""The ECE that these answers would score if they were perfectly calibrated.

    The ECE sums absolute values, so that it is above 0 on few items even where every probability is right. Here each
    item is right with its own confidence, which is what calibration means: the mean ECE of such items is the floor
    that no method can be expected to get below, and an ECE is to be read against it.

    .. math:: E_{c_i \sim Bernoulli(conf_i)} \sum_b \left| \frac1n \sum_{i \in b} (c_i - conf_i) \right|

    Args:
        predictions: n items; labels are not used.
        num_bins: bins of the ECE.
        num_resamples: how often the items are drawn right or wrong, with a fixed seed.

    Returns:
        Mean and standard deviation of the ECE over the resamples, in [0, 1].

    Raises:
        DataError: there are no items, or a row of probabilities is not one.
        ConfigError: fewer than one bin, or fewer than two resamples.

    Source: consistency resampling, Bröcker and Smith 2007, Increasing the reliability of reliability diagrams.

    Example:
        >>> probs = torch.tensor([[0.8, 0.2]]).repeat(100, 1)
        >>> few, many = (calibrated_ece(Predictions(p, p[None]))[0] for p in (probs, probs.repeat(100, 1)))
        >>> round(few, 3), round(many, 3)  # sqrt(2 / pi) of the standard error 0.04, and of 0.004
        (0.032, 0.003)
    """
    if num_bins < 1:
        raise ConfigError(f"num_bins: expected at least 1; got {num_bins}; the paper uses 15")
    if num_resamples < 2:
        raise ConfigError(f"num_resamples: expected at least 2; got {num_resamples}")
    check_probabilities(predictions)
    confidence = predictions.probs.double().max(-1).values.cpu()
    index = bin_index(confidence, num_bins)

    def ece_of_calibrated(generator: Generator) -> Tensor:
        right = torch.rand(len(confidence), generator=generator, dtype=torch.float64) < confidence
        return summed_gaps(index, right.double() - confidence)

    eces = resampled(ece_of_calibrated, num_resamples)
    return float(eces.mean()), float(eces.std())


def standard_error(values: Tensor) -> float:
    """Standard error of the mean of (n,) values; NaN for one value."""
    if len(values) < 2:
        return math.nan
    return float(values.std() / math.sqrt(len(values)))
