"""The tables of a report: scores with standard errors, of one run or of several systems."""

from __future__ import annotations

from collections.abc import Sequence

from blob_pyro.evaluation.metrics import Metrics
from blob_pyro.report.comparison import Outcome, Rows, comparison_cells, scores_of_rows
from blob_pyro.report.page.naming import System
from blob_pyro.report.tables import Cells, columns_of, score_cells
from blob_pyro.storage.run_files import RunFiles


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


def system_rows(systems: Sequence[System]) -> Rows:
    """Row of the table -> seed -> outcome: of each system the posterior mean and the most draws."""
    rows: Rows = {}
    for system in systems:
        for key in _keys(system):
            name = system.name if _is_point(system) else f"{system.name} {key}"
            rows[name] = {
                seed: Outcome.of(run.metrics[key], run.cost, key) if key in run.metrics else None
                for seed, run in system.runs.items()
            }
    return rows


def systems_table(rows: Rows) -> Cells | None:
    """The table of several systems; None where no run has scores, or they are of different kinds."""
    kinds = {type(scores) for runs in scores_of_rows(rows).values() for scores in runs}
    if len(kinds) != 1:
        return None
    return comparison_cells(rows)


def _keys(system: System) -> list[str]:
    """ "N=0" and "N=<draws>", as far as the runs have them."""
    return list(dict.fromkeys(key for run in system.runs.values() for key in run.metrics))


def _is_point(system: System) -> bool:
    return _keys(system) == ["N=0"]
