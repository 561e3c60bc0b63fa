"""Flipout's draws: one weight draw for all rows, its signs flipped for each row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from blob_pyro.adapters.drawn_linear import Draw, grouped_linear


@dataclass(frozen=True, eq=False)
class FlipoutDraw(Draw):
    """A draw that gives each row an A of its own (paper section 3.4, Flipout).

    Row i sees A_i = loc + t_i s_i^T * (value - loc), for all of its tokens; each A_i has the law of
    value where that law is factorised and symmetric about loc.

    The A_i are made: r entries for each row and input feature. Flipping the signs of the layer's input, as
    flipout is usually written, costs an entry for each token and input feature, and a second product.

    Attributes:
        weights: (rows, r, n), the A of each row.
        groups: number S of draws that the rows share; None for one without a draw dimension.
    """

    weights: Tensor
    groups: int | None = None

    @property
    def num_draws(self) -> int | None:
        return self.groups

    def __call__(self, x: Tensor) -> Tensor:
        if x.shape[0] != len(self.weights):
            raise ValueError(f"expected {len(self.weights)} rows, one weight each; got {x.shape[0]}")
        return grouped_linear(x, self.weights)


def flip(values: Mapping[str, Tensor], locs: Mapping[str, Tensor], num_items: int) -> dict[str, FlipoutDraw]:
    """The draws of every site, in a handful of operations for all sites of one shape.

    Args:
        values: site -> one draw, (r, n), or (S, r, n) for S groups of num_items rows.
        locs: site -> centre of the law of values[site], (r, n).
        num_items: rows that share a draw.
    """
    alike: dict[tuple[torch.Size, torch.device], list[str]] = {}
    for site, value in values.items():
        alike.setdefault((value.shape, value.device), []).append(site)
    draws: dict[str, FlipoutDraw] = {}
    for sites in alike.values():
        value, loc = torch.stack([values[site] for site in sites]), torch.stack([locs[site] for site in sites])
        groups = value.shape[1] if value.dim() == 4 else None
        signs = random_signs(len(sites), (groups or 1) * num_items, sum(value.shape[-2:]), device=value.device)
        weights = row_weights(value, loc, *signs.split(value.shape[-2:], dim=-1))
        draws |= {site: FlipoutDraw(weight, groups) for site, weight in zip(sites, weights.unbind(), strict=True)}
    return draws


def row_weights(value: Tensor, loc: Tensor, output_signs: Tensor, input_signs: Tensor) -> Tensor:
    """loc + t_i s_i^T * (value - loc) for L sites and every row i.

    Args:
        value: (L, r, n), or (L, S, r, n) for S equal groups of rows.
        loc: (L, r, n).
        output_signs: (L, rows, r) of -1 and 1 (paper: t).
        input_signs: (L, rows, n) of -1 and 1 (paper: s).

    Returns:
        (L, rows, r, n).
    """
    num_sites, (r, n) = len(value), value.shape[-2:]
    value, loc = value.reshape(num_sites, -1, 1, r, n), loc.reshape(num_sites, 1, 1, r, n)
    signs = output_signs.unsqueeze(-1) * input_signs.unsqueeze(-2)
    return torch.addcmul(loc, signs.unflatten(1, (value.shape[1], -1)), value - loc).flatten(1, 2)


def random_signs(*shape: int, device: torch.device) -> Tensor:
    """-1.0 and 1.0, each with probability one half."""
    count = math.prod(shape)
    # of a random 63-bit integer every byte's lowest bit is fair, and the eight are independent
    words = torch.empty(-(-count // 8), dtype=torch.int64, device=device).random_()
    bits = words.view(torch.uint8)[:count].reshape(shape) & 1
    return bits.to(torch.float32).mul_(2).sub_(1)
