"""Flipout's weights, one for each row, with a backward of their own: a few passes over what fits in a cache."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 2**18
"""How many numbers are made at once (1 MiB): 65 sites of (8, 4096) under four rows take 34 MiB, a trip to memory and
fresh pages for each operation."""


def row_weights(
    values: Sequence[Tensor], locs: Sequence[Tensor], output_signs: Tensor, input_signs: Tensor
) -> list[Tensor]:
    """loc + t_i s_i^T * (value - loc) for L sites of one shape and every row i.

    Args:
        values: L of (r, n), or of (S, r, n) for S equal groups of rows.
        locs: L of (r, n).
        output_signs: (L, rows, r) of -1 and 1 (paper: t).
        input_signs: (L, rows, n) of -1 and 1 (paper: s).

    Returns:
        L of (rows, r, n), differentiable once in values and locs.
    """
    rows, (r, n) = input_signs.shape[1], locs[0].shape
    weights: list[Tensor] = []
    for part in _parts(len(values), max(1, CHUNK // (rows * r * n))):
        weights += _RowWeights.apply(output_signs[part], input_signs[part], *values[part], *locs[part])
    return weights


def _parts(count: int, size: int) -> Iterator[slice]:
    edges = [*range(0, count, size), count]
    return (slice(start, stop) for start, stop in itertools.pairwise(edges))


class _RowWeights(torch.autograd.Function):
    """Of a few sites; what it keeps for the backward are the signs, r + n for each row and not r n."""

    @staticmethod
    def forward(ctx: Any, output_signs: Tensor, input_signs: Tensor, *sites: Tensor) -> tuple[Tensor, ...]:
        ctx.save_for_backward(output_signs, input_signs)
        value, loc = torch.stack(sites[: len(sites) // 2]), torch.stack(sites[len(sites) // 2 :])
        ctx.value_shape = value.shape
        value, loc = value.reshape(len(loc), -1, 1, *loc.shape[1:]), loc[:, None, None]
        signs = _signs(output_signs, input_signs).unflatten(1, (value.shape[1], -1))
        return torch.addcmul(loc, signs, value - loc).flatten(1, 2).unbind()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = torch.stack(grads)
        flipped = grad * _signs(*ctx.saved_tensors)
        groups = ctx.value_shape[1] if len(ctx.value_shape) == 4 else 1
        of_values = flipped.unflatten(1, (groups, -1)).sum(2)
        of_locs = grad.sum(1) - of_values.sum(1)
        return None, None, *of_values.reshape(ctx.value_shape).unbind(), *of_locs.unbind()


def _signs(output_signs: Tensor, input_signs: Tensor) -> Tensor:
    """t_i s_i^T, (L, rows, r, n)."""
    return output_signs.unsqueeze(-1) * input_signs.unsqueeze(-2)
