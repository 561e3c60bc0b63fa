"""Pictures with matplotlib, drawn through its object interface: no pyplot figure, no change of backend.

Every function takes axes (`ax`) or makes a figure of its own that belongs to no backend, and returns the axes it drew
on: one `Axes` for a picture of one panel, a tuple of them, rows first, for one of several (`ax` then takes as many, in
any nesting, such as what `Figure.subplots` returns). `ax.figure` is the figure; `save_figure` writes it. Where
predictions are drawn, a run does as well (what `bp.load` gives, or its directory), and so it does where a training is.

Colours are those of Okabe and Ito, and cividis for heat maps; lines differ in marks and strokes too, bars in hatches,
so that colour-blind people and grey prints lose nothing.
"""

from blob_pyro.report.plots.draws import draws_histogram
from blob_pyro.report.plots.embedding import Plane, embedding_plot, mass_contour, principal_plane
from blob_pyro.report.plots.growth import growth_plot
from blob_pyro.report.plots.methods import methods_plot
from blob_pyro.report.plots.num_samples import num_samples_plot, scores_by_count
from blob_pyro.report.plots.reliability import reliability_diagram, reliability_diagrams
from blob_pyro.report.plots.risk_coverage import risk_coverage_plot
from blob_pyro.report.plots.saving import save_figure, save_png_and_svg
from blob_pyro.report.plots.scales import scale_heatmap
from blob_pyro.report.plots.settings import settings_heatmap, settings_plot
from blob_pyro.report.plots.style import wilson_interval
from blob_pyro.report.plots.training import training_curves

__all__ = [
    "Plane",
    "draws_histogram",
    "embedding_plot",
    "growth_plot",
    "mass_contour",
    "methods_plot",
    "num_samples_plot",
    "principal_plane",
    "reliability_diagram",
    "reliability_diagrams",
    "risk_coverage_plot",
    "save_figure",
    "save_png_and_svg",
    "scale_heatmap",
    "scores_by_count",
    "settings_heatmap",
    "settings_plot",
    "training_curves",
    "wilson_interval",
]
