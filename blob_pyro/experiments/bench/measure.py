"""`bench`: time a training step and a prediction of this library against other ways to make them.

Contenders run interleaved in one process (A B C, A B C, ...), after a warm-up, on the same token batches and on
networks with the same weights; what is told are medians of the ratios of each round.
"""

from __future__ import annotations

from collections.abc import Callable

import pyro
import torch

from blob_pyro.errors import ConfigError
from blob_pyro.experiments.bench.clock import interleaved
from blob_pyro.experiments.bench.lineup import line_up, num_tokens, own_sites
from blob_pyro.experiments.bench.memory import measure_memory
from blob_pyro.experiments.bench.networks import Base
from blob_pyro.experiments.bench.results import BenchResult, Measurement, now
from blob_pyro.experiments.bench.settings import BenchSettings, Case
from blob_pyro.system.machine import describe_machine
from blob_pyro.system.progress import counted
from blob_pyro.training.random_state import seeded


def bench(
    settings: BenchSettings,
    *,
    command: str = "",
    on_measurement: Callable[[BenchResult], object] = lambda result: None,
    progress: bool = False,
) -> BenchResult:
    """Measure every case of the grid.

    Pyro's param store and torch's random state are as before afterwards.

    Args:
        settings: what to measure.
        command: the command line, for the record.
        on_measurement: called after each case with all that has been found so far.
        progress: show progress between the rounds of each case.

    Returns:
        The times, memory and machine.

    Raises:
        ModelLoadError: the model was not found or could not be read.
        ConfigError: a setting does not fit the model or the machine.
        BlobPyroError: a process that was to measure memory failed.
    """
    check_device(settings.device)
    base = Base(settings) if settings.names("train") or settings.names("predict") else None
    result = BenchResult(settings, command, now(), describe_machine(settings.device), ())
    for case in plan(settings, base):
        found = measure(settings, case, base, progress=progress)
        result = BenchResult(settings, command, result.date, result.machine, (*result.measurements, found))
        on_measurement(result)
    return result


def plan(settings: BenchSettings, base: Base | None) -> list[Case]:
    """The grid, in the order in which it is measured.

    Where a step is measured, its bookkeeping is too, with the model's own sites.

    Args:
        settings: the benchmark.
        base: the pretrained network; None where only bookkeeping is measured.
    """
    layers = settings.layers or ((base.num_layers,) if base else ())
    cases = []
    if settings.names("train"):
        cases += [Case("train", number, length=length) for number in layers for length in settings.length]
    if settings.names("predict"):
        cases += [Case("predict", number, num_samples=n) for number in layers for n in settings.num_samples]
    if settings.names("bookkeeping"):
        cases.append(Case("bookkeeping", in_features=(settings.in_features,) * settings.num_sites))
        if base is not None and settings.names("train"):
            cases += [Case("bookkeeping", n, in_features=own_sites(base, n), own_sites=True) for n in layers]
    return cases


def measure(settings: BenchSettings, case: Case, base: Base | None, *, progress: bool = False) -> Measurement:
    """Time one case and, where asked for, measure its memory."""
    names = settings.names(case.part)
    has_network = case.part != "bookkeeping"
    rounds = settings.warmup + settings.rounds
    with (
        seeded(settings.seed, torch.device(settings.device)),
        pyro.get_param_store().scope(),
        counted(rounds, case.part, unit="rounds", show=progress) as tell,
    ):
        actions = line_up(settings, case, base if has_network else None, names)
        seconds = interleaved(
            actions,
            settings.rounds,
            settings.warmup,
            synchronize=synchronizer(settings.device),
            on_round=tell,
        )
    memory = {name: measure_memory(settings, case, name) for name in names} if settings.memory and has_network else {}
    tokens = num_tokens(settings, case, base.vocab_size if base else 0) if has_network else settings.batch_size
    return Measurement(case, tokens, seconds, memory)


def synchronizer(device: str) -> Callable[[], object]:
    """What waits until a GPU has done all that was asked of it; nothing elsewhere."""
    return (lambda: torch.cuda.synchronize(device)) if device.startswith("cuda") else (lambda: None)


def check_device(device: str) -> None:
    """Raise unless torch can compute there.

    Raises:
        ConfigError: it cannot.
    """
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"device: expected one that torch can use here, like 'cpu'; got {device!r}") from error
