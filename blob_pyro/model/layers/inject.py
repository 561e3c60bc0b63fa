"""Finds the LoRA layers of a PEFT model, puts a `DrawnLinear` in each, and refuses what cannot be Bayesian."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
from torch import Tensor, nn

from blob_pyro.config.checks import unknown_name
from blob_pyro.errors import ConfigError, UnsupportedLayerError
from blob_pyro.model.architectures import check_architecture, match_layer_types, tell_towers
from blob_pyro.model.layers.drawn_linear import DrawnLinear
from blob_pyro.model.layers.members import adapter_parameters
from blob_pyro.model.layers.targets import in_blocks

if TYPE_CHECKING:  # importing PEFT takes seconds, most of them bitsandbytes': only those who build a model wait
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

FACTORS = {"A": ("lora_A",), "B": ("lora_B",), "both": ("lora_A", "lora_B")}
"""Which of a layer's two factors are random variables, by what `bayesian` may be."""


def supported_layers() -> tuple[type[LoraLayer], ...]:
    """PEFT's LoRA layers whose forward calls lora_A: Linear and Conv1D bases, bitsandbytes 8-bit and 4-bit."""
    import peft.tuners.lora.bnb as bnb  # defines its classes only where bitsandbytes is installed
    from peft.tuners.lora import Linear

    quantised = (getattr(bnb, name, None) for name in ("Linear8bitLt", "Linear4bit"))
    return (Linear, *(layer for layer in quantised if layer is not None))


def active_adapter(network: PeftModel) -> str:
    """Name of the one active adapter.

    Raises:
        UnsupportedLayerError: `network` is not a PEFT model, its base has an adapter of its own, or several
            adapters are active.
    """
    from peft import PeftModel

    if not isinstance(network, PeftModel):
        raise UnsupportedLayerError(
            f"expected a peft.PeftModel; got {type(network).__name__}; wrap it with peft.get_peft_model first"
        )
    base = network.get_base_model()
    if isinstance(base, PeftModel) or getattr(base, "_hf_peft_config_loaded", False):
        raise UnsupportedLayerError(
            "expected a base without an adapter of its own below the PeftModel; got one with an adapter, as "
            "transformers loads the folder of an adapter; load its base alone, and put it on by "
            "PeftModel.from_pretrained(base, FOLDER, is_trainable=True)"
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
    return layers


def inject(
    network: PeftModel, adapter: str, bayesian: str = "A", bayesian_layers: Sequence[int] | None = None
) -> dict[str, LoraLayer]:
    """Put a `DrawnLinear` in place of each factor of `adapter` that is random; returns site name -> LoRA layer.

    A site is named "<dotted path of the LoRA layer>.lora_A" or ".lora_B"; of each layer A comes first. Where the
    adapter was loaded for inference (no random factor is trainable), all of it is made trainable, heads too.

    Args:
        network: the PEFT model.
        adapter: which of its adapters.
        bayesian: a key of `FACTORS`.
        bayesian_layers: indices of the transformer blocks whose adapters are random, negative ones counted from
            the end; adapters outside the blocks are random whatever they are. None takes all.

    Raises:
        UnsupportedLayerError: no LoRA layer, or one whose matrices the library cannot draw.
        ConfigError: `bayesian` is no key of `FACTORS`, a block is not there, or nothing would be random.
    """
    if bayesian not in FACTORS:
        raise unknown_name("bayesian", FACTORS, bayesian)
    check_architecture(network)
    layers = find_lora_layers(network, adapter)
    tell_towers(network, layers)
    match_layer_types(network, adapter)
    drawn = layers if bayesian_layers is None else _chosen(network, layers, bayesian_layers)
    for factor in FACTORS[bayesian]:
        _refuse_undrawable(drawn, factor, adapter)
    keep_unpacked(network)
    sites = {f"{path}.{factor}": layer for path, layer in drawn.items() for factor in FACTORS[bayesian]}
    for site, layer in sites.items():
        factors = getattr(layer, factor_of(site))
        factors[adapter] = DrawnLinear.sharing(factors[adapter])
    if not any(drawn_linear(layer, site, adapter).weight.requires_grad for site, layer in sites.items()):
        for parameter in adapter_parameters(network, adapter).values():
            parameter.requires_grad_(parameter.is_floating_point())
    return sites


def layer_path(site: str) -> str:
    """Dotted path of the LoRA layer that a site belongs to."""
    return site.rpartition(".")[0]


def factor_of(site: str) -> str:
    """Which of the layer's factors a site is: "lora_A" or "lora_B"."""
    return site.rpartition(".")[2]


def drawn_linear(layer: LoraLayer, site: str, adapter: str) -> DrawnLinear:
    """What `inject` put at a site."""
    drawn: DrawnLinear = getattr(layer, factor_of(site))[adapter]
    return drawn


def check_alive(network: PeftModel, adapter: str, drawn: Mapping[str, DrawnLinear]) -> None:
    """Raise unless a forward of the network applies each of `drawn`: what PEFT can do to an adapter shows here.

    Args:
        network: the PEFT model.
        adapter: the adapter that the sites belong to.
        drawn: site name -> what `inject` put there.

    Raises:
        UnsupportedLayerError: the adapter is merged, disabled, not the active one, replaced, or gone.
    """
    for site, linear in drawn.items():
        fault = _fault(network, adapter, site, linear)
        if fault is not None:
            raise UnsupportedLayerError(
                f"layer {layer_path(site)}: expected adapter {adapter!r} to be active, enabled and unmerged; {fault}"
            )


def _fault(network: PeftModel, adapter: str, site: str, linear: DrawnLinear) -> str | None:
    """Why a forward would pass by `linear`, and what to call; None where it does not."""
    try:
        layer: Any = network.get_submodule(layer_path(site))
        factors = getattr(layer, factor_of(site))
    except AttributeError:
        return "its layers were taken out (unload, merge_and_unload); wrap or load the model again"
    if adapter not in factors:
        return "it was deleted (delete_adapter); wrap or load the model again"
    if factors[adapter] is not linear:
        return "it was loaded or added again under its name; wrap or load the model again"
    if layer.merged:
        return f"{layer.merged_adapters} is merged into the base; call unmerge_adapter() first"
    if layer.disable_adapters:
        return "it is disabled; leave disable_adapter(), or call base_model.enable_adapter_layers()"
    if layer.active_adapters != [adapter]:
        return f"active is {layer.active_adapters}; call set_adapter({adapter!r}) first"
    if layer.scaling[adapter] == 0:
        return "it is scaled to 0 (set_scale, scale_layer, lora_alpha): call unscale_layer(), or give it another scale"
    return None


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
    """Raise unless forward is known to apply lora_A[adapter] and lora_B[adapter], plain linear maps, in turn."""
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
    for factor in FACTORS["both"]:
        linear = getattr(layer, factor)[adapter]
        if not isinstance(linear, nn.Linear):
            raise UnsupportedLayerError(
                f"layer {path}: expected {factor} to be a torch.nn.Linear; got {type(linear).__name__}; {advice}"
            )
    if layer.merged:
        raise UnsupportedLayerError(f"layer {path}: expected an unmerged adapter; call unmerge_adapter() first")


def _chosen(network: PeftModel, layers: dict[str, LoraLayer], blocks: Sequence[int]) -> dict[str, LoraLayer]:
    """The layers of the given blocks, and those outside all blocks."""
    kept = in_blocks(network, layers, blocks)
    if not kept:
        raise ConfigError(
            f"bayesian_layers: expected blocks with an adapter; got {list(blocks)}, and nothing would be random; "
            "choose among the blocks that the adapter adapts"
        )
    return {path: layers[path] for path in kept}


def _refuse_undrawable(layers: dict[str, LoraLayer], factor: str, adapter: str) -> None:
    """Raise where a factor has a bias, or two layers share it: it would be one random variable under two names."""
    seen: dict[int, str] = {}
    for path, layer in layers.items():
        linear = getattr(layer, factor)[adapter]
        if linear.bias is not None:
            raise UnsupportedLayerError(
                f"layer {path}: expected {factor} without a bias, to draw it; got lora_bias=True; "
                "turn it off in LoraConfig, or take bayesian='A'"
            )
        first = seen.setdefault(id(linear.weight), path)
        if first != path:
            raise UnsupportedLayerError(
                f"layer {path}: expected its own {factor}; it shares the one of {first}; leave one of them out"
            )


def keep_unpacked(network: nn.Module) -> None:
    """Make every 4-bit layer keep its storage format on the CPU.

    On CPUs with AVX512-BF16, bitsandbytes (seen in 0.50.2) repacks a 4-bit weight at its first forward in
    evaluation mode, for a faster kernel. From then on that layer passes no gradient to its input, in training
    mode too, and dequantising it (merging, the full-weight law) gives noise; both without an error. The way
    back, which saving takes as well, rounds the scales of the blocks.
    """
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            layer: Any = module
            layer.support_avx512bf16_for_cpu = False
            if getattr(getattr(layer.weight, "quant_state", None), "packing_format_for_cpu", False):
                layer.state_dict()  # saving unpacks in place
