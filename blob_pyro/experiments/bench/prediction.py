"""Predictions with N forwards' worth of draws: plain LoRA, ours, and Pyro's own Predictive."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import pyro
import torch
from torch import Tensor

from blob_pyro.data.examples import Batch
from blob_pyro.experiments.bench.networks import full_logits
from blob_pyro.guides import BLoBGuide
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.likelihoods import MultipleChoice
from blob_pyro.prediction.predictive import PosteriorPredictive


class Predictor(ABC):
    """Abstract. One way to answer a batch N times and average.

    Args:
        network: the PEFT model; it is put in evaluation mode.
        likelihood: the answers.
        num_samples: N.
    """

    plain_attention = True

    def __init__(self, network: Any, likelihood: MultipleChoice, num_samples: int) -> None:
        self.network = network.eval()
        self.likelihood = likelihood
        self.num_samples = num_samples

    @abstractmethod
    def predict(self, batch: Batch) -> Tensor:
        """(B, K) mean probabilities, on the CPU."""


class _PlainLoRA(Predictor):
    """Abstract. N times the same forward of the posterior mean: what N draws of another network would cost."""

    @abstractmethod
    def logits(self, batch: Batch) -> Tensor:
        """(B, K), float32."""

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        probs = [self.logits(batch).softmax(-1) for _ in range(self.num_samples)]
        return torch.stack(probs).mean(0).cpu()


class LoRAFull(_PlainLoRA):
    """N forwards of the padded batch, each with the logits of the whole vocabulary at every position."""

    def logits(self, batch: Batch) -> Tensor:
        return full_logits(self.network, batch, self.likelihood.token_ids)


class LoRAAnswer(_PlainLoRA):
    """N forwards of the padded batch, each with the answers' rows at the last position."""

    def logits(self, batch: Batch) -> Tensor:
        return self.likelihood.logits(self.network, batch)


class _Bayesian(Predictor):
    """Abstract. A `BayesianLoRA` and its guide."""

    plain_attention = False

    def __init__(self, network: Any, likelihood: MultipleChoice, num_samples: int) -> None:
        super().__init__(network, likelihood, num_samples)
        self.model = BayesianLoRA(network, likelihood)
        self.guide = BLoBGuide(self.model)


class Blob(_Bayesian):
    """`bp.PosteriorPredictive`."""

    def predict(self, batch: Batch) -> Tensor:
        return PosteriorPredictive(self.model, self.guide, self.num_samples)(batch).probs


class Predictive(_Bayesian):
    """`pyro.infer.Predictive` on the same model and guide."""

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        predictive = pyro.infer.Predictive(
            self.model, guide=self.guide, num_samples=self.num_samples, return_sites=("_RETURN",)
        )
        logits: Tensor = predictive(batch)["_RETURN"]
        return logits.softmax(-1).mean(0).cpu()


PREDICTORS: dict[str, type[Predictor]] = {
    "lora_full": LoRAFull,
    "lora_answer": LoRAAnswer,
    "blob": Blob,
    "predictive": Predictive,
}
