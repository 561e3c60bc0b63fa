"""How good, and how honest, predictions are."""

from blob_pyro.evaluation.calibrated_ece import calibrated_ece
from blob_pyro.evaluation.metrics import Metrics, ReliabilityBins, evaluate, reliability_bins
from blob_pyro.evaluation.scale_growth import scale_growth
from blob_pyro.evaluation.selective import RiskCoverage, risk_coverage
from blob_pyro.evaluation.shift import ShiftDetection, auroc_out_of_distribution
from blob_pyro.evaluation.temperature import Temperature, fit_temperature
from blob_pyro.evaluation.tokens import TokenMetrics, evaluate_tokens
from blob_pyro.evaluation.uncertainty import mutual_information, predictive_entropy

__all__ = [
    "Metrics",
    "ReliabilityBins",
    "RiskCoverage",
    "ShiftDetection",
    "Temperature",
    "TokenMetrics",
    "auroc_out_of_distribution",
    "calibrated_ece",
    "evaluate",
    "evaluate_tokens",
    "fit_temperature",
    "mutual_information",
    "predictive_entropy",
    "reliability_bins",
    "risk_coverage",
    "scale_growth",
]
