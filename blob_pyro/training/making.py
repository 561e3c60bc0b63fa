"""The optimisation that a configuration describes, its rules for what is left out worked out."""

from __future__ import annotations

import inspect
from collections.abc import Callable

from blob_pyro.config.sections import TrainConfig
from blob_pyro.guides import AdapterGuide
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.system.processes import Ranks
from blob_pyro.training.kl_rate import default_width
from blob_pyro.training.kl_schedule import cycle_length, kl_schedule
from blob_pyro.training.svi import BLoBSVI


def make_svi(model: BayesianLoRA, guide: AdapterGuide, config: TrainConfig, ranks: Ranks | None = None) -> BLoBSVI:
    """The BLoBSVI that `config` describes, whose settings have the same names; of several processes, one of theirs."""
    by_rule = {"kl_width": kl_width(config, model.num_data), "kl_schedule": _kl_schedule(config, model.num_data)}
    settings = {name: getattr(config, name) for name in inspect.signature(BLoBSVI).parameters if hasattr(config, name)}
    return BLoBSVI(model, guide, **settings | by_rule, ranks=ranks)


def kl_width(config: TrainConfig, num_data: int | None) -> float | None:
    """`config.kl_width`, or what the rule takes for it; None where a rate is set in its place.

    Args:
        config: the training settings.
        num_data: number of training items; None takes them for a single pass.
    """
    if not config.widens:
        return None
    seen = config.num_steps * config.batch_size
    return config.kl_width or default_width(num_data or seen, config.batch_size, config.num_steps)


def _kl_schedule(config: TrainConfig, num_data: int | None) -> Callable[[int], float]:
    name = config.kl_schedule or ("late" if config.widens else "reweighted")
    return kl_schedule(name, config.kl_cycle or _default_cycle(name, config, num_data))


def _default_cycle(name: str, config: TrainConfig, num_data: int | None) -> int:
    """All steps; the paper's rule, or a third of them; for a warm-up, or an unknown number of items, its length."""
    if name == "late":
        return config.num_steps
    if name == "warmup" or num_data is None:
        return max(1, int(config.num_steps * config.warmup_ratio))
    return cycle_length(num_data, config.batch_size, num_steps=config.num_steps)
