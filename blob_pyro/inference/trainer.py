"""`fit`: a thin loop around `BLoBSVI.step`, with a progress bar."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tqdm.auto import tqdm

from blob_pyro.config import TrainConfig
from blob_pyro.data.examples import Batch
from blob_pyro.errors import DataError
from blob_pyro.guides import AdapterGuide
from blob_pyro.handlers import flipout
from blob_pyro.inference.kl_rate import widening_rate
from blob_pyro.inference.kl_schedule import cycle_length, kl_schedule
from blob_pyro.inference.lr_schedule import linear_warmup_decay
from blob_pyro.inference.svi import BLoBSVI, StepResult
from blob_pyro.model import BayesianLoRA
from blob_pyro.modes import training_mode

Callback = Callable[[StepResult], None]

NUM_CYCLES = 3  # at the least: in a cycle that training does not see the end of, the KL does not act


def fit(
    model: BayesianLoRA,
    guide: AdapterGuide,
    loader: Iterable[Batch],
    config: TrainConfig | None = None,
    *,
    progress: bool = True,
    callbacks: Iterable[Callback] = (),
    description: str = "fit",
) -> list[StepResult]:
    """Learn the posterior: `config.num_steps` steps of `BLoBSVI`, going through `loader` again and again.

    The network is in training mode inside and gets its former modes back, also when a step raises.

    Args:
        model: the model; its `num_data` sets the default KL cycle.
        guide: the posterior.
        loader: batches with labels; iterated anew at each epoch.
        config: the training settings; the paper's by default.
        progress: show a progress bar with NLL, KL, KL weight, step time and time left.
        callbacks: called with each StepResult.
        description: title of the progress bar.

    Returns:
        One StepResult a step.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite; the parameters are the last good ones.
        DataError: the loader is empty.
    """
    config = config or TrainConfig()
    svi = make_svi(model, guide, config)
    history: list[StepResult] = []
    with training_mode(model), _noise(guide, config), _bar(config.num_steps, description, progress) as bar:
        for batch in _take(loader, config.num_steps):
            start = time.perf_counter()
            result = svi.step(batch.to(model.device))
            history.append(result)
            for callback in callbacks:
                callback(result)
            bar.update()
            bar.set_postfix_str(_status(result, time.perf_counter() - start), refresh=False)
    return history


def make_svi(model: BayesianLoRA, guide: AdapterGuide, config: TrainConfig) -> BLoBSVI:
    """The BLoBSVI that `config` describes."""
    return BLoBSVI(
        model,
        guide,
        recipe=config.recipe,
        num_steps=config.num_steps,
        lr=config.lr,
        adam_eps=config.adam_eps,
        weight_decay=config.weight_decay,
        kl_lr=kl_learning_rate(config, model.num_data, model.prior_scale),
        kl_schedule=_kl_schedule(config, model.num_data),
        kl_weight=config.kl_weight,
        warmup_ratio=config.warmup_ratio,
    )


def kl_learning_rate(config: TrainConfig, num_data: int | None, prior_scale: float) -> float:
    """`config.kl_lr`, or the rate that widens the posterior in these steps as far as the paper's settings do.

    Args:
        config: the training settings.
        num_data: number of training items, or None; it sets the default KL cycle.
        prior_scale: standard deviation of the prior.
    """
    if config.kl_lr is not None:
        return config.kl_lr
    schedule, num_warmup = _kl_schedule(config, num_data), int(config.num_steps * config.warmup_ratio)

    def kl_weight(step: int) -> float:
        return schedule(step) * linear_warmup_decay(step - 1, config.num_steps, num_warmup)

    return widening_rate(kl_weight, config.num_steps, prior_scale)


def _kl_schedule(config: TrainConfig, num_data: int | None) -> Callable[[int], float]:
    return kl_schedule(config.kl_schedule, config.kl_cycle or _default_cycle(config, num_data))


def _default_cycle(config: TrainConfig, num_data: int | None) -> int:
    """The paper's rule, or a third of the steps; for a warm-up, or an unknown number of items, the warm-up's length."""
    if config.kl_schedule == "warmup" or num_data is None:
        return max(1, int(config.num_steps * config.warmup_ratio))
    return max(1, min(cycle_length(num_data, config.batch_size), config.num_steps // NUM_CYCLES))


def _noise(guide: AdapterGuide, config: TrainConfig) -> contextlib.AbstractContextManager[object]:
    """Flipout, where it is asked for and the guide's noise can be flipped."""
    return flipout() if config.flipout and guide.supports_flipout else contextlib.nullcontext()


def _bar(total: int, description: str, progress: bool) -> tqdm[Any]:
    """One line of at most 80 characters; tqdm's own bar would push the numbers off a narrow terminal."""
    line = "{desc} {percentage:.0f}% {n_fmt}/{total_fmt}, {remaining} left{postfix}"
    return tqdm(total=total, desc=description, disable=not progress, bar_format=line, dynamic_ncols=True)


def _status(result: StepResult, seconds: float) -> str:
    times = f"{1000 * seconds:.0f} ms/step"
    return f"NLL {result.nll:.2f}, KL {result.kl:.1e}, KL weight {result.kl_weight:.0e}, {times}"


def _take(loader: Iterable[Batch], num_steps: int) -> Iterator[Batch]:
    """The first `num_steps` batches of endless passes over `loader`."""
    done = 0
    while done < num_steps:
        before = done
        for batch in loader:
            yield batch
            done += 1
            if done == num_steps:
                return
        if done == before:
            raise DataError("expected at least one batch to train on; got an empty loader")
