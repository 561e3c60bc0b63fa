"""Training steps: plain LoRA, ours, and the way of a Pyro user without this library."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoNormal, init_to_value
from torch import Tensor

from blob_pyro.data.examples import Batch
from blob_pyro.experiments.bench.networks import full_logits
from blob_pyro.guides import BLoBGuide
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.handlers import flipout
from blob_pyro.model.likelihoods import Likelihood, MultipleChoice
from blob_pyro.training.svi import BLoBSVI

LR = 1e-4
NUM_DATA = 1000
PRIOR_SCALE = 0.2
INIT_SCALE = 0.002  # about where BLoBGuide starts


class Trainee(ABC):
    """Abstract. One way to train an adapter.

    Args:
        network: the PEFT model; it is put in training mode.
        likelihood: the answers.
    """

    plain_attention = True

    def __init__(self, network: Any, likelihood: Likelihood) -> None:
        self.network = network.train()
        self.likelihood = likelihood

    @abstractmethod
    def step(self, batch: Batch) -> float:
        """Update every parameter once; returns the loss before that."""


class _PlainLoRA(Trainee):
    """Abstract. Cross-entropy and AdamW on the adapter."""

    def __init__(self, network: Any, likelihood: Likelihood) -> None:
        super().__init__(network, likelihood)
        trainable = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.AdamW(trainable, lr=LR)

    @abstractmethod
    def logits(self, batch: Batch) -> Tensor:
        """(B, K), float32."""

    def step(self, batch: Batch) -> float:
        assert batch.labels is not None
        loss = F.cross_entropy(self.logits(batch), batch.labels)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.item()


class LoRAFull(_PlainLoRA):
    """Plain PEFT LoRA as users write it: the logits of the whole vocabulary at every position."""

    def logits(self, batch: Batch) -> Tensor:
        return full_logits(self.network, batch, _token_ids(self.likelihood))


class LoRAAnswer(_PlainLoRA):
    """Plain PEFT LoRA with the likelihood's logits: of the answers' rows at the last position."""

    def logits(self, batch: Batch) -> Tensor:
        return self.likelihood.logits(self.network, batch)


class Blob(Trainee):
    """`BLoBSVI.step` inside `flipout()`, as `bp.fit` runs it."""

    plain_attention = False

    def __init__(self, network: Any, likelihood: Likelihood) -> None:
        super().__init__(network, likelihood)
        self.model = BayesianLoRA(network, likelihood, prior_scale=PRIOR_SCALE, num_data=NUM_DATA)
        self.guide = BLoBGuide(self.model)
        self.svi = BLoBSVI(self.model, self.guide, lr=LR)

    def step(self, batch: Batch) -> float:
        with self.noise():
            return self.svi.step(batch).nll

    def noise(self) -> AbstractContextManager[object]:
        """Around each step."""
        return flipout()


class BlobNoFlipout(Blob):
    """`BLoBSVI.step` with one draw for the whole batch."""

    def noise(self) -> AbstractContextManager[object]:
        return nullcontext()


class NaivePyro(Trainee):
    """Explicit sites, AutoNormal and Trace_ELBO around a PEFT model, without this library.

    The guide starts at the adapter's own weights, as BLoB does: at AutoNormal's own start, A = 0 with scale 0.1,
    the step costs the same.
    """

    def __init__(self, network: Any, likelihood: Likelihood) -> None:
        super().__init__(network, likelihood)
        trainable = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.A = {name: p.detach().clone() for name, p in trainable.items() if "lora_A" in name}
        self.points = {name: p for name, p in trainable.items() if name not in self.A}
        start = init_to_value(values={name: A.clone() for name, A in self.A.items()})
        self.guide = AutoNormal(self.model, init_loc_fn=start, init_scale=INIT_SCALE)
        self.svi = SVI(self.model, self.guide, pyro.optim.Adam({"lr": LR}), Trace_ELBO())

    def model(self, batch: Batch) -> None:
        """p(A) and p(labels | A)."""
        weights = {name: pyro.param(name, parameter) for name, parameter in self.points.items()}
        for name, value in self.A.items():
            zero = torch.zeros_like(value)
            weights[name] = pyro.sample(name, dist.Normal(zero, zero + PRIOR_SCALE).to_event(2))
        logits = full_logits(_Called(self.network, weights), batch, _token_ids(self.likelihood))
        with pyro.plate("data", len(batch)):
            pyro.sample("label", dist.Categorical(logits=logits), obs=batch.labels)

    def step(self, batch: Batch) -> float:
        loss: float = self.svi.step(batch)
        return loss


class _Called:
    """A network that is called with other weights than its own."""

    def __init__(self, network: Any, weights: dict[str, Tensor]) -> None:
        self._network, self._weights = network, weights

    def __call__(self, **inputs: Tensor) -> Any:
        return torch.func.functional_call(self._network, self._weights, (), inputs)


def _token_ids(likelihood: Likelihood) -> tuple[int, ...]:
    assert isinstance(likelihood, MultipleChoice)
    return likelihood.token_ids


TRAINEES: dict[str, type[Trainee]] = {
    "lora_full": LoRAFull,
    "lora_answer": LoRAAnswer,
    "blob": Blob,
    "blob_no_flipout": BlobNoFlipout,
    "naive_pyro": NaivePyro,
}
