"""The paper's figures 2 to 5: one function a figure, `(order) -> Reproduction`."""

from blob_pyro.experiments.paper.figures.embeddings import figure5
from blob_pyro.experiments.paper.figures.growth import figure2
from blob_pyro.experiments.paper.figures.num_samples import figure3
from blob_pyro.experiments.paper.figures.settings_grid import figure4

__all__ = ["figure2", "figure3", "figure4", "figure5"]
