"""`BLoBSVI`: one optimisation step of BLoB, under one of three named recipes."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from blob_pyro.data.examples import Batch
from blob_pyro.errors import ConfigError, NonFiniteLossError
from blob_pyro.guides import AdapterGuide
from blob_pyro.inference.elbo import negative_log_likelihood
from blob_pyro.inference.kl_schedule import constant, cycle_length, reweighted
from blob_pyro.inference.recipes import RECIPES, OptimSettings
from blob_pyro.model import BayesianLoRA

KLSchedule = Callable[[int], float]


@dataclass(frozen=True)
class StepResult:
    """What one step saw, before it changed the parameters.

    Attributes:
        nll: negative log-likelihood under the step's draw, mean nats per item.
        kl: KL(posterior || prior), total nats.
        kl_weight: the factor on the KL in this step (paper: pi_i).
        loss: what the recipe descends: nll + kl_weight * kl ("blob", "decoupled"), or
            num_data * nll + kl_weight * kl ("elbo").
        step: number of this step, from 1.
    """

    nll: float
    kl: float
    kl_weight: float
    loss: float
    step: int


class BLoBSVI:
    """Stochastic variational inference for an adapter, one step at a time.

    `with bp.flipout(): svi.step(batch)` gives each example its own draw.

    Args:
        model: the model.
        guide: one of `bp.guides` (for Pyro's autoguides take `pyro.infer.SVI`).
        recipe: "blob" (the authors' code), "decoupled" or "elbo"; see `inference.recipes`.
        num_steps: length of the linear learning-rate schedule; None keeps the rates constant.
        lr, adam_eps, weight_decay: of AdamW.
        kl_lr: learning rate of the separate KL step (SGD); unused by "elbo".
        kl_schedule: step (from 1) -> weight of the KL. None takes the paper's ascending re-weighting, its
            cycle length from `model.num_data` and the first batch's size; and 1 for "elbo".
        kl_weight: factor on the schedule.
        warmup_ratio: share of num_steps over which learning rates rise from zero.

    Raises:
        ConfigError: an unknown recipe, a guide of another kind, or num_data missing where it is needed.

    Source: BLoB, arXiv 2406.11675, section 3.3 and algorithm 1; the defaults are its settings.
    """

    def __init__(
        self,
        model: BayesianLoRA,
        guide: AdapterGuide,
        *,
        recipe: str = "blob",
        num_steps: int | None = None,
        lr: float = 1e-4,
        adam_eps: float = 1e-6,
        weight_decay: float = 0.0,
        kl_lr: float = 0.01,
        kl_schedule: KLSchedule | None = None,
        kl_weight: float = 1.0,
        warmup_ratio: float = 0.06,
    ) -> None:
        if recipe not in RECIPES:
            raise ConfigError(f"recipe: expected one of {', '.join(RECIPES)}; got {recipe!r}")
        if not isinstance(guide, AdapterGuide):
            raise ConfigError(
                f"guide: expected one of bp.guides; got {type(guide).__name__}; train it with pyro.infer.SVI"
            )
        settings = OptimSettings(lr, adam_eps, weight_decay, kl_lr, num_steps, warmup_ratio)
        self.model, self.guide = model, guide
        self.kl_weight = kl_weight
        self.steps_done = 0
        self._last_good: list[Tensor] | None = None
        self.recipe = RECIPES[recipe](model, guide, settings)
        self._schedule = constant if kl_schedule is None and recipe == "elbo" else kl_schedule

    def step(self, batch: Batch) -> StepResult:
        """Update every parameter once, with one posterior draw.

        Raises:
            NonFiniteLossError: the loss or a gradient is NaN or infinite; the parameters are put back to the
                last ones whose loss and gradients were finite.
            DataError: the batch has no labels.
        """
        step = self.steps_done + 1
        kl_weight = self.kl_weight * self.kl_schedule(batch)(step)
        nll = negative_log_likelihood(self.model, self.guide, batch)
        kl = self.guide.kl()
        loss = self.recipe.objective(nll, kl, kl_weight)
        self.recipe.backward(nll, kl, kl_weight)
        seen = self._finite({"NLL": nll, "KL": kl, "loss": loss, "gradient norm": self._gradient_norm()}, step, batch)
        self._remember()
        self.recipe.update(self.guide.kl, kl_weight)
        self.recipe.advance()
        self.steps_done = step
        return StepResult(nll=seen["NLL"], kl=seen["KL"], kl_weight=kl_weight, loss=seen["loss"], step=step)

    def kl_schedule(self, batch: Batch) -> KLSchedule:
        """The schedule in use; settled at the first call."""
        if self._schedule is None:
            if self.model.num_data is None:
                raise ConfigError(
                    "kl_schedule: expected num_data on BayesianLoRA to set its cycle; give one of the two"
                )
            cycle = cycle_length(self.model.num_data, len(batch))
            self._schedule = lambda step: reweighted(step, cycle)
        return self._schedule

    def _remember(self) -> None:
        """Keep a copy of the parameters: they have just shown a finite loss and gradient."""
        parameters = [parameter.detach() for parameter in self.recipe.parameters()]
        if self._last_good is None:
            self._last_good = [parameter.clone() for parameter in parameters]
        else:
            torch._foreach_copy_(self._last_good, parameters)

    def _restore(self) -> None:
        """Go back to the last remembered parameters, if an update has changed them since."""
        if self._last_good is not None:
            torch._foreach_copy_([parameter.detach() for parameter in self.recipe.parameters()], self._last_good)

    def _gradient_norm(self) -> Tensor:
        gradients = [p.grad for p in self.recipe.parameters() if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def _finite(self, values: dict[str, Tensor], step: int, batch: Batch) -> dict[str, float]:
        """The values as numbers, in one transfer; or the error that names the first that is not finite."""
        device = values["NLL"].device
        numbers = torch.stack([value.detach().to(device, torch.float64) for value in values.values()]).tolist()
        for name, number in zip(values, numbers, strict=True):
            if not math.isfinite(number):
                self.recipe.zero_grad()
                self._restore()
                items = () if batch.index is None else tuple(batch.index.tolist())
                raise NonFiniteLossError(
                    f"step {step}: expected a finite {name}; got {number} on the batch of items "
                    f"{', '.join(map(str, items)) or 'unnamed'}; the last parameters with a finite loss are kept; "
                    "try a smaller lr or kl_lr, or look at these items",
                    items,
                )
        return dict(zip(values, numbers, strict=True))
