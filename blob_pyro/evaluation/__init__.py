"""How good, and how honest, predictions are."""

from blob_pyro.evaluation.abstain import Selection, empirical_selection, guaranteed_selection
from blob_pyro.evaluation.acquisition import Acquired, acquire
from blob_pyro.evaluation.annotators import AnnotatorMetrics
from blob_pyro.evaluation.bins import calibrated_ece
from blob_pyro.evaluation.conformal import SET_SCORES, ConformalSets, fit_conformal
from blob_pyro.evaluation.metrics import Metrics, ReliabilityBins, evaluate, reliability_bins
from blob_pyro.evaluation.scores import NEED_DRAWS, SCORES, mutual_information, predictive_entropy, uncertainty
from blob_pyro.evaluation.selective import RiskCoverage, risk_coverage
from blob_pyro.evaluation.shift import ShiftDetection, auroc_out_of_distribution, ood_p_values
from blob_pyro.evaluation.temperature import Temperature, fit_temperature
from blob_pyro.evaluation.tokens import TokenMetrics, evaluate_tokens

__all__ = [
    "NEED_DRAWS",
    "SCORES",
    "SET_SCORES",
    "Acquired",
    "AnnotatorMetrics",
    "ConformalSets",
    "Metrics",
    "ReliabilityBins",
    "RiskCoverage",
    "Selection",
    "ShiftDetection",
    "Temperature",
    "TokenMetrics",
    "acquire",
    "auroc_out_of_distribution",
    "calibrated_ece",
    "empirical_selection",
    "evaluate",
    "evaluate_tokens",
    "fit_conformal",
    "fit_temperature",
    "guaranteed_selection",
    "mutual_information",
    "ood_p_values",
    "predictive_entropy",
    "reliability_bins",
    "risk_coverage",
    "uncertainty",
]
