"""Copies of a model over one frozen base."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from blob_pyro.model.layers.members import adapter_parameters

if TYPE_CHECKING:
    from blob_pyro.model.bayesian_lora import BayesianLoRA


def copied(model: BayesianLoRA, memo: dict[int, Any]) -> BayesianLoRA:
    """What `copy.deepcopy(model)` gives: all that is trained copied, the frozen parameters and the tokenizer shared.

    Args:
        model: the model.
        memo: what was copied before, by id.
    """
    network = model.network
    adapters = [adapter_parameters(network, adapter).values() for adapter in network.peft_config]
    own = {id(parameter) for parameters in adapters for parameter in parameters}
    base = (parameter for parameter in network.parameters() if not parameter.requires_grad)
    memo |= {id(frozen): frozen for frozen in base if id(frozen) not in own}
    memo[id(model.tokenizer)] = model.tokenizer
    other = model.__class__.__new__(model.__class__)
    memo[id(model)] = other
    other.__dict__.update({name: copy.deepcopy(value, memo) for name, value in model.__dict__.items()})
    return other
