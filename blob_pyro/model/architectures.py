"""What a base network is: refused before anything is trained where draws or texts would go wrong in it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import transformers
from torch import nn

from blob_pyro.errors import ConfigError, UnsupportedLayerError

if TYPE_CHECKING:
    from peft import PeftModel

OWN_PADDING = ("convbert", "cpmant", "fnet", "nystromformer", "prophetnet", "yoso")
"""Padding behind an item changes its logits there: the answer would depend on the others of its batch."""

SEQUENCE_FIRST = ("fsmt", "led", "longformer", "xlnet")
"""Their layers get (tokens, items, features): a group of rows is no item there: draws would go to wrong ones."""

HEADS = ("classifier", "score")
"""What PEFT takes for a classification head, trains and saves."""


def refuse_kind(config: Any, id_or_path: str, likelihood: Any) -> None:
    """Raise where a model's configuration says that it is none that the likelihood can use.

    Args:
        config: as its files tell it.
        id_or_path: what the user calls it.
        likelihood: decides the head.

    Raises:
        ConfigError: an encoder and a decoder in one; or an encoder, which sees the text to the right, where the next
            token is to be told.
    """
    expected = f"model {id_or_path}: expected a causal language model for the likelihood {type(likelihood).__name__}"
    causal = likelihood.task_type == "CAUSAL_LM"
    if getattr(config, "is_encoder_decoder", False):
        start = expected if causal else f"model {id_or_path}: expected an encoder or a decoder"
        raise ConfigError(
            f"{start}; got an encoder and a decoder in one ({config.model_type}): take a decoder"
            f"{'' if causal else ', or an encoder'}"
        )
    if causal and is_encoder(config):
        raise ConfigError(
            f"{expected}; got an encoder ({config.model_type}): set model.likelihood to sequence_classification"
        )


def is_encoder(config: Any) -> bool:
    """Whether a network of this configuration sees the text to the right of a token."""
    return type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)


def is_decoder(config: Any) -> bool:
    """Whether a network of this configuration tells what follows a token from what is to its left."""
    return type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING and not is_encoder(config)


def check_architecture(network: PeftModel) -> None:
    """Raise where draws would go to the wrong items, or padding would change answers.

    Raises:
        UnsupportedLayerError: names the architecture.
    """
    config = getattr(network.get_base_model(), "config", None)
    kind = getattr(config, "model_type", None)
    if kind in SEQUENCE_FIRST:
        raise UnsupportedLayerError(
            f"expected an architecture whose layers get a row for each item; got {kind}, whose layers get one for each "
            "token: take another base"
        )
    if kind in OWN_PADDING:
        raise UnsupportedLayerError(
            f"expected an architecture in which padding changes no answer; got {kind}: take another base"
        )
    if getattr(config, "is_encoder_decoder", False):
        raise UnsupportedLayerError(
            f"expected an encoder or a decoder; got an encoder and a decoder in one ({kind}): take another base"
        )


def match_layer_types(network: PeftModel, adapter: str) -> None:
    """Let a configuration tell the kind of each block also where PEFT has copied some (layer_replication); it does not.

    Args:
        network: the PEFT model.
        adapter: the name of its adapter.
    """
    config = getattr(network.get_base_model(), "config", None)
    ranges, kinds = network.peft_config[adapter].layer_replication, getattr(config, "layer_types", None)
    if ranges and kinds and config is not None and len(kinds) != config.num_hidden_layers:
        config.layer_types = [kinds[index] for start, end in ranges for index in range(start, end)]


def towers_beside_text(network: Any) -> list[str]:
    """Parts of a network of several modes that no text goes through: its vision tower, what projects into the text.

    Args:
        network: a transformers network.

    Returns:
        Dotted paths; none of a network of text alone.
    """
    config = getattr(network, "config", None)
    if config is None or config.get_text_config(decoder=True) is config or not hasattr(network, "get_decoder"):
        return []
    text, head = network.get_decoder(), network.get_output_embeddings()
    around = [name for name, module in network.named_modules() if any(part is text for part in module.modules())]
    children = [
        (f"{name}.{child}".lstrip("."), module)
        for name in around
        if network.get_submodule(name) is not text
        for child, module in network.get_submodule(name).named_children()
    ]
    used = {*around, *HEADS}
    return [path for path, module in children if path not in used and module is not head and _has_parameters(module)]


def tell_towers(network: PeftModel, paths: Iterable[str]) -> None:
    """Warn of adapted layers that no text goes through.

    Args:
        network: the PEFT model.
        paths: of its adapted layers.
    """
    prefix = "base_model.model."
    towers = towers_beside_text(network.get_base_model())
    found = [path for path in paths if any(path.removeprefix(prefix).startswith(f"{tower}.") for tower in towers)]
    if found:
        warnings.warn(
            f"{len(found)} adapted layers ({found[0]}) are in {', '.join(towers)}, where no text comes: they stay as "
            "they are; leave them out by exclude_modules",
            stacklevel=5,
        )


def head_modules(missing: Iterable[str], base: Any) -> list[str]:
    """Parts of a classifier that its files lack, beside what PEFT saves as its head: to be trained and saved, too.

    Args:
        missing: names of parameters.
        base: the network.

    Returns:
        Dotted paths, each once: a part outside the backbone, or its pooler.
    """
    inside = f"{base.base_model_prefix}."
    found = []
    for name in missing:
        parts = name.split(".")
        if not name.startswith(inside):
            found.append(parts[0])
        elif "pooler" in parts:
            found.append(".".join(parts[: parts.index("pooler") + 1]))
    return sorted({path for path in found if not path.endswith(HEADS)})  # PEFT goes by the end of a name


def tell_random(network: PeftModel, id_or_path: str) -> None:
    """Warn where a base is random in parts that the adapter does not hold: another process would make others.

    Args:
        network: the PEFT model.
        id_or_path: what the user calls its base.
    """
    from peft.utils import ModulesToSaveWrapper

    base = network.get_base_model()
    missing: Iterable[str] = getattr(base, "missing_keys", ())
    held = [name + "." for name, module in base.named_modules() if isinstance(module, ModulesToSaveWrapper)]
    lost = [name for name in missing if not name.startswith(tuple(held))]
    if lost:
        warnings.warn(f"model {id_or_path}: its files lack {', '.join(lost[:3])}; random there", stacklevel=3)


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
