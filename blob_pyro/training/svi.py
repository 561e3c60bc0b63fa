"""`BLoBSVI`: one optimisation step of BLoB, under one of three named recipes."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from blob_pyro.config.checks import unknown_name
from blob_pyro.data.examples import Batch
from blob_pyro.errors import ConfigError, NonFiniteLossError
from blob_pyro.guides import AdapterGuide
from blob_pyro.guides.descent import numbers
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.handlers import check_gradients, take_up_loaded
from blob_pyro.model.vocabulary import check_to_learn
from blob_pyro.system.processes import Ranks
from blob_pyro.training.elbo import negative_log_likelihood
from blob_pyro.training.kl_rate import PAPER_RATE, Settled, default_width, mean_time, never_acts, widening
from blob_pyro.training.kl_schedule import constant, cycle_length, late, reweighted
from blob_pyro.training.loss_scale import LossScale
from blob_pyro.training.pieces import share_out
from blob_pyro.training.recipes import KL_STEPS, RECIPES, OptimSettings
from blob_pyro.training.svi_settings import check_settings

KLSchedule = Callable[[int], float]
NARROW, LEAST_GROWTH = 0.05, 1.2
NEAR_PRIOR = 0.95
WIDE, WIDER = 0.3, 1.5  # a start that wide, and so many times as wide as was asked for, is told
EARLY = 0.7  # and an end below such a share of that, where its parameters are not those of the last step
AUTOCAST = {"bf16": torch.bfloat16, "fp16": torch.float16}


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
        skipped: whether the step changed nothing, since one of these or a gradient was not finite.
        held_out_nll: of held-out items behind the step, mean nats per item; None where it was not measured.
        scale: mean posterior standard deviation over all random entries; None where no spread is trained.
    """

    nll: float
    kl: float
    kl_weight: float
    loss: float
    step: int
    skipped: bool = False
    held_out_nll: float | None = None
    scale: float | None = None


class BLoBSVI:
    """Stochastic variational inference for an adapter, one step at a time.

    `with bp.flipout(): svi.step(batch)` gives each example its own draw.

    Args:
        model: the model.
        guide: one of `bp.guides` (for Pyro's autoguides take `pyro.infer.SVI`).
        recipe: "blob" (the authors' code), "decoupled" or "elbo"; see `training.recipes`.
        num_steps: length of the linear learning-rate schedule; None keeps the rates constant.
        lr, adam_eps, weight_decay: of AdamW.
        kl_lr: learning rate of the separate step on the spread's NLL and the KL; unused by "elbo". None takes the
            paper's 0.01, and scales the schedule so that the spread comes to kl_width; but not where num_steps is None
            or kl_step is "explicit".
        kl_lr_loc: the same for the mean. None takes kl_lr, or where that is None, too, one that takes a fifth of the
            mean at the most (`kl_rate.mean_time`).
        kl_width: share of the prior's standard deviation that the KL alone brings the posterior's to by the last step,
            in place of kl_lr. None takes `kl_rate.default_width`, which num_data, num_steps and the first batch's size
            say.
        kl_schedule: step (from 1) -> weight of the KL. None takes `kl_schedule.late` over num_steps where the KL widens
            to a width (num_steps is given, kl_lr is not, kl_step is "flow"); else the paper's ascending re-weighting,
            its cycle from `model.num_data`, the first batch's size and num_steps (`cycle_length`); and 1 for "elbo".
        kl_weight: factor on the schedule.
        kl_step: "flow" follows the KL for the time rate times weight, at any rate never past the prior
            (`AdapterGuide.descend_kl_`); "explicit" is the SGD step of the authors' code, which overshoots where that
            time is not well below prior_scale^2 (of a mean) or the square of a spread's root. Equal to first order;
            not of "elbo".
        warmup_ratio: share of num_steps over which learning rates rise from zero.
        gradient_accumulation_steps: forwards, one after another, that each process shares its items of a step out to,
            each with a draw of its own; the gradients are those of the whole batch, and the KL counts once.
        max_grad_norm: gradients are scaled down to this norm, all parameters together: those of the NLL, or for "elbo"
            those of the loss. None does not.
        mixed_precision: "no", "bf16" or "fp16": torch's autocast around the forward, for a base in float32, and for
            "fp16" a dynamic loss scale. Draws, KL and parameters keep their types.
        max_skipped_steps: a step whose loss or gradient is not finite changes nothing and is counted, up to so many;
            one more is an error. Steps that the loss scale of "fp16" skips to find its value are not among them.
        ranks: the processes that train together, each on its share of every batch; None is this one alone. All must
            hold the same parameters (`fit` sees to it) and call `step` with the same batch; each draws noise of its
            own, and the KL counts once.

    Attributes:
        steps_done: how many steps there were, those that were skipped too.
        num_skipped: how many of them count for `max_skipped_steps`.
        settled: how the KL acts, from the first step on; None where a rate says so.
        first_width: the guide's `width` before the first step.

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
        kl_lr: float | None = None,
        kl_lr_loc: float | None = None,
        kl_width: float | None = None,
        kl_schedule: KLSchedule | None = None,
        kl_weight: float = 1.0,
        kl_step: str = "flow",
        warmup_ratio: float = 0.06,
        gradient_accumulation_steps: int = 1,
        max_grad_norm: float | None = None,
        mixed_precision: str = "no",
        max_skipped_steps: int = 0,
        ranks: Ranks | None = None,
    ) -> None:
        given = locals()
        if recipe not in RECIPES:
            raise unknown_name("recipe", RECIPES, recipe)
        if kl_step not in KL_STEPS:
            raise unknown_name("kl_step", KL_STEPS, kl_step)
        if mixed_precision not in ("no", *AUTOCAST):
            raise ConfigError(f"mixed_precision: expected one of no, {', '.join(AUTOCAST)}; got {mixed_precision!r}")
        if not isinstance(guide, AdapterGuide):
            raise ConfigError(
                f"guide: expected one of bp.guides; got {type(guide).__name__}; train it with pyro.infer.SVI"
            )
        if guide.model is not model:
            guide.check_model(model)
        take_up_loaded(model.point_parameters() | guide.pyro_parameters())
        check_settings(given)
        widens = kl_lr is None and kl_step == "flow" and num_steps is not None and recipe != "elbo"
        if kl_width is not None and not widens:
            raise ConfigError(
                "kl_width: expected num_steps, kl_step='flow', a recipe other than elbo and no kl_lr beside it; got "
                f"num_steps={num_steps}, kl_step={kl_step!r}, recipe={recipe!r}, kl_lr={kl_lr}"
            )
        rate = PAPER_RATE if kl_lr is None else kl_lr
        rate_loc = rate if kl_lr_loc is None else kl_lr_loc
        settings = OptimSettings(lr, adam_eps, weight_decay, rate, rate_loc, num_steps, warmup_ratio, kl_step)
        self.model, self.guide = model, guide
        self.kl_weight = kl_weight
        self.steps_done = self.num_skipped = 0
        self.loss_scale = LossScale.of(mixed_precision)
        self.last_good: list[Tensor] | None = None
        self.recipe = RECIPES[recipe](model, guide, settings)
        self._pieces, self._max_grad_norm = gradient_accumulation_steps, max_grad_norm
        self._max_skipped = max_skipped_steps
        self._dtype = AUTOCAST.get(mixed_precision)
        self._ranks = ranks or Ranks()
        self._schedule = constant if kl_schedule is None and recipe == "elbo" else kl_schedule
        self._num_steps, self._warmup_ratio = num_steps, warmup_ratio
        self._kl_lr, self._kl_lr_loc, self._kl_width, self._widens = kl_lr, kl_lr_loc, kl_width, widens
        self.settled: Settled | None = None
        self._is_settled = num_steps is None or recipe == "elbo"
        self._kl_step_is_separate = recipe != "elbo"
        self._told = False
        self.first_width: float | None = None

    def step(self, batch: Batch) -> StepResult:
        """Update every parameter once, with one posterior draw a forward.

        Args:
            batch: all items of the step; of several processes each takes its share.

        Raises:
            NonFiniteLossError: the loss or a gradient is NaN or infinite once too often; the parameters are put back
                to the last ones whose loss and gradients were finite.
            DataError: the batch has no labels, or is none that the network can read.
            ConfigError: gradients are off around the call.
        """
        step, batch = self.steps_done + 1, Batch.of(batch)
        check_gradients("step")
        check_to_learn(batch, self.model)
        self.recipe.zero_grad()  # what a backward of one's own has left is no part of the step
        if step == 1:
            self.first_width = self.guide.width()
        if not self._is_settled:
            self._settle(batch)
        kl_weight = self.kl_weight * self.kl_schedule(batch)(step)
        nll = self._descend_nll(batch)
        kl = self.guide.kl()
        self.recipe.backward_kl(kl, kl_weight)
        norm = torch.nn.utils.get_total_norm(self._gradients())
        values = {"NLL": nll, "KL": kl, "loss": self.recipe.objective(nll, kl, kl_weight), "gradient norm": norm}
        scale = self.guide.mean_scale()
        values |= {} if scale is None else {"scale": scale}
        seen = dict(zip(values, numbers(*values.values()), strict=True))
        if odd := next((name for name, number in seen.items() if not math.isfinite(number)), None):
            self._skip(odd, seen[odd], step, batch)
        else:
            self._update(norm, kl_weight)
        self.steps_done = step
        self.recipe.set_rates(step)
        if step == self._num_steps and step > 1:  # a single step has a warm-up's rate of 0
            self.look_back()
        return StepResult(
            seen["NLL"], seen["KL"], kl_weight, seen["loss"], step, skipped=odd is not None, scale=seen.get("scale")
        )

    def kl_schedule(self, batch: Batch) -> KLSchedule:
        """The schedule in use; settled at the first call."""
        if self._schedule is None and self._widens:
            assert self._num_steps is not None
            self._schedule = partial(late, cycle=self._num_steps)
        elif self._schedule is None:
            num_data = self._num_data("kl_schedule")
            self._schedule = partial(reweighted, cycle=cycle_length(num_data, len(batch), num_steps=self._num_steps))
        return self._schedule

    def _num_data(self, setting: str) -> int:
        if self.model.num_data is None:
            raise ConfigError(f"{setting}: expected num_data on BayesianLoRA to set it; give one of the two")
        return self.model.num_data

    def _settle(self, batch: Batch) -> None:
        """Before the first step of a training of known length: how the KL acts, where that is left out; if it does."""
        self._is_settled = True
        schedule = self.kl_schedule(batch)
        assert self._num_steps is not None
        if self._wants_width() and never_acts(schedule, self._num_steps):
            self._tell(
                f"kl_schedule: expected weights that sum to 0.01 or more in {self._num_steps} steps; these do not: the "
                "posterior stays at its start; take cycle_length(..., num_steps=...), or kl_schedule=None"
            )
        if self._widens and self.guide.kl().requires_grad:
            self._widen(self._width_for(batch), schedule, self._num_steps)

    def _width_for(self, batch: Batch) -> float:
        if self._kl_width is not None:
            return self._kl_width
        assert self._num_steps is not None
        num_data = self._num_data("kl_width")
        return default_width(num_data, min(len(batch), num_data), self._num_steps)

    def _widen(self, width: float, schedule: KLSchedule, num_steps: int) -> None:
        """Scale the schedule so that the KL brings the spread to a width by the last step."""
        now = self.guide.width()
        if self._wants_width() and now > max(WIDE, WIDER * width):
            self._tell(
                f"kl_width: the posterior begins at {100 * now:.3g} % of the prior's standard deviation, and does not "
                f"narrow to the {100 * width:.3g} % asked for: take a larger kl_width or more steps, or for a new "
                "guide a smaller eps or init_scale"
            )
        before = self.settled
        if before is None or (before.width, before.num_steps) != (width, num_steps):
            of_mean = mean_time(width, self.model.prior_scale)
            if self.steps_done:  # what was trained before has had its share
                of_mean = max(0.0, of_mean - mean_time(min(now, width), self.model.prior_scale))
            of_spread = self._ranks.gather(self.guide.kl_time(width))[0]
            self.settled = Settled(width, num_steps, of_spread, of_mean, self.steps_done)
        assert self.settled is not None
        times, done = (self.settled.scale_time, self.settled.loc_time), self.settled.done
        kl = widening(schedule, num_steps, *times, warmup_ratio=self._warmup_ratio, done=done)
        self._schedule = kl.schedule
        self.recipe.set_kl_rates(kl.lr_loc if self._kl_lr_loc is None else self._kl_lr_loc, kl.lr)
        self.recipe.set_rates(self.steps_done)

    def _tell(self, line: str) -> None:
        """Warn, once of what becomes of the spread."""
        if not self._told:
            warnings.warn(line, stacklevel=5)
        self._told = True

    def _wants_width(self) -> bool:
        return bool(self.kl_weight > 0 and self._kl_lr != 0 and self.guide.scale_parameters())

    def look_back(self, step: int | None = None) -> None:
        """Say where a training that has ended leaves a spread that nobody asked for; the last `step` calls it.

        Args:
            step: the one that the parameters are from, where it is not the last (`train.eval_steps`).
        """
        if not self._wants_width():
            return
        width, first = self.guide.width(), self.first_width
        share = f"{100 * width:.1f} % of the prior's standard deviation"
        if step is not None and self.settled is not None and width < EARLY * self.settled.width:
            self._tell(
                f"the posterior is at {share}, where {100 * self.settled.width:.0f} % was asked for: its parameters "
                f"are those of step {step}, and the KL acts until step {self._num_steps}: leave eval_steps and "
                'patience out, or let the KL act earlier (kl_schedule="reweighted")'
            )
        elif first is not None and first / LEAST_GROWTH < width < min(NARROW, LEAST_GROWTH * first):
            self._tell(
                f"the posterior is where it began, at {share}: draws hardly differ; take a larger {self._knob()}, or "
                "more steps"
            )
        elif width > NEAR_PRIOR:
            learned = self.guide.log_prior_scale is not None
            cure = "hold the prior scale (prior_scale_spread)" if learned else f"take a smaller {self._knob()}"
            of = (
                f"the prior, whose learned scale is {float(torch.as_tensor(self.guide.prior_scale).detach()):.3g},"
                if learned
                else "the prior,"
            )
            self._tell(f"the posterior is {of} at {share}: draws tell nothing of the data; {cure}")

    def _knob(self) -> str:
        """What sets how far the KL widens."""
        if self._widens:
            return "kl_width"
        return "kl_lr or kl_weight" if self._kl_step_is_separate else "kl_weight"

    def _descend_nll(self, batch: Batch) -> Tensor:
        """Gradients of the whole batch's mean NLL, over all forwards and processes; and that NLL."""
        total = None
        for piece in share_out(batch, self.model.likelihood, self._ranks, self._pieces):
            with self._autocast():
                nll = negative_log_likelihood(self.model, self.guide, piece.batch) * piece.weight
            self.recipe.backward_nll(nll * self.loss_scale.value)
            total = nll.detach() if total is None else total + nll.detach()
        assert total is not None
        self._ranks.add_([*self._gradients(), total])
        self.loss_scale.unscale_(self._gradients())
        return total

    def _autocast(self) -> contextlib.AbstractContextManager[object]:
        if self._dtype is None:
            return contextlib.nullcontext()
        return torch.autocast(self.model.device.type, self._dtype)

    def _gradients(self) -> list[Tensor]:
        return [parameter.grad for parameter in self.recipe.parameters() if parameter.grad is not None]

    def _update(self, norm: Tensor, kl_weight: float) -> None:
        """One step of every optimiser, on gradients that are finite."""
        self._remember()
        if self._max_grad_norm is not None:
            parameters = list(self.recipe.parameters())
            torch.nn.utils.clip_grads_with_norm_(parameters, self._max_grad_norm, norm)
        self.loss_scale.succeeded()
        self.recipe.update(self.guide.kl, kl_weight)

    def _remember(self) -> None:
        """Keep a copy of the parameters: they have just shown a finite loss and gradient."""
        parameters = [parameter.detach() for parameter in self.recipe.parameters()]
        if self.last_good is None:
            self.last_good = [parameter.clone() for parameter in parameters]
        else:
            torch._foreach_copy_(self.last_good, parameters)

    def _restore(self) -> None:
        """Go back to the last remembered parameters, if an update has changed them since."""
        if self.last_good is not None:
            torch._foreach_copy_([parameter.detach() for parameter in self.recipe.parameters()], self.last_good)

    def _skip(self, name: str, number: float, step: int, batch: Batch) -> None:
        """Leave out a step that saw a number that is not finite; or the error that names it, once too often."""
        self.recipe.zero_grad()
        if self.loss_scale.overflowed():
            return
        self._restore()
        if self.num_skipped == self._max_skipped:
            items = () if batch.index is None else tuple(batch.index.tolist())
            before = f" (the {self.num_skipped} such steps before were skipped)" if self.num_skipped else ""
            raise NonFiniteLossError(
                f"step {step}: expected a finite {name}; got {number} on the batch of items "
                f"{', '.join(map(str, items)) or 'unnamed'}{before}; the last parameters with a finite loss are kept; "
                "try a smaller lr or kl_lr, or look at these items",
                items,
            )
        self.num_skipped += 1
