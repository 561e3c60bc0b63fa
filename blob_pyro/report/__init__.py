"""Pictures (`report.plots`) and tables of what `evaluate` measures."""

from blob_pyro.report.comparison import Outcome, comparison_csv, comparison_markdown
from blob_pyro.report.plots import (
    draws_histogram,
    embedding_plot,
    growth_plot,
    methods_plot,
    num_samples_plot,
    reliability_diagram,
    reliability_diagrams,
    risk_coverage_plot,
    save_figure,
    save_png_and_svg,
    scale_heatmap,
    settings_heatmap,
    settings_plot,
    training_curves,
)
from blob_pyro.report.table import annotators_table, metrics_table, seeds_table

__all__ = [
    "Outcome",
    "annotators_table",
    "comparison_csv",
    "comparison_markdown",
    "draws_histogram",
    "embedding_plot",
    "growth_plot",
    "methods_plot",
    "metrics_table",
    "num_samples_plot",
    "reliability_diagram",
    "reliability_diagrams",
    "risk_coverage_plot",
    "save_figure",
    "save_png_and_svg",
    "scale_heatmap",
    "seeds_table",
    "settings_heatmap",
    "settings_plot",
    "training_curves",
]
