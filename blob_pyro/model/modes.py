"""Training and evaluation mode, for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from blob_pyro.model.bayesian_lora import BayesianLoRA


@contextlib.contextmanager
def training_mode(model: BayesianLoRA, training: bool = True) -> Iterator[None]:
    """Put the network in training (or evaluation) mode; each module gets its own former mode back."""
    before = {module: module.training for module in model.network.modules()}
    model.network.train(training)
    try:
        yield
    finally:
        for module, mode in before.items():
            module.training = mode
