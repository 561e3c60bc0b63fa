"""A training that has ended goes on: the state behind its last step, of which the parameters alone were kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyro
import torch

from blob_pyro.config.sections import TrainConfig
from blob_pyro.data.examples import Batch
from blob_pyro.guides import AdapterGuide
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.system.processes import Ranks
from blob_pyro.training.checkpoints import Checkpoints
from blob_pyro.training.making import make_svi
from blob_pyro.training.passes import Place
from blob_pyro.training.training_state import Best, TrainingState


@dataclass(frozen=True)
class Past:
    """What lies behind a training that goes on for longer.

    Attributes:
        steps: that were done.
        seconds: that they took.
        best: the lowest held-out NLL, nats per item, and its step, whose parameters are those that were kept; None
            where there was none, and they are those of the last step.
    """

    steps: int
    seconds: float
    best: tuple[float, int] | None = None


def begin_behind(
    past: Past,
    model: BayesianLoRA,
    guide: AdapterGuide,
    loader: Iterable[Batch],
    config: TrainConfig,
    checkpoints: Checkpoints,
    *,
    seed: int,
) -> None:
    """Write the checkpoint from which `fit(resume=True)` goes on behind the last step of a training.

    Model and guide are where that left them, learning rates and KL weights where the schedules of `config.num_steps`
    steps have them. The optimisers' moments begin anew, and so do the order of the items and the draws, from a seed.
    Every process calls it.

    Args:
        past: what lies behind.
        model: the model.
        guide: its posterior.
        loader: as in `fit`.
        config: the training settings, with num_steps of the whole training.
        checkpoints: where to write it.
        seed: of what is random from here on.

    Raises:
        CheckpointError: it could not be written.
    """
    ranks = Ranks.here()
    svi = make_svi(model, guide, config, ranks, loader)
    svi.steps_done, svi.first_width = past.steps, guide.width()
    best = Best(svi.recipe.parameters(), config.patience)
    if past.best is not None:
        best.see(*past.best)
    pyro.set_rng_seed((seed + ranks.index) % 2**32)
    ordered = getattr(loader, "generator", None) is None
    place = Place(0, None if ordered else torch.Generator().manual_seed(seed).get_state())
    checkpoints.save(TrainingState.of(svi, place, best, ranks), ranks)
