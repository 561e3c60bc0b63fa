"""What a run is to be: frozen settings that check themselves, and the YAML files that hold them."""

from blob_pyro.config.data import DataConfig
from blob_pyro.config.sections import GuideConfig, ModelConfig, PredictConfig, RunConfig, TrainConfig, TuneConfig

__all__ = ["DataConfig", "GuideConfig", "ModelConfig", "PredictConfig", "RunConfig", "TrainConfig", "TuneConfig"]
