"""The step of a learned prior scale under a separate KL step."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


class PriorScaleStep(Optimizer):
    r"""Moves sigma_p^2 a share of the way to its optimum, given log sigma_p and the gradient of weight * KL.

    With d entries the KL's gradient with respect to log sigma_p is d (1 - mean(scale^2 + loc^2) / sigma_p^2): a sum
    over all entries, so plain SGD at the rate of the entries themselves diverges at once. Instead

        sigma_p^2 <- sigma_p^2 (1 - lr * gradient / d),

    which with the gradient of pi * KL is (1 - lr pi) sigma_p^2 + lr pi mean(scale^2 + loc^2): stable whatever the
    start, and exact at lr pi = 1. A step shrinks sigma_p^2 ten times at most.

    Args:
        parameters: log sigma_p.
        num_entries: d, how many numbers the KL weighs against the prior.
        lr: factor on the share; 1 leaves it to the weight of the KL.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], num_entries: int, lr: float = 1.0) -> None:
        super().__init__(parameters, {"lr": lr, "num_entries": num_entries})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step on the gradients at hand; `closure` is not used."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    change = -group["lr"] / group["num_entries"] * parameter.grad
                    parameter.add_(change.clamp_(min=-0.9).log1p_(), alpha=0.5)
