"""The tables of a report: scores with standard errors, of one run or of several systems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from blob_pyro.evaluation.metrics import Metrics, Scores
from blob_pyro.report.comparison import Cells, Outcome, comparison_cells
from blob_pyro.report.page.naming import System
from blob_pyro.report.tables import ANNOTATOR_COLUMNS, annotators_of, columns_of, score_cells, value_cell
from blob_pyro.storage.run_files import RunFiles

Rows = dict[str, dict[int, Outcome | None]]


def scores_table(run: RunFiles) -> Cells | None:
    """A row for the posterior mean and one for the draws, each score ± its standard error over the items."""
    if not run.metrics:
        return None
    first = next(iter(run.metrics.values()))
    header = ["answers", *(heading for heading, *_ in columns_of(first))]
    body = [[name, *score_cells(scores)] for name, scores in run.metrics.items()]
    of_ece = "; of the ECE over bootstrap resamples of them" if isinstance(first, Metrics) else ""
    notes = (
        f"± is the standard error over {first.num_items:,} test items{of_ece}. NLL in nats. N is the number of draws "
        "that are averaged; N=0 is the posterior mean, or a point."
    )
    return Cells(header, body, notes)


def annotators_table(run: RunFiles) -> Cells | None:
    """The scores against the shares of the annotators, where the test items have some."""
    found = {name: against for name, scores in run.metrics.items() if (against := annotators_of(scores)) is not None}
    if not found:
        return None
    body = [
        [name, *(value_cell(getattr(against, field), getattr(against, f"{field}_se"), factor, decimals)
                 for _, field, factor, decimals in ANNOTATOR_COLUMNS)]
        for name, against in found.items()
    ]  # fmt: skip
    header = ["answers", *(heading for heading, *_ in ANNOTATOR_COLUMNS)]
    return Cells(header, body, "Against the shares of the annotators, not against the class of the largest share.")


def system_rows(systems: Sequence[System]) -> Rows:
    """Row of the table -> seed -> outcome: of each system the posterior mean and the most draws."""
    rows: Rows = {}
    for system in systems:
        for key in _keys(system):
            name = system.name if _is_point(system) else f"{system.name} {key}"
            rows[name] = {seed: _outcome(run, key) for seed, run in system.runs.items()}
    return rows


def systems_table(rows: Rows) -> Cells | None:
    """The table of several systems; None where no run has scores, or they are of different kinds."""
    found = [outcome.metrics for by_seed in rows.values() for outcome in by_seed.values() if outcome is not None]
    if not found or len({type(scores) for scores in found}) > 1:
        return None
    return comparison_cells(rows)


def scores_of_rows(rows: Rows) -> Mapping[str, Sequence[Scores]]:
    """Row -> the scores of its seeds, without rows that have none."""
    found = {name: [outcome.metrics for outcome in by_seed.values() if outcome] for name, by_seed in rows.items()}
    return {name: scores for name, scores in found.items() if scores}


def _keys(system: System) -> list[str]:
    """ "N=0" and "N=<draws>", as far as the runs have them."""
    return list(dict.fromkeys(key for run in system.runs.values() for key in run.metrics))


def _is_point(system: System) -> bool:
    return _keys(system) == ["N=0"]


def _outcome(run: RunFiles, key: str) -> Outcome | None:
    """The scores of a run under a number of draws, with its cost."""
    if key not in run.metrics:
        return None
    cost = run.cost
    counts = [cost[name] for name in ("adapter_parameters", "guide_parameters") if name in cost]
    return Outcome(
        run.metrics[key],
        seconds=cost["train_seconds"] + cost.get("tune_seconds", 0.0) if "train_seconds" in cost else None,
        num_parameters=int(sum(counts)) if counts else None,
        num_samples=int(key.removeprefix("N=")) if key.removeprefix("N=").isdigit() else None,
    )
