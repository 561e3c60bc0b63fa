"""The one class that lives inside the network: a LoRA A or B matrix that can hold a draw of itself.

PEFT calls `lora_B[adapter](lora_A[adapter](x))`. `DrawnLinear` shares the weight Parameter of the `nn.Linear` it
replaces (the posterior mean), so saving, loading, merging and disabling an adapter go on working.
While a draw is held, the layer applies the draw; otherwise it is that `nn.Linear`, bit for bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType

import torch.nn.functional as F
from torch import Tensor, nn

from blob_pyro.errors import UnsupportedLayerError

SHARED_INPUT = (
    "a layer that is applied to what all items share (DeBERTa's query_proj and key_proj, to relative positions) cannot "
    "be random for each: leave it out of target_modules"
)


class Draw(ABC):
    """Abstract. One realisation of a random matrix, A (r, n) or B (m, r), ready to be applied to its input.

    The shapes in this module are A's; those of a draw of B have m for r and r for n.
    """

    @property
    @abstractmethod
    def num_draws(self) -> int | None:
        """Size S of the draw dimension: the input's rows are S groups. None without one."""

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """Map x of shape (rows, ..., n) to (rows, ..., r)."""

    @abstractmethod
    def outputs(self, index: Tensor) -> Draw:
        """The same draw for output features `index`, (k,), alone: maps x to (rows, ..., k)."""


def grouped_linear(x: Tensor, weight: Tensor) -> Tensor:
    """x A^T with one weight for all rows, or one for each of S equal groups of rows.

    Args:
        x: (rows, ..., n).
        weight: (r, n), or (S, r, n): group s, rows s * rows / S onwards, sees weight[s].

    Returns:
        (rows, ..., r) in the dtype of x.

    Raises:
        UnsupportedLayerError: the rows do not split into S equal groups.
    """
    weight = weight.to(x.dtype)
    if weight.dim() == 2:
        return F.linear(x, weight)
    num_draws = weight.shape[0]
    if x.shape[0] % num_draws:
        raise UnsupportedLayerError(
            f"expected the rows of the batch in {num_draws} equal groups, one a draw; got {x.shape[0]}; {SHARED_INPUT}"
        )
    grouped = x.reshape(num_draws, -1, x.shape[-1])
    return (grouped @ weight.mT).reshape(*x.shape[:-1], weight.shape[-2])


def _num_draws(value: Tensor) -> int | None:
    return value.shape[0] if value.dim() == 3 else None


@dataclass(frozen=True, eq=False)
class WeightDraw(Draw):
    """A plain draw: every row (of a group) sees the same matrix.

    Attributes:
        value: (r, n), or (S, r, n) for S groups of rows.
    """

    value: Tensor

    @property
    def num_draws(self) -> int | None:
        return _num_draws(self.value)

    def __call__(self, x: Tensor) -> Tensor:
        return grouped_linear(x, self.value)

    def outputs(self, index: Tensor) -> WeightDraw:
        return WeightDraw(self.value[..., index, :])


class DrawnLinear(nn.Linear):
    """`nn.Linear` without bias that applies a held draw in place of its weight.

    Attributes:
        draw: the held draw; None outside `hold`.
    """

    draw: Draw | None

    @classmethod
    def sharing(cls, linear: nn.Linear) -> DrawnLinear:
        """A layer with the very weight Parameter of `linear`; `linear` itself where it is one already."""
        if isinstance(linear, cls):
            return linear
        drawn = cls(linear.in_features, linear.out_features, bias=False, device="meta")
        drawn.weight = linear.weight
        drawn.draw = None
        return drawn.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """Apply the held draw, or the weight where none is held: (rows, ..., n) to (rows, ..., r)."""
        return super().forward(input) if self.draw is None else self.draw(input)


class hold:
    """Context manager that makes layers apply the given draws, and undoes itself. May be entered again.

    Args:
        draws: layer -> the draw it applies inside the context.
    """

    def __init__(self, draws: Mapping[DrawnLinear, Draw]) -> None:
        self._draws = draws
        self._before: list[dict[DrawnLinear, Draw | None]] = []

    def __enter__(self) -> None:
        self._before.append({layer: layer.draw for layer in self._draws})
        for layer, draw in self._draws.items():
            layer.draw = draw

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for layer, draw in self._before.pop().items():
            layer.draw = draw


def as_draw(value: Tensor | Draw) -> Draw:
    """A value as what the layers apply; a `Draw` is one already."""
    return value if isinstance(value, Draw) else WeightDraw(value)


def one_draw_dim(value: Tensor) -> Tensor:
    """Collapse what Pyro's plates put to the left of (r, n) into one draw dimension."""
    return value.reshape(-1, *value.shape[-2:]) if value.dim() > 2 else value


def common_num_draws(draws: Mapping[str, Draw]) -> int | None:
    """Size of the draw dimension that all sites share; None without one."""
    sizes = {value.num_draws for value in draws.values()}
    if len(sizes) > 1:
        raise ValueError(f"expected the same number of draws at every site; got {sorted(sizes, key=str)}")
    return sizes.pop() if sizes else None
