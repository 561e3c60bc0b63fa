"""`Best`: the parameters of the lowest held-out NLL, and when to stop looking for lower ones."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor


class Best:
    """Keeps a copy of the parameters at the lowest held-out NLL so far.

    Args:
        parameters: those that training changes.
        patience: how many evaluations in a row without a lower NLL end training; None never does.

    Attributes:
        nll: the lowest so far, nats per item; infinity before the first.
        step: the step behind which it was found; 0 before the first.
        waited: evaluations since.
        copies: the parameters there; None before the first.
    """

    def __init__(self, parameters: Iterable[Tensor], patience: int | None) -> None:
        self._parameters = [parameter.detach() for parameter in parameters]
        self._patience = patience
        self.nll, self.step, self.waited = math.inf, 0, 0
        self.copies: list[Tensor] | None = None

    def see(self, nll: float, step: int) -> None:
        """Take note of the held-out NLL behind a step; one that is not a number is not lower."""
        if nll < self.nll:
            self.nll, self.step, self.waited = nll, step, 0
            self.copies = [parameter.clone() for parameter in self._parameters]
        else:
            self.waited += 1

    @property
    def is_enough(self) -> bool:
        """Whether it is time to stop."""
        return self._patience is not None and self.waited >= self._patience

    def put_back(self) -> None:
        """Give the parameters the values of the lowest NLL."""
        if self.copies is not None:
            torch._foreach_copy_(self._parameters, self.copies)
