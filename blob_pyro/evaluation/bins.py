"""Items binned by confidence: the gaps between being right and being sure, summed up."""

from __future__ import annotations

import math

import torch
from torch import Tensor

NUM_RESAMPLES = 200


def bin_index(confidence: Tensor, num_bins: int) -> Tensor:
    """(n,) bin of each confidence as torchmetrics has it: 0..num_bins, the last being that of 1.0 alone (float32)."""
    edges = torch.linspace(0, 1, num_bins + 1, dtype=torch.float32)
    return torch.bucketize(confidence.float(), edges, right=True) - 1


def summed_gaps(confidence: Tensor, correct: Tensor, num_bins: int) -> float:
    """The ECE in float64: sum over bins of |sum over the bin's items of (correct - confidence)| / n.

    Args:
        confidence: (n,) probability of the answer.
        correct: (n,) 1.0 where it is right and 0.0 where it is not, or how far it is.
        num_bins: bins of equal width.
    """
    gaps = torch.bincount(bin_index(confidence, num_bins), correct - confidence)
    return float(gaps.abs().sum()) / len(confidence)


def bootstrap_ece_se(confidence: Tensor, correct: Tensor, num_bins: int) -> float:
    """Standard deviation of `summed_gaps` over 200 resamples of the items (fixed seed); NaN for one item."""
    n = len(confidence)
    if n < 2:
        return math.nan
    gap, index = correct - confidence, bin_index(confidence, num_bins)
    generator = torch.Generator().manual_seed(0)
    eces = torch.empty(NUM_RESAMPLES, dtype=torch.float64)
    for resample in range(NUM_RESAMPLES):
        items = torch.randint(n, (n,), generator=generator)
        eces[resample] = torch.bincount(index[items], gap[items]).abs().sum() / n
    return float(eces.std())


def standard_error(values: Tensor) -> float:
    """Standard error of the mean of (n,) values; NaN for one value."""
    if len(values) < 2:
        return math.nan
    return float(values.std() / math.sqrt(len(values)))
