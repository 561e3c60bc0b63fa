"""blob_pyro: Bayesian low-rank adaptation of large language models (BLoB) in Pyro.

text -> Batch -> BayesianLoRA (model) + guide -> SVI -> posterior -> PosteriorPredictive -> Predictions -> Metrics
"""

from blob_pyro import distributions, guides
from blob_pyro.checkpoint import Run, load, save
from blob_pyro.config import DataConfig, GuideConfig, ModelConfig, PredictConfig, RunConfig, TrainConfig, TuneConfig
from blob_pyro.data.collate import collate, encode, label_token_ids
from blob_pyro.data.examples import Batch, Example
from blob_pyro.data.loaders import predict_loader, train_loader
from blob_pyro.data.tasks import load_task
from blob_pyro.errors import BlobPyroError
from blob_pyro.evaluation import (
    Metrics,
    Temperature,
    auroc_out_of_distribution,
    calibrated_ece,
    evaluate,
    fit_temperature,
    risk_coverage,
)
from blob_pyro.generation import Generations, generate
from blob_pyro.guides import BLoBGuide, MAPGuide, MLEGuide
from blob_pyro.handlers import flipout
from blob_pyro.inference.ensemble import fit_ensemble
from blob_pyro.inference.svi import BLoBSVI, StepResult
from blob_pyro.inference.trainer import fit
from blob_pyro.likelihoods import MultipleChoice, SequenceClassification
from blob_pyro.linearised import LinearisedPredictive
from blob_pyro.loading import load_tokenizer
from blob_pyro.model import BayesianLoRA
from blob_pyro.predictions import Predictions
from blob_pyro.predictive import PosteriorPredictive

__version__ = "0.1.0"

__all__ = [
    "BLoBGuide",
    "BLoBSVI",
    "Batch",
    "BayesianLoRA",
    "BlobPyroError",
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
    "SequenceClassification",
    "StepResult",
    "Temperature",
    "TrainConfig",
    "TuneConfig",
    "auroc_out_of_distribution",
    "calibrated_ece",
    "collate",
    "distributions",
    "encode",
    "evaluate",
    "fit",
    "fit_ensemble",
    "fit_temperature",
    "flipout",
    "generate",
    "guides",
    "label_token_ids",
    "load",
    "load_task",
    "load_tokenizer",
    "predict_loader",
    "risk_coverage",
    "save",
    "train_loader",
]
