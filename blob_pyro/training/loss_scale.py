"""`LossScale`: keeps the small gradients of a float16 forward from vanishing."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

GROWTH_STEPS = 2000


@dataclass
class LossScale:
    """A factor on the loss that its gradients are divided by again; dynamic, as `torch.amp.GradScaler`'s.

    It halves where a gradient is not finite, and doubles after 2,000 steps without. GradScaler itself belongs to one
    optimiser a parameter; here several share some.

    Attributes:
        value: the factor; 1 does nothing.
        good_steps: steps since it last changed.
        dynamic: whether it changes.
    """

    value: float = 1.0
    good_steps: int = 0
    dynamic: bool = False

    @classmethod
    def of(cls, mixed_precision: str) -> LossScale:
        """The scale for a precision: float16 alone needs one."""
        return cls(2.0**16, dynamic=True) if mixed_precision == "fp16" else cls()

    def unscale_(self, gradients: Iterable[Tensor]) -> None:
        """Divide the gradients by the factor."""
        if self.value != 1.0 and (found := list(gradients)):
            torch._foreach_mul_(found, 1.0 / self.value)

    def overflowed(self) -> bool:
        """After a gradient that is not finite: halve, and say whether that can be why; at a factor of 1 it cannot."""
        if not self.dynamic or self.value <= 1.0:
            return False
        self.value, self.good_steps = self.value / 2, 0
        return True

    def succeeded(self) -> None:
        """After a step whose gradients were finite."""
        if not self.dynamic:
            return
        self.good_steps += 1
        if self.good_steps == GROWTH_STEPS:
            self.value, self.good_steps = self.value * 2, 0
