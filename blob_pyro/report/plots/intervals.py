"""Confidence intervals that pictures show."""

from __future__ import annotations

import torch
from torch import Tensor

Z_95 = 1.959964  # quantile of the normal law: 95 % lie within so many standard deviations


def wilson_interval(correct: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """95 % Wilson score interval of a share, elementwise.

    Args:
        correct: (...) number of right items.
        count: (...) number of items, above 0.

    Returns:
        (...) lower and upper ends, within [0, 1] and around the observed share.

    Example:
        >>> low, high = wilson_interval(torch.tensor([5.0]), torch.tensor([10.0]))
        >>> round(low.item(), 3), round(high.item(), 3)
        (0.237, 0.763)
    """
    share, z2 = correct / count, Z_95**2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    half = Z_95 / (1 + z2 / count) * (share * (1 - share) / count + z2 / (4 * count**2)).sqrt()
    # At a share of 0 or 1 rounding can put the end on the wrong side of the share.
    return torch.minimum(centre - half, share), torch.maximum(centre + half, share)
