"""The optimisation that a configuration describes, its rules for what is left out worked out."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from blob_pyro.config.sections import TrainConfig
from blob_pyro.guides import AdapterGuide
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.system.processes import Ranks
from blob_pyro.training.kl_rate import widening_rate, with_warmup
from blob_pyro.training.kl_schedule import cycle_length, kl_schedule
from blob_pyro.training.svi import BLoBSVI


def make_svi(model: BayesianLoRA, guide: AdapterGuide, config: TrainConfig, ranks: Ranks | None = None) -> BLoBSVI:
    """The BLoBSVI that `config` describes, whose settings have the same names; of several processes, one of theirs."""
    by_rule = {
        "kl_lr": kl_learning_rate(config, model.num_data, model.prior_scale),
        "kl_schedule": _kl_schedule(config, model.num_data),
    }
    settings = {name: getattr(config, name) for name in inspect.signature(BLoBSVI).parameters if hasattr(config, name)}
    return BLoBSVI(model, guide, **settings | by_rule, ranks=ranks)


def kl_learning_rate(config: TrainConfig, num_data: int | None, prior_scale: float) -> float:
    """`config.kl_lr`, or the rate that widens the posterior in these steps as far as the paper's settings do.

    Args:
        config: the training settings.
        num_data: number of training items, or None; it sets the default KL cycle.
        prior_scale: standard deviation of the prior.
    """
    if config.kl_lr is not None:
        return config.kl_lr
    acting = with_warmup(_kl_schedule(config, num_data), config.num_steps, config.warmup_ratio)
    return widening_rate(acting, config.num_steps, prior_scale)


def _kl_schedule(config: TrainConfig, num_data: int | None) -> Callable[[int], float]:
    return kl_schedule(config.kl_schedule, config.kl_cycle or _default_cycle(config, num_data))


def _default_cycle(config: TrainConfig, num_data: int | None) -> int:
    """The paper's rule, or a third of the steps; for a warm-up, or an unknown number of items, the warm-up's length."""
    if config.kl_schedule == "warmup" or num_data is None:
        return max(1, int(config.num_steps * config.warmup_ratio))
    return cycle_length(num_data, config.batch_size, num_steps=config.num_steps)
