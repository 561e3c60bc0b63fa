"""Several adapters of the same settings on one network: making them, and matching their tensors."""

from __future__ import annotations

import copy
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from blob_pyro.errors import ConfigError

if TYPE_CHECKING:
    from peft import PeftModel

# Others ("pissa", "olora", "loftq", ...) take their start out of the base weight, which all adapters share.
INITIAL = (True, False, "gaussian", "orthogonal")


def adapter_parameters(network: PeftModel, adapter: str) -> dict[str, nn.Parameter]:
    """Every Parameter that belongs to one adapter, heads too; its name with "*" for the adapter's -> Parameter."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    found: dict[str, nn.Parameter] = {}
    for path, module in network.named_modules():
        if not isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)):
            continue
        for name in module.adapter_layer_names:
            container: Any = attrgetter(name)(module)
            if adapter not in container:
                continue
            entry = container[adapter]
            if isinstance(entry, nn.Parameter):
                found[f"{path}.{name}.*"] = entry
            elif isinstance(entry, nn.Module):
                found |= {f"{path}.{name}.*.{key}": parameter for key, parameter in entry.named_parameters()}
    return found


def add_adapter(network: PeftModel, name: str, like: str) -> None:
    """Put a fresh adapter with the settings of adapter `like` on the network; it is not made active.

    Raises:
        ConfigError: the settings are such that two adapters would share tensors.
    """
    config = copy.deepcopy(network.peft_config[like])
    if getattr(config, "bias", "none") != "none":
        raise ConfigError(
            f"adapter {like}: expected bias='none' in LoraConfig; got bias={config.bias!r}, which trains the base's "
            "own biases: several adapters would share them"
        )
    if config.init_lora_weights not in INITIAL:
        raise ConfigError(
            f"adapter {like}: expected init_lora_weights among {', '.join(map(repr, INITIAL))}; got "
            f"{config.init_lora_weights!r}, which changes the base weight that several adapters would share"
        )
    config.inference_mode = False
    network.add_adapter(name, config)
    for module in list(network.modules()):  # what PEFT adds is in training mode, whatever the network is in
        for part in module.children():
            if isinstance(part, nn.ModuleDict) and name in part:
                part[name].train(module.training)


def fresh_values(network: PeftModel, like: str) -> dict[str, Tensor]:
    """What PEFT starts an adapter with the settings of `like` at; names as in `adapter_parameters`.

    Takes as many of torch's global random numbers as `peft.get_peft_model` does.
    """
    name = f"{like}_fresh"
    add_adapter(network, name, like)
    try:
        return {key: value.detach().clone() for key, value in adapter_parameters(network, name).items()}
    finally:
        network.delete_adapter(name)


def start_afresh(network: PeftModel, adapter: str) -> None:
    """Put an adapter at a new start, as PEFT makes it; its Parameters stay the same objects."""
    values = fresh_values(network, adapter)
    with torch.no_grad():
        for key, parameter in adapter_parameters(network, adapter).items():
            parameter.copy_(values[key])
