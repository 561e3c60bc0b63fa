"""The two terms of the ELBO, as pure functions of a model, a guide and a batch."""

from __future__ import annotations

from typing import Any

from pyro import poutine
from torch import Tensor

from blob_pyro.data.examples import Batch
from blob_pyro.errors import DataError
from blob_pyro.guides import AdapterGuide
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.handlers import LocalParamsMessenger


def negative_log_likelihood(model: BayesianLoRA, guide: AdapterGuide, batch: Batch) -> Tensor:
    """-log p(labels | A), one posterior draw, mean nats per item (of `CausalLM` per token where it counts those).

    Scalar, differentiable.

    Runs guide and model as Pyro does, so effect handlers around the call (`bp.flipout()`) apply. Pyro's
    global param store is left alone.

    Raises:
        DataError: the batch has no labels.
    """
    batch = Batch.of(batch)
    if batch.labels is None:
        raise DataError("expected a batch with labels to train on; got labels=None")
    with LocalParamsMessenger():
        guide_trace = poutine.trace(guide).get_trace(batch)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(batch)
    label: Any = model_trace.nodes["label"]
    log_prob: Tensor = label["fn"].log_prob(label["value"])
    return -log_prob.sum() / model.likelihood.count(batch)


def negative_elbo(nll: Tensor, kl: Tensor, num_data: int, kl_weight: float) -> Tensor:
    """num_data * nll + kl_weight * kl: total nats over the training set.

    At kl_weight 1 this is the textbook ELBO, the loss of `pyro.infer.TraceMeanField_ELBO` on the same
    draw. Beware: a KL of some nats for each entry of A is millions of nats against a mean NLL below 1.

    Args:
        nll: mean nats per item.
        kl: total nats.
        num_data: number of training items N.
        kl_weight: factor on the KL.
    """
    return num_data * nll + kl_weight * kl
