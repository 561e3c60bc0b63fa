"""blob_pyro: Bayesian low-rank adaptation of large language models (BLoB) in Pyro.

text -> Batch -> BayesianLoRA (model) + guide -> SVI -> posterior -> PosteriorPredictive -> Predictions -> Metrics
"""

from blob_pyro import distributions, guides
from blob_pyro.config.sections import (
    DataConfig,
    GuideConfig,
    ModelConfig,
    PredictConfig,
    RunConfig,
    TrainConfig,
    TuneConfig,
)
from blob_pyro.data.batches.collate import collate, encode
from blob_pyro.data.batches.completions import encode_completions, num_predicted
from blob_pyro.data.batches.label_tokens import answer_token_ids, label_token_ids
from blob_pyro.data.batches.loaders import predict_loader, train_loader
from blob_pyro.data.examples import Batch, Example
from blob_pyro.data.tasks.load import load_task
from blob_pyro.errors import BlobPyroError
from blob_pyro.evaluation import (
    AnnotatorMetrics,
    ConformalSets,
    Metrics,
    Selection,
    Temperature,
    TokenMetrics,
    acquire,
    auroc_out_of_distribution,
    calibrated_ece,
    empirical_selection,
    evaluate,
    evaluate_tokens,
    fit_conformal,
    fit_temperature,
    guaranteed_selection,
    ood_p_values,
    risk_coverage,
    uncertainty,
)
from blob_pyro.evaluation.predictions import Predictions, TokenPredictions
from blob_pyro.experiments.compare import compare
from blob_pyro.guides import BLoBGuide, MAPGuide, MLEGuide
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.handlers import flipout
from blob_pyro.model.likelihoods import CausalLM, MultipleChoice, SequenceClassification, WholeAnswer
from blob_pyro.model.loading import load_tokenizer
from blob_pyro.prediction.generation import Generations, generate
from blob_pyro.prediction.linearised import LinearisedPredictive
from blob_pyro.prediction.predictive import PosteriorPredictive
from blob_pyro.prediction.token_predictive import TokenPredictive
from blob_pyro.runs.evaluate import evaluate_run
from blob_pyro.runs.exports import export, push_to_hub
from blob_pyro.runs.fit import fit_run
from blob_pyro.runs.predict import predict_run
from blob_pyro.storage import load_authors_checkpoint
from blob_pyro.storage.saving import Run, load, save
from blob_pyro.training.checkpoints import Checkpoints
from blob_pyro.training.ensemble import fit_ensemble
from blob_pyro.training.svi import BLoBSVI, StepResult
from blob_pyro.training.trainer import fit

__version__ = "0.1.0"

__all__ = [
    "AnnotatorMetrics",
    "BLoBGuide",
    "BLoBSVI",
    "Batch",
    "BayesianLoRA",
    "BlobPyroError",
    "CausalLM",
    "Checkpoints",
    "ConformalSets",
    "DataConfig",
    "Example",
    "Generations",
    "GuideConfig",
    "LinearisedPredictive",
    "MAPGuide",
    "MLEGuide",
    "Metrics",
    "ModelConfig",
    "MultipleChoice",
    "PosteriorPredictive",
    "PredictConfig",
    "Predictions",
    "Run",
    "RunConfig",
    "Selection",
    "SequenceClassification",
    "StepResult",
    "Temperature",
    "TokenMetrics",
    "TokenPredictions",
    "TokenPredictive",
    "TrainConfig",
    "TuneConfig",
    "WholeAnswer",
    "acquire",
    "answer_token_ids",
    "auroc_out_of_distribution",
    "calibrated_ece",
    "collate",
    "compare",
    "distributions",
    "empirical_selection",
    "encode",
    "encode_completions",
    "evaluate",
    "evaluate_run",
    "evaluate_tokens",
    "export",
    "fit",
    "fit_conformal",
    "fit_ensemble",
    "fit_run",
    "fit_temperature",
    "flipout",
    "generate",
    "guaranteed_selection",
    "guides",
    "label_token_ids",
    "load",
    "load_authors_checkpoint",
    "load_task",
    "load_tokenizer",
    "num_predicted",
    "ood_p_values",
    "predict_loader",
    "predict_run",
    "push_to_hub",
    "risk_coverage",
    "save",
    "train_loader",
    "uncertainty",
]
