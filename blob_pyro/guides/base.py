"""What every guide over an adapter's A matrices has in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions.kl import kl_divergence

from blob_pyro.adapters.inject import base_weight
from blob_pyro.data.examples import Batch
from blob_pyro.distributions import FullWeightNormal
from blob_pyro.handlers import declare
from blob_pyro.model import BayesianLoRA


class AdapterGuide(nn.Module, ABC):
    """Abstract. A guide whose posterior at each site is centred at the adapter's own weight.

    The location is `model.location(site)`, the very Parameter that PEFT saves, loads and merges; a guide
    adds only what describes the spread about it. Each site is independent of the others.

    Args:
        model: the model; it is not registered as a submodule.

    Attributes:
        is_random: whether draws differ; a point needs none.
        supports_flipout: whether the entries of each A are independent and symmetric about the location, so that
            flipping signs keeps the law; `bp.fit` trains without flipout otherwise.
    """

    is_random: ClassVar[bool]
    supports_flipout: ClassVar[bool] = False

    def __init__(self, model: BayesianLoRA) -> None:
        super().__init__()
        self._model = (model,)  # a tuple hides the model from nn.Module's registration, as in Pyro's AutoGuide

    @property
    def model(self) -> BayesianLoRA:
        """The model that this guide was made for."""
        return self._model[0]

    def loc(self, site: str) -> Tensor:
        """Posterior mean of A at `site`, (r, n), float32."""
        return self.model.location(site).float()

    @abstractmethod
    def scale(self, site: str) -> Tensor:
        """Posterior standard deviation of A at `site`, (r, n), float32."""

    @abstractmethod
    def posterior(self, site: str) -> TorchDistributionMixin:
        """Law of A at `site`, event_shape (r, n)."""

    @abstractmethod
    def scale_parameters(self) -> dict[str, nn.Parameter]:
        """Trainable parameters of the spread, by Pyro name; empty for a point."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Arguments (beside the model) that make this guide again; JSON types only."""

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint stores beside the adapter, by name; of fixed shapes, made by the constructor."""
        return dict(self.scale_parameters())

    def location_parameters(self) -> dict[str, nn.Parameter]:
        """The A matrices themselves, by Pyro name."""
        return {f"{site}.loc": self.model.location(site) for site in self.model.sites}

    def forward(self, batch: Batch | None = None) -> dict[str, Tensor]:
        """Declare the parameters to Pyro and sample every site; returns site -> value (r, n)."""
        declare(lambda: self.location_parameters() | self.scale_parameters())
        return {site: pyro.sample(site, law) for site, law in self.posteriors().items()}

    def posteriors(self) -> dict[str, TorchDistributionMixin]:
        """The law of every site, for one joint draw."""
        return {site: self.posterior(site) for site in self.model.sites}

    def kl(self) -> Tensor:
        """KL(posterior || prior) over all sites, total nats, from torch's registry. Scalar."""
        terms = [kl_divergence(self.posterior(site), self.model.prior(site)) for site in self.model.sites]
        return torch.stack([term.to(terms[0].device) for term in terms]).sum()

    def full_weight_posterior(self, site: str) -> FullWeightNormal:
        """Law of the whole weight W0 + (lora_alpha / r) B A at `site`, event_shape (m, n) (Thm 3.1)."""
        layer, adapter = self.model.sites[site], self.model.adapter
        B = layer.lora_B[adapter].weight.float() * float(layer.scaling[adapter])
        return FullWeightNormal(base_weight(layer), B, self.loc(site), self.scale(site))
