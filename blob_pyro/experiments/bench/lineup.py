"""From a case to the actions that are timed: one for each contender, on the same batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from blob_pyro.data.examples import Batch
from blob_pyro.experiments.bench.batches import prompt_batch, train_batches
from blob_pyro.experiments.bench.bookkeeping import NUM_LABELS, VOCAB_SIZE, adapters_only, num_normals
from blob_pyro.experiments.bench.clock import Action
from blob_pyro.experiments.bench.networks import Base
from blob_pyro.experiments.bench.prediction import PREDICTORS
from blob_pyro.experiments.bench.settings import BenchSettings, Case
from blob_pyro.experiments.bench.training import TRAINEES, Blob, LoRAAnswer, Trainee
from blob_pyro.model.likelihoods import SequenceClassification

BOOKKEEPERS: dict[str, type[Trainee]] = {"lora": LoRAAnswer, "blob": Blob}


def line_up(settings: BenchSettings, case: Case, base: Base | None, names: Sequence[str]) -> dict[str, Action]:
    """What to time in a case.

    Args:
        settings: the benchmark.
        case: one point of its grid.
        base: the pretrained network; None for the bookkeeping part, which has its own.
        names: the contenders.

    Returns:
        Contender -> what it does in a round.
    """
    if base is None:
        return {name: _bookkeeper(settings, case, name) for name in names}
    make = _trainee if case.part == "train" else _predictor
    return {name: make(settings, case, base, name) for name in names}


def num_tokens(settings: BenchSettings, case: Case, vocab_size: int) -> int:
    """Real tokens in the batch of a round, padding left out."""
    if case.part == "predict":
        return int(prompt_batch(settings, vocab_size).attention_mask.sum())
    return settings.batch_size * case.length


def own_sites(base: Base, layers: int) -> tuple[int, ...]:
    """Width of the A matrix of each layer that the adapter adapts."""
    weights = base.adapted(layers).named_parameters()
    return tuple(weight.shape[1] for name, weight in weights if "lora_A" in name)


def _trainee(settings: BenchSettings, case: Case, base: Base, name: str) -> Action:
    kind = TRAINEES[name]
    trainee = kind(base.adapted(case.layers, plain=kind.plain_attention), base.likelihood)
    return _steps(trainee, train_batches(settings, case.length, base.vocab_size))


def _predictor(settings: BenchSettings, case: Case, base: Base, name: str) -> Action:
    kind = PREDICTORS[name]
    predictor = kind(base.adapted(case.layers, plain=kind.plain_attention), base.likelihood, case.num_samples)
    batch = prompt_batch(settings, base.vocab_size)
    return lambda number: predictor.predict(batch)


def _bookkeeper(settings: BenchSettings, case: Case, name: str) -> Action:
    if name == "randn":
        count = num_normals(settings, case.in_features)
        return lambda number: torch.randn(count, device=settings.device)
    kind = BOOKKEEPERS[name]
    trainee = kind(adapters_only(settings, case.in_features), SequenceClassification(NUM_LABELS))
    return _steps(trainee, train_batches(settings, 1, VOCAB_SIZE))


def _steps(trainee: Trainee, batches: list[Batch]) -> Action:
    return lambda number: trainee.step(batches[number % len(batches)])
