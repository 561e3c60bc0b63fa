"""Several adapters of the same settings on one network: making them, and matching their tensors."""

from __future__ import annotations

import copy
from collections.abc import Iterable
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


def point_parameters(network: PeftModel, adapter: str, locations: Iterable[nn.Parameter]) -> dict[str, nn.Parameter]:
    """All that is trainable in the network but for random matrices and what belongs to other adapters, by name.

    Args:
        network: the PEFT model.
        adapter: the model's own.
        locations: the weights of the random matrices.
    """
    others = set(map(id, locations))
    for other in network.peft_config.keys() - {adapter}:
        others |= {id(parameter) for parameter in adapter_parameters(network, other).values()}
    return {
        name: parameter
        for name, parameter in network.named_parameters()
        if parameter.requires_grad and id(parameter) not in others
    }


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
    """What an adapter with the settings of `like` starts at, heads first; names as in `adapter_parameters`.

    Takes as many of torch's global random numbers as loading the base does for its fresh heads, and
    `peft.get_peft_model` after that.
    """
    heads = fresh_heads(network, like)
    name = f"{like}_fresh"
    add_adapter(network, name, like)
    try:
        return {key: value.detach().clone() for key, value in adapter_parameters(network, name).items()} | heads
    finally:
        network.delete_adapter(name)


def fresh_heads(network: PeftModel, adapter: str) -> dict[str, Tensor]:
    """New random values of the adapter's trained copies of layers that `from_pretrained` found in no file.

    Drawn by the base's own initialisation, layer by layer. Layers that came from files, and every layer of a network
    that was not loaded by transformers' `from_pretrained`, are left out: nothing says that their weights are random.
    """
    from peft.utils.other import ModulesToSaveWrapper

    base = network.get_base_model()
    if not any(map(_from_file, base.parameters())):
        return {}
    found: dict[str, Tensor] = {}
    for path, wrapper in network.named_modules():
        if not isinstance(wrapper, ModulesToSaveWrapper) or adapter not in wrapper.modules_to_save:
            continue
        head = _redrawn(wrapper.original_module, base)
        found |= {f"{path}.modules_to_save.*.{key}": value.detach() for key, value in head.named_parameters()}
    return found


def _redrawn(head: nn.Module, base: Any) -> nn.Module:
    """A copy whose layers are new random ones, but for those that came from files."""
    copied = copy.deepcopy(head)
    kept = {
        layer
        for layer, own in zip(copied.modules(), head.modules(), strict=True)
        if any(map(_from_file, own.parameters(recurse=False)))
    }
    copied.apply(lambda layer: None if layer in kept else base._init_weights(layer))
    return copied


def _from_file(parameter: nn.Parameter) -> bool:
    """Whether transformers read it from a file; its mark on a Parameter, which copies do not carry."""
    return bool(getattr(parameter, "_is_hf_initialized", False))


def start_afresh(network: PeftModel, adapter: str) -> None:
    """Put an adapter at a new start, as PEFT makes it, heads as transformers does; its Parameters stay the same."""
    values = fresh_values(network, adapter)
    with torch.no_grad():
        for key, parameter in adapter_parameters(network, adapter).items():
            parameter.copy_(values[key])
