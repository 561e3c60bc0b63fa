"""`--as draws:K`: K sampled adapters as ordinary PEFT folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blob_pyro.errors import UnsupportedPosteriorError
from blob_pyro.guides import AdapterGuide, EnsembleGuide
from blob_pyro.runs.exports.adapter import write_adapter
from blob_pyro.runs.exports.subject import Subject
from blob_pyro.system.progress import counted
from blob_pyro.training.random_state import seeded


def write_draws(subject: Subject, folder: Path, num_draws: int, seed: int, progress: bool = False) -> dict[str, Any]:
    """draw_0 to draw_{K-1}, each with its own lora_A (or lora_B, or both) and everything else of the adapter.

    Averaging their probabilities is what `PosteriorPredictive` does on the same draws; with the run's seed and its
    number of draws they are those of its metrics.

    Args:
        subject: the run.
        folder: where to.
        num_draws: K.
        seed: of the draws.
        progress: show progress.

    Returns:
        Entries of the manifest.

    Raises:
        UnsupportedPosteriorError: the guide is a point, or an ensemble has fewer members than K.
    """
    _check(subject, num_draws)
    others: list[str] = []
    with counted(num_draws, "export", unit="draws", show=progress) as tell:
        for position, draw in enumerate(seeded_draws(subject.guide, num_draws, seed)):
            others = write_adapter(folder / f"draw_{position}", subject.run.model, subject.base, draw)
            tell()
    return {
        "num_draws": num_draws,
        "seed": seed,
        "draws": [f"draw_{position}" for position in range(num_draws)],
        "average": "the mean over the draws of softmax(logits), every draw with the same weight; not of the logits",
        "other_tensors": others,
    }


def seeded_draws(guide: AdapterGuide, num_draws: int, seed: int) -> list[dict[str, Tensor]]:
    """The draws that `PosteriorPredictive` makes after `pyro.set_rng_seed(seed)`; global random states stay."""
    with seeded(seed, guide.model.device), torch.no_grad():
        return guide.sample_draws(num_draws)


def _check(subject: Subject, num_draws: int) -> None:
    guide = subject.guide
    if not guide.is_random:
        raise UnsupportedPosteriorError(
            f"--as draws: expected a posterior to draw from; got the guide {subject.guide_name!r}, a point; "
            "take --as mean"
        )
    if isinstance(guide, EnsembleGuide) and num_draws > guide.num_members:
        raise UnsupportedPosteriorError(
            f"--as draws: expected at most the ensemble's {guide.num_members} members, each a draw; got {num_draws}"
        )
