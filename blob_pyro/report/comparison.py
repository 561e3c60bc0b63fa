"""Several methods over several seeds: one Markdown table to read, one CSV file to compute with."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields

from blob_pyro.errors import DataError
from blob_pyro.evaluation.annotators import AnnotatorMetrics
from blob_pyro.evaluation.metrics import OWN_SCORES, Metrics, Scores
from blob_pyro.report.tables import (
    ANNOTATOR_COLUMNS,
    COLUMNS,
    Cells,
    annotators_of,
    columns_of,
    csv_text,
    markdown_table,
    value_cell,
)

COUNTS = ("N", "parameters", "num_items", "num_tokens", "num_samples", "num_bins")
HEAD = ("method", "row", "seed")
SECONDS, PARAMETERS = ("train_seconds", "tune_seconds"), ("adapter_parameters", "guide_parameters")
"""What a run's cost is made of."""

ANNOTATOR_SCORES = tuple(column.name for column in fields(AnnotatorMetrics))
ANNOTATED = [column for column in ANNOTATOR_COLUMNS if column[1] in ("expected_accuracy", "expected_nll", "dist_ce")]
"""The scores against annotators that a table shows; a CSV file has all of them."""


@dataclass(frozen=True)
class Outcome:
    """What one run of one method gave.

    Attributes:
        metrics: scores on the test items; all outcomes of a table have the same kind.
        seconds: training time, or None.
        num_parameters: trainable numbers, or None.
        num_samples: posterior draws N at prediction, 0 for the posterior mean; or None.
        further: other scores by name (an AUROC, say), each a column of its own.

    Raises:
        DataError: a further score has the name of a column that is there anyway.
    """

    metrics: Scores
    seconds: float | None = None
    num_parameters: int | None = None
    num_samples: int | None = None
    further: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, scores: Scores, cost: Mapping[str, float], answers: str) -> Outcome:
        """Of a run.

        Args:
            scores: of its answers.
            cost: seconds and parameters by name, as far as they are known.
            answers: which they are, "N=0" or "N=<draws>".
        """
        seconds, parameters = ([cost[name] for name in names if name in cost] for names in (SECONDS, PARAMETERS))
        return cls(
            scores,
            seconds=sum(seconds) if seconds else None,
            num_parameters=int(sum(parameters)) if parameters else None,
            num_samples=int(answers.removeprefix("N=")),
        )

    def __post_init__(self) -> None:
        own = (*HEAD, *_own_columns(type(self.metrics)), *ANNOTATOR_SCORES)
        taken = [name for name in self.further if name in own]
        if taken:
            raise DataError(f"further: expected names that no other column has; got {taken[0]!r}; rename it")


Outcomes = Mapping[str, Mapping[int, Outcome | None]]
"""Method -> seed -> outcome, in the order to print. None, or a seed that only other methods have, is a missing run."""
Rows = dict[str, dict[int, Outcome | None]]
"""`Outcomes` that are being collected."""


def scores_of_rows(outcomes: Outcomes) -> dict[str, list[Scores]]:
    """Row -> the scores of its runs, without rows that have none."""
    scores = {row: [run.metrics for run in by_seed.values() if run] for row, by_seed in outcomes.items()}
    return {row: runs for row, runs in scores.items() if runs}


def _own_columns(kind: type[Scores]) -> tuple[str, ...]:
    """The columns of a CSV file that are there for every outcome."""
    scores = OWN_SCORES if issubclass(kind, Metrics) else tuple(column.name for column in fields(kind))
    return ("N", "parameters", "train_seconds", *scores)


def comparison_markdown(outcomes: Outcomes) -> str:
    """A table with one row a method, and below it what the ± stands for and which runs are missing.

    With several seeds a cell is the mean ± the standard deviation (n - 1) over the method's runs, and a single run
    stands alone. With one seed in all, ± is the standard error over the test items. The columns N, parameters, train
    s, those of scores against annotators, and those of further scores are there if any outcome has them; "-" stands
    for what a method has not.

    Args:
        outcomes: method -> seed -> outcome.

    Returns:
        Markdown without a final newline. Accuracy and ECE in per cent, NLL in nats per item.

    Raises:
        DataError: there is no method, or no seed.

    Example:
        >>> first = Metrics(0.66, 1.2, 0.20, 0.46, 0.5, 0.1, 400, 10, 15, 0.0237, 0.061, 0.018, 0.019)
        >>> second = Metrics(0.68, 1.1, 0.22, 0.44, 0.5, 0.1, 400, 10, 15, 0.0233, 0.061, 0.018, 0.019)
        >>> print(comparison_markdown({"BLoB": {0: Outcome(first), 1: Outcome(second)}, "TFB": {0: Outcome(first)}}))
        | method |  seeds | accuracy % |           NLL |      ECE % |         Brier |
        | :----- | -----: | ---------: | ------------: | ---------: | ------------: |
        | BLoB   |      2 | 67.0 ± 1.4 | 1.150 ± 0.071 | 21.0 ± 1.4 | 0.450 ± 0.014 |
        | TFB    | 1 of 2 |       66.0 |         1.200 |       20.0 |         0.460 |
        <BLANKLINE>
        ± is the standard deviation over seeds (0, 1); a single run stands alone. Missing runs: TFB (seed 1).
    """
    found = comparison_cells(outcomes)
    return f"{markdown_table(found.header, found.body)}\n\n{found.notes}"


def comparison_cells(outcomes: Outcomes) -> Cells:
    """What `comparison_markdown` writes, cell by cell.

    Raises:
        DataError: there is no method, or no seed.
    """
    seeds = _seeds(outcomes)
    rows = {method: _runs(by_seed, seeds) for method, by_seed in outcomes.items()}
    everything = [run for runs in rows.values() for run in runs.values()]
    header = ["method", *_headings(everything, len(seeds))]
    body = [[method, *_cells(list(runs.values()), everything, len(seeds))] for method, runs in rows.items()]
    return Cells(header, body, _notes(rows, seeds))


def comparison_csv(outcomes: Outcomes) -> str:
    """Every run, and each method's mean and standard deviation, in full precision.

    The column "row" says what a line holds: "run" (one seed), "missing" (a run that is not there), "mean", or "std"
    (n - 1, over the method's runs; empty for a single one). A method without a run has neither mean nor std. Scores
    are shares and nats, not per cent. Means are not taken of standard errors; counts stand beside the means where
    all runs agree on them.

    Args:
        outcomes: method -> seed -> outcome.

    Returns:
        The text of a CSV file, with a header.

    Raises:
        DataError: there is no method, or no seed.

    Example:
        >>> metrics = Metrics(0.66, 1.2, 0.20, 0.46, 0.5, 0.1, 400, 10, 15, 0.0237, 0.061, 0.018, 0.019)
        >>> text = comparison_csv({"BLoB": {0: Outcome(metrics, num_samples=10), 1: None}})
        >>> for line in text.splitlines():
        ...     print(line[:60])
        method,row,seed,N,parameters,train_seconds,accuracy,nll,ece,
        BLoB,run,0,10,,,0.66,1.2,0.2,0.46,0.5,0.1,400,10,15,0.0237,0
        BLoB,missing,1,,,,,,,,,,,,,,,,
        BLoB,mean,,10,,,0.66,1.2,0.2,0.46,0.5,0.1,400,10,15,,,,
        BLoB,std,,,,,,,,,,,,,,,,,
    """
    return csv_text(comparison_lines(outcomes))


def comparison_lines(outcomes: Outcomes) -> list[dict[str, object]]:
    """What `comparison_csv` writes, line by line: column -> value, None where there is none.

    Raises:
        DataError: there is no method, or no seed.
    """
    seeds = _seeds(outcomes)
    rows = {method: _runs(by_seed, seeds) for method, by_seed in outcomes.items()}
    everything = [run for runs in rows.values() for run in runs.values()]
    kind = type(everything[0].metrics) if everything else Metrics
    against = ANNOTATOR_SCORES if _annotated(everything) else ()
    columns = [*_own_columns(kind), *against, *_further(everything)]
    lines: list[dict[str, object]] = []
    for method, runs in rows.items():
        records = {seed: _record(runs.get(seed)) for seed in seeds}
        for seed, record in records.items():
            head = {"method": method, "row": "run" if seed in runs else "missing", "seed": seed}
            lines.append(head | {column: record.get(column) for column in columns})
        for what, summary in (("mean", _mean), ("std", _std)) if runs else ():
            values = {column: summary(column, [records[seed].get(column) for seed in runs]) for column in columns}
            lines.append({"method": method, "row": what, "seed": None, **values})
    return lines


def _seeds(outcomes: Outcomes) -> list[int]:
    """Every seed that any method has, in the order in which they come."""
    if not outcomes:
        raise DataError("outcomes: expected at least one method; got none; give method -> seed -> outcome")
    seeds = list(dict.fromkeys(seed for by_seed in outcomes.values() for seed in by_seed))
    if not seeds:
        raise DataError("outcomes: expected at least one seed; got none; name missing runs as seed -> None")
    return seeds


def _runs(by_seed: Mapping[int, Outcome | None], seeds: Sequence[int]) -> dict[int, Outcome]:
    """The runs that are there, in the order of the seeds."""
    found = ((seed, by_seed.get(seed)) for seed in seeds)
    return {seed: outcome for seed, outcome in found if outcome is not None}


def _further(runs: Iterable[Outcome]) -> list[str]:
    """Names of the further scores, in the order in which they come."""
    return list(dict.fromkeys(name for run in runs for name in run.further))


def _annotated(runs: Iterable[Outcome]) -> list[AnnotatorMetrics]:
    """The scores against annotators of the runs that have some."""
    return [found for run in runs if (found := annotators_of(run.metrics)) is not None]


def _headings(everything: Sequence[Outcome], num_seeds: int) -> list[str]:
    return [
        *(["N"] if _any(everything, "num_samples") else []),
        *(["seeds"] if num_seeds > 1 else []),
        *(heading for heading, *_ in _columns(everything)),
        *(heading for heading, *_ in ANNOTATED if _annotated(everything)),
        *_further(everything),
        *(["parameters"] if _any(everything, "num_parameters") else []),
        *(["train s"] if _any(everything, "seconds") else []),
    ]


def _columns(everything: Sequence[Outcome]) -> tuple[tuple[str, str, int, int], ...]:
    """The columns of scores: heading, field, factor, decimals."""
    return columns_of(everything[0].metrics) if everything else COLUMNS


def _cells(runs: Sequence[Outcome], everything: Sequence[Outcome], num_seeds: int) -> list[str]:
    """The cells of one method, under `_headings`."""
    cells = [_count_cell(runs, "num_samples")] if _any(everything, "num_samples") else []
    if num_seeds > 1:
        cells.append(str(num_seeds) if len(runs) == num_seeds else f"{len(runs)} of {num_seeds}")
    for _, name, factor, decimals in _columns(everything):
        values = [getattr(run.metrics, name) for run in runs]
        alone = getattr(runs[0].metrics, f"{name}_se", math.nan) if runs and num_seeds == 1 else math.nan
        cells.append(_score_cell(values, alone, factor, decimals))
    for _, name, factor, decimals in ANNOTATED if _annotated(everything) else ():
        values = [getattr(scores, name) for scores in _annotated(runs)]
        alone = getattr(_annotated(runs)[0], f"{name}_se") if values and num_seeds == 1 else math.nan
        cells.append(_score_cell(values, alone, factor, decimals))
    for name in _further(everything):
        cells.append(_score_cell([run.further[name] for run in runs if name in run.further], math.nan, 1, 3))
    if _any(everything, "num_parameters"):
        cells.append(_count_cell(runs, "num_parameters"))
    if _any(everything, "seconds"):
        cells.append(_score_cell([run.seconds for run in runs if run.seconds is not None], math.nan, 1, 0))
    return cells


def _any(runs: Sequence[Outcome], name: str) -> bool:
    return any(getattr(run, name) is not None for run in runs)


def _score_cell(values: Sequence[float], spread_of_one: float, factor: int, decimals: int) -> str:
    """Mean ± standard deviation of several values, a single value ± its own error, "-" for none."""
    if not values:
        return "-"
    spread = statistics.stdev(values) if len(values) > 1 else spread_of_one
    return value_cell(statistics.fmean(values), spread, factor, decimals)


def _count_cell(runs: Sequence[Outcome], name: str) -> str:
    """A count on which the runs agree, or its range; "-" for none."""
    values = sorted({value for run in runs if (value := getattr(run, name)) is not None})
    return " to ".join(f"{value:,}" for value in dict.fromkeys((values[0], values[-1]))) if values else "-"


def _notes(rows: Mapping[str, Mapping[int, Outcome]], seeds: Sequence[int]) -> str:
    """What ± is, and which runs are missing."""
    listed = ", ".join(map(str, seeds))
    if len(seeds) == 1:
        counts = sorted({run.metrics.num_items for runs in rows.values() for run in runs.values()})
        items = f"{counts[0]:,} test items" if len(counts) == 1 else "the test items"
        notes = [f"± is the standard error over {items} of one seed ({listed})."]
    else:
        alone = "; a single run stands alone" if any(len(runs) == 1 for runs in rows.values()) else ""
        notes = [f"± is the standard deviation over seeds ({listed}){alone}."]
    missing = {method: [seed for seed in seeds if seed not in runs] for method, runs in rows.items()}
    gaps = [
        f"{method} ({'seed' if len(gone) == 1 else 'seeds'} {', '.join(map(str, gone))})"
        for method, gone in missing.items()
        if gone
    ]
    return " ".join([*notes, *([f"Missing runs: {', '.join(gaps)}."] if gaps else [])])


def _record(run: Outcome | None) -> dict[str, float | int | None]:
    """The columns of a CSV line after method, row and seed; nothing for no run."""
    if run is None:
        return {}
    return {
        "N": run.num_samples,
        "parameters": run.num_parameters,
        "train_seconds": run.seconds,
        **run.metrics.to_dict(),
        **run.further,
    }


def _mean(column: str, values: Sequence[float | int | None]) -> float | int | None:
    """Mean of what is there; of counts their common value; none of standard errors."""
    found = [value for value in values if value is not None]
    if column in COUNTS:
        return found[0] if len(set(found)) == 1 else None
    return statistics.fmean(found) if found and not column.endswith("_se") else None


def _std(column: str, values: Sequence[float | int | None]) -> float | None:
    """Standard deviation (n - 1) of scores and seconds; none of counts and standard errors."""
    found = [value for value in values if value is not None]
    if len(found) < 2 or column in COUNTS or column.endswith("_se"):
        return None
    return statistics.stdev(found)
