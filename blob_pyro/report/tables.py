"""Tables of metrics in Markdown, aligned so that a plain terminal shows them well; lines of any table as CSV."""

from __future__ import annotations

import csv
import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from blob_pyro.evaluation.annotators import AnnotatorMetrics
from blob_pyro.evaluation.metrics import Metrics, Scores
from blob_pyro.evaluation.tokens import TokenMetrics

# (heading, field of Metrics, factor, decimals)
COLUMNS = (
    ("accuracy %", "accuracy", 100, 1),
    ("NLL", "nll", 1, 3),
    ("ECE %", "ece", 100, 1),
    ("Brier", "brier", 1, 3),
)
# The same of TokenMetrics
TOKEN_COLUMNS = (
    ("NLL / token", "nll", 1, 3),
    ("perplexity", "perplexity", 1, 2),
    ("NLL / text", "sequence_nll", 1, 2),
    ("entropy", "entropy", 1, 3),
    ("mutual inf.", "mutual_information", 1, 4),
)

# (heading, field of AnnotatorMetrics, factor, decimals)
ANNOTATOR_COLUMNS = (
    ("expected accuracy %", "expected_accuracy", 100, 1),
    ("expected NLL", "expected_nll", 1, 3),
    ("expected ECE %", "expected_ece", 100, 1),
    ("expected Brier", "expected_brier", 1, 3),
    ("KL", "kl", 1, 3),
    ("DistCE %", "dist_ce", 100, 1),
)


@dataclass(frozen=True)
class Cells:
    """A table before it has a format.

    Attributes:
        header: of the columns, the first being the method's.
        body: rows of as many cells.
        notes: what is to be known of it, such as what ± stands for.
    """

    header: list[str]
    body: list[list[str]]
    notes: str


def columns_of(scores: Scores) -> tuple[tuple[str, str, int, int], ...]:
    """The columns of a table of such scores: heading, field, factor, decimals."""
    return TOKEN_COLUMNS if isinstance(scores, TokenMetrics) else COLUMNS


def annotators_of(scores: Scores) -> AnnotatorMetrics | None:
    """The scores against annotators; None where there are none, as of texts."""
    return scores.annotators if isinstance(scores, Metrics) else None


def score_cells(scores: Scores) -> list[str]:
    """Each score ± its standard error, under `columns_of`; alone where it has none."""
    return [
        value_cell(getattr(scores, field), getattr(scores, f"{field}_se", math.nan), factor, decimals)
        for _, field, factor, decimals in columns_of(scores)
    ]


def metrics_table(rows: Mapping[str, Scores]) -> str:
    """One row per method: each score ± its standard error over the items.

    Args:
        rows: method name -> its metrics, in the order to print; all of one kind.

    Returns:
        A Markdown table without a final newline. Accuracy and ECE in per cent, NLL in nats per item, or per token
        and per text. A score without a standard error (a single item) stands alone.

    Raises:
        ValueError: there are no rows.

    Example:
        >>> metrics = Metrics(0.67, 1.19, 0.213, 0.45, 0.5, 0.1, 400, 10, 15, 0.0235, 0.061, 0.018, 0.019)
        >>> print(metrics_table({"BLoB": metrics}))
        | method | accuracy % |           NLL |      ECE % |         Brier |
        | :----- | ---------: | ------------: | ---------: | ------------: |
        | BLoB   | 67.0 ± 2.4 | 1.190 ± 0.061 | 21.3 ± 1.9 | 0.450 ± 0.018 |
    """
    body = [[name, *score_cells(metrics)] for name, metrics in rows.items()]
    columns = columns_of(next(iter(rows.values()))) if rows else ()
    return markdown_table(["method", *(heading for heading, *_ in columns)], body)


def annotators_table(rows: Mapping[str, Scores]) -> str:
    """One row per method whose test items carry shares of annotators, each score ± its standard error over the items.

    Args:
        rows: method name -> its metrics, in the order to print.

    Returns:
        A Markdown table and a line with the floor of the NLL, without a final newline; "" where no method has such
        scores.
    """
    cells = annotators_cells(rows)
    return "" if cells is None else f"{markdown_table(cells.header, cells.body)}\n\n{cells.notes}"


def annotators_cells(rows: Mapping[str, Scores]) -> Cells | None:
    """What `annotators_table` writes, cell by cell; None where no method has such scores."""
    found = {name: against for name, scores in rows.items() if (against := annotators_of(scores)) is not None}
    if not found:
        return None
    header = ["against annotators", *(heading for heading, *_ in ANNOTATOR_COLUMNS)]
    body = [
        [name, *(value_cell(getattr(scores, field), getattr(scores, f"{field}_se"), factor, decimals)
                 for _, field, factor, decimals in ANNOTATOR_COLUMNS)]
        for name, scores in found.items()
    ]  # fmt: skip
    floor = next(iter(found.values())).annotator_entropy
    note = f"The annotators' own entropy, {floor:.3f} nats, is the floor of the expected NLL; KL is what lies above it."
    return Cells(header, body, note)


def seeds_table(rows: Mapping[str, Sequence[Metrics]]) -> str:
    """One row per method: each score's mean ± standard deviation (n - 1) over its seeds.

    Args:
        rows: method name -> the metrics of its seeds, in the order to print.

    Returns:
        A Markdown table without a final newline. A score of a single seed stands alone.

    Raises:
        ValueError: there are no rows, or a method has no metrics.

    Example:
        >>> first = Metrics(0.66, 1.2, 0.20, 0.46, 0.5, 0.1, 400, 10, 15, 0.0237, 0.061, 0.018, 0.019)
        >>> second = Metrics(0.68, 1.1, 0.22, 0.44, 0.5, 0.1, 400, 10, 15, 0.0233, 0.061, 0.018, 0.019)
        >>> print(seeds_table({"BLoB": [first, second]}))
        | method | seeds | accuracy % |           NLL |      ECE % |         Brier |
        | :----- | ----: | ---------: | ------------: | ---------: | ------------: |
        | BLoB   |     2 | 67.0 ± 1.4 | 1.150 ± 0.071 | 21.0 ± 1.4 | 0.450 ± 0.014 |
    """
    header = ["method", "seeds", *(heading for heading, *_ in COLUMNS)]
    return markdown_table(header, [_seeds_row(name, metrics) for name, metrics in rows.items()])


def _seeds_row(name: str, metrics: Sequence[Metrics]) -> list[str]:
    """The cells of one method in `seeds_table`."""
    if not metrics:
        raise ValueError(f"expected metrics of at least one seed; got none for {name!r}; leave the method out")
    cells = [name, str(len(metrics))]
    for _, field, factor, decimals in COLUMNS:
        values = [getattr(one, field) for one in metrics]
        spread = statistics.stdev(values) if len(values) > 1 else math.nan
        cells.append(value_cell(statistics.fmean(values), spread, factor, decimals))
    return cells


def value_cell(value: float, spread: float, factor: int, decimals: int) -> str:
    """'value ± spread', or 'value' where the spread is NaN."""
    text = f"{factor * value:.{decimals}f}"
    return text if math.isnan(spread) else f"{text} ± {factor * spread:.{decimals}f}"


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    """A Markdown table: the first column to the left, the others to the right, all padded to one width."""
    if not body:
        raise ValueError("expected at least one row; got none; give a mapping from method names to metrics")
    lines = [[cell.replace("|", "\\|") for cell in row] for row in (header, *body)]
    widths = [max(2, *(len(row[column]) for row in lines)) for column in range(len(header))]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [cell.ljust(width) if column == 0 else cell.rjust(width)
         for column, (cell, width) in enumerate(zip(row, widths, strict=True))]
        for row in lines
    ]  # fmt: skip
    return "\n".join("| " + " | ".join(row) + " |" for row in (padded[0], rule, *padded[1:]))


def csv_text(lines: Sequence[Mapping[str, object]], delimiter: str = ",") -> str:
    """Lines as the text of a CSV file with a header: a column for each name, in the order in which they first come.

    Numbers have full precision. What a line lacks, None and NaN are empty.
    """
    text = io.StringIO()
    names = dict.fromkeys(name for line in lines for name in line)
    writer = csv.DictWriter(text, list(names), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    # only NaN is not itself
    writer.writerows({name: value if value == value else None for name, value in line.items()} for line in lines)
    return text.getvalue()
