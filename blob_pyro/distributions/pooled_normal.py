"""Normals of many shapes that are drawn together, in a handful of operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor


class PooledNormal(dist.Normal):
    """A Normal whose first draw is its share of one joint draw; every later one it makes alone.

    The law is that of `Normal`; so is what a seed gives, where sizes are multiples of 16 on the CPU.

    Args:
        loc: mean.
        scale: standard deviation, of the same shape, float32.
        pool: joint draw of several laws.
        position: which of them this one is.
    """

    def __init__(self, loc: Tensor, scale: Tensor, pool: _Pool, position: int) -> None:
        # unvalidated: a NaN is to become a non-finite loss that names step and items, not a page of values
        super().__init__(loc, scale, validate_args=False)
        self._pool, self._position = pool, position

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """A draw of shape sample_shape + batch_shape, differentiable in loc and scale."""
        value = self._pool.take(self._position) if len(sample_shape) == 0 else None
        if value is None:
            value = super().rsample(sample_shape)
        return value

    def sample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """A draw without gradients."""
        with torch.no_grad():
            return self.rsample(sample_shape)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> dist.Normal:
        """A plain Normal: copies under a plate are independent, and the pool has one draw."""
        return dist.Normal(self.loc, self.scale, validate_args=False).expand(batch_shape, _instance)


def pooled_normals(
    locs: Sequence[Tensor], free: Sequence[Tensor], to_scale: Callable[[Tensor], Tensor] = torch.square
) -> list[PooledNormal]:
    """Normal(loc, to_scale(free)^2) for each pair, drawn together where they are on one device.

    Args:
        locs: means, float32.
        free: what the standard deviations are made of, of the same shapes; their square roots by default.
        to_scale: elementwise map to the standard deviations.
    """
    laws: dict[int, PooledNormal] = {}
    for device in dict.fromkeys(loc.device for loc in locs):
        here = [i for i, loc in enumerate(locs) if loc.device == device]
        pool = _Pool([locs[i] for i in here], to_scale(torch.cat([free[i].flatten() for i in here])))
        for position, i in enumerate(here):
            laws[i] = PooledNormal(locs[i], pool.scales[position], pool, position)
    return [laws[i] for i in range(len(locs))]


class _Pool:
    """Values of several Normals as parts of one long vector, drawn when the first of them is asked for."""

    def __init__(self, locs: Sequence[Tensor], scale: Tensor) -> None:
        self._shapes = [loc.shape for loc in locs]
        self._locs = locs
        self._scale = scale
        self.scales = self._parts(scale)
        self._values: list[Tensor | None] | None = None

    def take(self, position: int) -> Tensor | None:
        """The draw at `position`; None when it has been taken already."""
        if self._values is None:
            loc = torch.cat([loc.flatten() for loc in self._locs])
            self._values = list(self._parts(torch.addcmul(loc, self._scale, torch.randn_like(loc))))
        value, self._values[position] = self._values[position], None
        return value

    def _parts(self, vector: Tensor) -> list[Tensor]:
        parts = vector.split([shape.numel() for shape in self._shapes])
        return [part.view(shape) for part, shape in zip(parts, self._shapes, strict=True)]
