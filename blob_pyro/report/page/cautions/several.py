"""Can runs be compared with one another?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from blob_pyro.report.page.cautions.caution import Caution
from blob_pyro.report.page.naming import System
from blob_pyro.storage.run_files import RunFiles


def cautions_of_several(systems: Sequence[System]) -> list[Caution]:
    """What to be wary of in a table of several runs."""
    return [*_other_items(systems), *_single_seeds(systems), *_other_data(systems)]


def _other_items(systems: Sequence[System]) -> Iterator[Caution]:
    runs = [run for system in systems for run in system.runs.values()]
    items = {_test_items(run) for run in runs} - {None}
    if len(items) > 1:
        yield Caution(
            f"The runs have {len(items)} different sets of test items: their scores cannot be compared.", serious=True
        )
    untested = sum(not run.metrics for run in runs)
    if untested:
        yield Caution(f"{untested} of {len(runs)} runs have no scores and are not in the table.", serious=True)


def _test_items(run: RunFiles) -> object:
    """What the items of two runs must share: ids, prompts and labels."""
    if run.answers is not None:
        labels = run.answers.predictions.labels
        assert labels is not None
        return run.answers.ids, run.answers.prompts, run.answers.class_names, tuple(labels.tolist())
    return None if run.texts is None else (run.texts.ids, run.texts.prompts, run.texts.completions)


def _single_seeds(systems: Sequence[System]) -> Iterator[Caution]:
    if len(systems) > 1 and all(len(system.runs) == 1 for system in systems):
        yield Caution(
            "Every system has a single seed: ± is over the test items, and how much another seed would change is not "
            "in it."
        )
    counts = {len(system.runs) for system in systems}
    if len(counts) > 1:
        yield Caution(f"The systems have different numbers of seeds ({min(counts)} to {max(counts)}).")


def _other_data(systems: Sequence[System]) -> Iterator[Caution]:
    names = ("task", "dataset", "train_file", "num_train", "prompt", "completion")
    told = {tuple(str(getattr(system.first.config.data, name)) for name in names) for system in systems}
    if len(told) > 1:
        yield Caution("The systems were not trained on the same data, or not by the same prompt.", serious=True)
    if len({system.first.config.model.id for system in systems}) > 1:
        yield Caution("The systems have different base models.")
