"""Finds the LoRA layers of a PEFT model, puts a `DrawnLinear` in each, and refuses what cannot be Bayesian."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

from blob_pyro.adapters.drawn_linear import DrawnLinear
from blob_pyro.adapters.quantised import keep_unpacked
from blob_pyro.errors import UnsupportedLayerError

if TYPE_CHECKING:  # importing PEFT takes seconds, most of them bitsandbytes': only those who build a model wait
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

SITE_SUFFIX = ".lora_A"


def supported_layers() -> tuple[type[LoraLayer], ...]:
    """PEFT's LoRA layers whose forward calls lora_A: Linear and Conv1D bases, bitsandbytes 8-bit and 4-bit."""
    import peft.tuners.lora.bnb as bnb  # defines its classes only where bitsandbytes is installed
    from peft.tuners.lora import Linear

    quantised = (getattr(bnb, name, None) for name in ("Linear8bitLt", "Linear4bit"))
    return (Linear, *(layer for layer in quantised if layer is not None))


def active_adapter(network: PeftModel) -> str:
    """Name of the one active adapter.

    Raises:
        UnsupportedLayerError: `network` is not a PEFT model, or several adapters are active.
    """
    from peft import PeftModel

    if not isinstance(network, PeftModel):
        raise UnsupportedLayerError(
            f"expected a peft.PeftModel; got {type(network).__name__}; wrap it with peft.get_peft_model first"
        )
    active = network.active_adapters
    if len(active) != 1:
        raise UnsupportedLayerError(f"expected one active adapter; got {active}; choose one with set_adapter")
    return active[0]


def find_lora_layers(network: PeftModel, adapter: str) -> dict[str, LoraLayer]:
    """All layers that `adapter` adapts, by dotted path, in the network's own order.

    Raises:
        UnsupportedLayerError: no LoRA layer, or one whose A matrix the library cannot draw.
    """
    layers = {path: module for path, module in network.named_modules() if is_lora_layer(module)}
    layers = {path: layer for path, layer in layers.items() if _adapts(layer, adapter)}
    if not layers:
        kind = getattr(network.peft_config[adapter], "peft_type", "unknown")
        raise UnsupportedLayerError(f"expected LoRA layers in adapter {adapter!r}; found none (its type is {kind})")
    for path, layer in layers.items():
        _refuse_unsupported(path, layer, adapter)
    _refuse_shared(layers, adapter)
    return layers


def inject(network: PeftModel, adapter: str) -> dict[str, LoraLayer]:
    """Put a `DrawnLinear` in place of each lora_A of `adapter`; returns site name -> LoRA layer.

    A site is named "<dotted path of the LoRA layer>.lora_A". Where the adapter was loaded for inference
    (nothing in it is trainable), its A and B matrices are made trainable.
    """
    layers = find_lora_layers(network, adapter)
    keep_unpacked(network)
    for layer in layers.values():
        layer.lora_A[adapter] = DrawnLinear.sharing(layer.lora_A[adapter])
    if not any(layer.lora_A[adapter].weight.requires_grad for layer in layers.values()):
        for layer in layers.values():
            layer.lora_A[adapter].requires_grad_(True)
            layer.lora_B[adapter].requires_grad_(True)
    return {path + SITE_SUFFIX: layer for path, layer in layers.items()}


def is_lora_layer(module: nn.Module) -> TypeGuard[LoraLayer]:
    """Whether `module` is one of PEFT's LoRA layers."""
    from peft.tuners.lora import LoraLayer

    return isinstance(module, LoraLayer)


def base_weight(layer: LoraLayer) -> Tensor:
    """The frozen weight W0 of an adapted layer as (m, n) = (out_features, in_features), float32, dequantised."""
    from peft.utils.integrations import dequantize_module_weight

    base = layer.get_base_layer()
    weight: Tensor = dequantize_module_weight(base).detach()
    # transformers' Conv1D (GPT-2) stores its weight as (in_features, out_features)
    return (weight.T if layer.fan_in_fan_out else weight).to(torch.float32)


def _adapts(layer: LoraLayer, adapter: str) -> bool:
    return adapter in layer.r


def _refuse_unsupported(path: str, layer: LoraLayer, adapter: str) -> None:
    """Raise unless forward is known to call lora_A[adapter], a plain linear map, on the layer's input."""
    advice = "leave it out of target_modules (or exclude_modules it)"
    if type(layer) not in supported_layers():
        raise UnsupportedLayerError(
            f"layer {path}: expected a LoRA layer that calls lora_A (Linear, Conv1D, bitsandbytes 8-bit or 4-bit); "
            f"got {type(layer).__module__.rsplit('.', 1)[-1]}.{type(layer).__name__} "
            f"over {type(layer.get_base_layer()).__name__}; {advice}"
        )
    if adapter in layer.lora_variant:
        variant = type(layer.lora_variant[adapter]).__name__
        raise UnsupportedLayerError(
            f"layer {path}: expected plain LoRA; got the variant {variant}; turn it off in LoraConfig, or {advice}"
        )
    if not isinstance(layer.lora_A[adapter], nn.Linear):
        raise UnsupportedLayerError(
            f"layer {path}: expected lora_A to be a torch.nn.Linear; "
            f"got {type(layer.lora_A[adapter]).__name__}; {advice}"
        )
    if layer.merged:
        raise UnsupportedLayerError(f"layer {path}: expected an unmerged adapter; call unmerge_adapter() first")


def _refuse_shared(layers: dict[str, LoraLayer], adapter: str) -> None:
    """Raise where two layers share one A matrix: it would be one random variable under two names."""
    seen: dict[int, str] = {}
    for path, layer in layers.items():
        first = seen.setdefault(id(layer.lora_A[adapter].weight), path)
        if first != path:
            raise UnsupportedLayerError(
                f"layer {path}: expected its own lora_A; it shares the one of {first}; leave one of them out"
            )
