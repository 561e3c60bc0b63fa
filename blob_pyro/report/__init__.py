"""Pictures and tables of what `evaluate` measures."""

from blob_pyro.report.plots import reliability_diagram, save_figure
from blob_pyro.report.table import metrics_table, seeds_table

__all__ = ["metrics_table", "reliability_diagram", "save_figure", "seeds_table"]
