"""Pictures and tables of what `evaluate` measures."""

from blob_pyro.report.comparison import Outcome, comparison_csv, comparison_markdown
from blob_pyro.report.embedding import embedding_plot
from blob_pyro.report.growth import growth_plot
from blob_pyro.report.methods import methods_plot, reliability_diagrams
from blob_pyro.report.plots import reliability_diagram, save_figure, save_png_and_svg
from blob_pyro.report.sweeps import num_samples_plot, settings_plot
from blob_pyro.report.table import annotators_table, metrics_table, seeds_table

__all__ = [
    "Outcome",
    "annotators_table",
    "comparison_csv",
    "comparison_markdown",
    "embedding_plot",
    "growth_plot",
    "methods_plot",
    "metrics_table",
    "num_samples_plot",
    "reliability_diagram",
    "reliability_diagrams",
    "save_figure",
    "save_png_and_svg",
    "seeds_table",
    "settings_plot",
]
