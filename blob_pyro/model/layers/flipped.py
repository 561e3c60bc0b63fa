"""Flipout's draws: one weight draw for all rows, its signs flipped for each row."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from blob_pyro.errors import UnsupportedLayerError
from blob_pyro.model.layers.drawn_linear import SHARED_INPUT, Draw, grouped_linear
from blob_pyro.model.layers.row_weights import row_weights


@dataclass(frozen=True, eq=False)
class FlipoutDraw(Draw):
    """A draw that gives each row an A (or B) of its own (paper section 3.4, Flipout).

    Row i sees A_i = loc + t_i s_i^T * (value - loc), for all of its tokens; each A_i has the law of
    value where that law is factorised and symmetric about loc.

    The A_i are made: r entries for each row and input feature. Flipping the signs of the layer's input, as
    flipout is usually written, costs an entry for each token and input feature, and a second product.

    An item may have several rows beside one another, which then share its A: x has a multiple of the rows here.

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
        if x.shape[0] % len(self.weights):
            raise UnsupportedLayerError(
                f"expected {len(self.weights)} rows, one weight each, or as many each; got {x.shape[0]}; {SHARED_INPUT}"
            )
        return grouped_linear(x, self.weights)

    def outputs(self, index: Tensor) -> FlipoutDraw:
        return FlipoutDraw(self.weights[:, index], self.groups)


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
        first = values[sites[0]]
        groups = len(first) if first.dim() == 3 else None
        signs = random_signs(len(sites), (groups or 1) * num_items, sum(first.shape[-2:]), device=first.device)
        both = signs.split(first.shape[-2:], dim=-1)
        weights = row_weights([values[site] for site in sites], [locs[site] for site in sites], *both)
        draws |= {site: FlipoutDraw(weight, groups) for site, weight in zip(sites, weights, strict=True)}
    return draws


def random_signs(*shape: int, device: torch.device) -> Tensor:
    """-1.0 and 1.0, each with probability one half."""
    count = math.prod(shape)
    # of a random 63-bit integer every byte's lowest bit is fair, and the eight are independent
    words = torch.empty(-(-count // 8), dtype=torch.int64, device=device).random_()
    bits = words.view(torch.uint8)[:count].reshape(shape) & 1
    return bits.to(torch.float32).mul_(2).sub_(1)
