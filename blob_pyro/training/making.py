"""The optimisation that a configuration describes, its rules for what is left out worked out."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence, Sized
from statistics import fmean

from blob_pyro.config.sections import TrainConfig
from blob_pyro.data.batches.loaders import batches_of
from blob_pyro.data.examples import Batch
from blob_pyro.guides import AdapterGuide
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.system.processes import Ranks
from blob_pyro.training.kl_rate import default_width
from blob_pyro.training.kl_schedule import cycle_length, kl_schedule
from blob_pyro.training.svi import BLoBSVI


def make_svi(
    model: BayesianLoRA,
    guide: AdapterGuide,
    config: TrainConfig,
    ranks: Ranks | None = None,
    loader: Iterable[Batch] = (),
) -> BLoBSVI:
    """The BLoBSVI that `config` describes, whose settings have the same names; of several processes, one of theirs.

    The items of a step are counted in `loader` where it tells them, and are `config.batch_size` else.
    """
    by_rule = {
        "kl_width": kl_width(config, model.num_data, _items_a_step(loader)),
        "kl_schedule": _kl_schedule(config, model.num_data),
    }
    settings = {name: getattr(config, name) for name in inspect.signature(BLoBSVI).parameters if hasattr(config, name)}
    return BLoBSVI(model, guide, **settings | by_rule, ranks=ranks)


def _items_a_step(loader: Iterable[Batch]) -> float | None:
    """On average over a pass; None where the loader does not tell."""
    if isinstance(loader, Sequence):
        return fmean(map(len, batches_of(loader))) if loader else None
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, Sized) and isinstance(loader, Sized) and len(loader):
        return len(dataset) / len(loader)
    return None


def kl_width(config: TrainConfig, num_data: int | None, batch_size: float | None = None) -> float | None:
    """`config.kl_width`, or what the rule takes for it; None where a rate is set in its place.

    Args:
        config: the training settings.
        num_data: number of training items; None takes them for a single pass.
        batch_size: items a step, on average; None takes `config.batch_size`. No more than there are.
    """
    if not config.widens:
        return None
    items = batch_size or config.batch_size
    total = num_data or max(1, int(config.num_steps * items))
    return config.kl_width or default_width(total, min(items, total), config.num_steps)


def _kl_schedule(config: TrainConfig, num_data: int | None) -> Callable[[int], float]:
    return kl_schedule(config.schedule, config.kl_cycle or _default_cycle(config.schedule, config, num_data))


def _default_cycle(name: str, config: TrainConfig, num_data: int | None) -> int:
    """All steps; the paper's rule, or a third of them; for a warm-up, or an unknown number of items, its length."""
    if name == "late":
        return config.num_steps
    if name == "warmup" or num_data is None:
        return max(1, int(config.num_steps * config.warmup_ratio))
    return cycle_length(num_data, config.batch_size, num_steps=config.num_steps)
