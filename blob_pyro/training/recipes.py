"""The three recipes in the wild, named: which optimiser descends which term for which parameter.

| recipe | M (mean) | B, heads | G |
| --- | --- | --- | --- |
| `blob` | AdamW on NLL, then down pi*KL | AdamW on NLL | SGD on NLL, then down pi*KL |
| `decoupled` | AdamW on NLL, then down pi*KL | AdamW on NLL | AdamW on NLL, then down pi*KL |
| `elbo` | AdamW on N*NLL + kl_weight*KL | the same | the same |

"Down pi*KL" is a plain SGD step, which is what the authors' code takes (kl_step="explicit"), or
`AdapterGuide.descend_kl_`, which is stable at any rate (kl_step="flow"): the two agree to first order in the rate.

A learned prior scale takes `PriorScaleStep` on pi*KL in the first two, and AdamW with the rest in `elbo`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from blob_pyro.errors import ConfigError
from blob_pyro.guides import AdapterGuide
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.training.elbo import negative_elbo
from blob_pyro.training.lr_schedule import linear_warmup_decay, warmup_steps

KL_STEPS = ("explicit", "flow")


@dataclass(frozen=True)
class OptimSettings:
    """Learning rates and the rest of the two optimisers; fields as in `BLoBSVI`."""

    lr: float
    adam_eps: float
    weight_decay: float
    kl_lr: float
    kl_lr_loc: float
    num_steps: int | None
    warmup_ratio: float
    kl_step: str = "explicit"

    def factor(self, steps_done: int) -> float:
        """Multiplier of every learning rate: linear warm-up and decay; 1 where num_steps is None."""
        if self.num_steps is None:
            return 1.0
        return linear_warmup_decay(steps_done, self.num_steps, warmup_steps(self.num_steps, self.warmup_ratio))


class Recipe(ABC):
    """Abstract. Turns the two terms of the ELBO into parameter updates."""

    optimizers: tuple[Optimizer, ...]

    def __init__(self, model: BayesianLoRA, guide: AdapterGuide, settings: OptimSettings) -> None:
        self.num_data = model.likelihood.total(model.num_data)
        self.optimizers = self._optimizers(model, guide, settings)
        self._settings = settings
        self._full = [[float(group["lr"]) for group in optimizer.param_groups] for optimizer in self.optimizers]
        self.set_rates(0)

    @abstractmethod
    def _optimizers(
        self, model: BayesianLoRA, guide: AdapterGuide, settings: OptimSettings
    ) -> tuple[Optimizer, ...]: ...

    @abstractmethod
    def objective(self, nll: Tensor, kl: Tensor, kl_weight: float) -> Tensor:
        """The loss that a step descends."""

    def backward_nll(self, nll: Tensor) -> None:
        """Add the gradients of (a part of) the mean NLL to those that the first optimiser descends."""
        nll.backward()

    @abstractmethod
    def backward_kl(self, kl: Tensor, kl_weight: float) -> None:
        """Add the KL's gradients to them, where that optimiser descends the KL too; once a step."""

    @abstractmethod
    def update(self, kl: Callable[[], Tensor], kl_weight: float) -> None:
        """Change the parameters; `kl` computes the KL at their present values."""

    def parameters(self) -> Iterable[nn.Parameter]:
        """Every parameter that a step changes."""
        unique = {id(p): p for opt in self.optimizers for group in opt.param_groups for p in group["params"]}
        return unique.values()

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    @abstractmethod
    def set_kl_rates(self, loc: float, scale: float) -> None:
        """Set the full learning rates of the KL's own step on mean and spread, where there is one."""

    def set_rates(self, steps_done: int) -> None:
        """Set every learning rate to what the schedule says after so many steps."""
        factor = self._settings.factor(steps_done)
        for optimizer, full in zip(self.optimizers, self._full, strict=True):
            for group, rate in zip(optimizer.param_groups, full, strict=True):
                group["lr"] = rate * factor


class _SplitRecipe(Recipe):
    """Abstract. AdamW descends the NLL; then plain SGD descends kl_weight * KL, computed anew.

    The second step is to the KL what AdamW's decoupled weight decay is to L2: it keeps the KL out of
    Adam's second moments, whose normalisation would undo the schedule's pulse.
    """

    def __init__(self, model: BayesianLoRA, guide: AdapterGuide, settings: OptimSettings) -> None:
        super().__init__(model, guide, settings)
        self._guide = guide

    def objective(self, nll: Tensor, kl: Tensor, kl_weight: float) -> Tensor:
        return nll + kl_weight * kl

    def set_kl_rates(self, loc: float, scale: float) -> None:
        _, of_sgd, *_ = self._full
        of_sgd[:] = [loc, scale]

    def backward_kl(self, kl: Tensor, kl_weight: float) -> None:
        """Nothing: the KL has a step of its own."""

    def update(self, kl: Callable[[], Tensor], kl_weight: float) -> None:
        adamw, sgd, *of_the_prior = self.optimizers
        adamw.step()
        adamw.zero_grad(set_to_none=True)
        if self._settings.kl_step == "explicit":
            _backward(kl_weight * kl())
            sgd.step()
        else:
            sgd.step()  # what the NLL left it
            if of_the_prior:  # whose step is exact at a weight of 1, and goes too far beyond
                _backward(min(kl_weight, 1.0) * kl())
            loc_time, scale_time = (group["lr"] * kl_weight for group in sgd.param_groups)
            if max(loc_time, scale_time) > 0:
                self._guide.descend_kl_(loc_time, scale_time)
        sgd.zero_grad(set_to_none=True)
        for optimizer in of_the_prior:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


class BlobRecipe(_SplitRecipe):
    """M: AdamW on NLL, then SGD on pi*KL. B: AdamW on NLL. G: SGD on NLL + pi*KL, never in AdamW.

    What the authors' public code does: AdamW does not own G, so G's NLL gradient waits for the SGD step.
    """

    def _optimizers(self, model: BayesianLoRA, guide: AdapterGuide, settings: OptimSettings) -> tuple[Optimizer, ...]:
        loc = list(guide.location_parameters().values())
        scale = list(guide.scale_parameters().values())
        return _adamw(_points(model) + loc, settings), _sgd(loc, scale, settings), *_of_the_prior(guide)


class DecoupledRecipe(_SplitRecipe):
    """M and G: AdamW on NLL, then SGD on pi*KL. B: AdamW on NLL."""

    def _optimizers(self, model: BayesianLoRA, guide: AdapterGuide, settings: OptimSettings) -> tuple[Optimizer, ...]:
        loc = list(guide.location_parameters().values())
        scale = list(guide.scale_parameters().values())
        return _adamw(_points(model) + loc + scale, settings), _sgd(loc, scale, settings), *_of_the_prior(guide)


class ElboRecipe(Recipe):
    """Everything: AdamW on num_data * NLL + kl_weight * KL, the textbook ELBO."""

    def __init__(self, model: BayesianLoRA, guide: AdapterGuide, settings: OptimSettings) -> None:
        if model.num_data is None:
            raise ConfigError("recipe 'elbo' expects the number of training items; set num_data on BayesianLoRA")
        super().__init__(model, guide, settings)

    def _optimizers(self, model: BayesianLoRA, guide: AdapterGuide, settings: OptimSettings) -> tuple[Optimizer, ...]:
        own = guide.location_parameters() | guide.scale_parameters() | guide.prior_parameters()
        return (_adamw(_points(model) + list(own.values()), settings),)

    def objective(self, nll: Tensor, kl: Tensor, kl_weight: float) -> Tensor:
        assert self.num_data is not None
        return negative_elbo(nll, kl, self.num_data, kl_weight)

    def backward_nll(self, nll: Tensor) -> None:
        assert self.num_data is not None
        (self.num_data * nll).backward()

    def backward_kl(self, kl: Tensor, kl_weight: float) -> None:
        if kl.requires_grad:
            (kl_weight * kl).backward()

    def set_kl_rates(self, loc: float, scale: float) -> None:
        """Nothing: there is no such step."""

    def update(self, kl: Callable[[], Tensor], kl_weight: float) -> None:
        (adamw,) = self.optimizers
        adamw.step()
        adamw.zero_grad(set_to_none=True)


RECIPES: dict[str, type[Recipe]] = {"blob": BlobRecipe, "decoupled": DecoupledRecipe, "elbo": ElboRecipe}


def _backward(loss: Tensor) -> None:
    if loss.requires_grad:
        loss.backward()


def _points(model: BayesianLoRA) -> list[nn.Parameter]:
    return list(model.point_parameters().values())


def _adamw(parameters: list[nn.Parameter], settings: OptimSettings) -> AdamW:
    return AdamW(
        parameters,
        lr=settings.lr,
        eps=settings.adam_eps,
        weight_decay=settings.weight_decay,
        fused=_can_fuse(parameters),
    )


def _sgd(loc: list[nn.Parameter], scale: list[nn.Parameter], settings: OptimSettings) -> SGD:
    groups = [{"params": loc, "lr": settings.kl_lr_loc}, {"params": scale, "lr": settings.kl_lr}]
    return SGD(groups, fused=_can_fuse(loc + scale))


def _of_the_prior(guide: AdapterGuide) -> tuple[Optimizer, ...]:
    """The optimiser of a learned prior scale, where there is one."""
    parameters = list(guide.prior_parameters().values())
    return (PriorScaleStep(parameters, guide.num_random()),) if parameters else ()


def _can_fuse(parameters: list[nn.Parameter]) -> bool:
    """Whether torch has one kernel for the whole update: on these devices, and for floating point, it does."""
    return all(parameter.device.type in ("cpu", "cuda", "mps", "xpu") for parameter in parameters)


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
