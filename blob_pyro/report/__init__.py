"""Tables of what `evaluate` measures; `report.plots` has the pictures."""

from blob_pyro.report.comparison import Outcome, comparison_csv, comparison_markdown
from blob_pyro.report.tables import annotators_table, markdown_table, metrics_table, seeds_table

__all__ = [
    "Outcome",
    "annotators_table",
    "comparison_csv",
    "comparison_markdown",
    "markdown_table",
    "metrics_table",
    "seeds_table",
]
