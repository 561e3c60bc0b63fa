"""`blob-pyro compare`: several systems under one configuration and several seeds, and one table."""

from blob_pyro.experiments.compare.comparison import Comparison, compare

__all__ = ["Comparison", "compare"]
