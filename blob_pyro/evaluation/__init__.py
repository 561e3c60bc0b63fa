"""How good, and how honest, predictions are."""

from blob_pyro.evaluation.metrics import Metrics, ReliabilityBins, evaluate, reliability_bins
from blob_pyro.evaluation.uncertainty import mutual_information, predictive_entropy

__all__ = [
    "Metrics",
    "ReliabilityBins",
    "evaluate",
    "mutual_information",
    "predictive_entropy",
    "reliability_bins",
]
