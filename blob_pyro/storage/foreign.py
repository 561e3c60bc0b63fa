"""Reads the folder of an adapter that may come from anywhere, and puts it on a base network."""

from __future__ import annotations

import dataclasses
import re
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from blob_pyro.model.loading import BaseSource
from blob_pyro.storage.adapter_files import (
    read_adapter_config,
    read_adapter_tensors,
    write_adapter_config,
    write_adapter_tensors,
)
from blob_pyro.storage.saving import load_adapter

if TYPE_CHECKING:
    from peft import PeftModel

# PEFT leaves the adapter's name out of the keys of LoRA's matrices; the public code's ParameterDict may keep it.
_MATRIX = re.compile(r"(.*\.lora_[AB])\.(\w+)\.weight")
_RHO = re.compile(r"(.*)\.lora_A_rho(?:\.\w+)?")


@dataclass(frozen=True)
class ForeignAdapter:
    """An adapter as it was read, on the CPU.

    Attributes:
        folder: where it lies.
        settings: its adapter_config.json.
        tensors: what PEFT loads, by PEFT's names.
        rho: free parameters of a spread about A, (r, n) by site ("<dotted path of the LoRA layer>.lora_A"); empty where
            the folder holds a plain adapter.
    """

    folder: Path
    settings: dict[str, Any]
    tensors: dict[str, Tensor]
    rho: dict[str, Tensor]


def read_adapter(folder: str | Path) -> ForeignAdapter:
    """Read adapter_config.json, and adapter_model.safetensors or .bin (as tensors alone).

    An adapter of BLoB's public code has lora_A_rho beside lora_A. What its settings call its kind is then not asked.

    Raises:
        RunDirectoryError: a file is missing or cannot be read, or it is another kind of adapter than LoRA.
    """
    path = Path(folder)
    settings = read_adapter_config(path, any_type=True)
    tensors = read_adapter_tensors(path)
    rho = {f"{found[1]}.lora_A": value for key, value in tensors.items() if (found := _RHO.fullmatch(key))}
    if not rho:
        settings = read_adapter_config(path)
    plain = {_MATRIX.sub(r"\1.weight", key): value for key, value in tensors.items() if not _RHO.fullmatch(key)}
    return ForeignAdapter(path, settings, plain, rho)


def put_on(adapter: ForeignAdapter, base: Any, source: BaseSource | None = None) -> PeftModel:
    """The base network with the adapter on it, ready to be trained.

    PEFT gets a copy that holds nothing but tensors and the settings that it knows; a warning names those left out.

    Args:
        adapter: the adapter.
        base: the base network.
        source: where that was loaded from; a warning tells where the adapter names another revision of it.

    Raises:
        RunDirectoryError: the adapter is not one for this base.
    """
    known, unknown = _known_settings(adapter.settings)
    if source is not None:
        _tell_other_revision(adapter, source)
    if unknown:
        warnings.warn(f"{adapter.folder}: PEFT does not know the settings {', '.join(unknown)}; left out", stacklevel=2)
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        write_adapter_config(copy, known | {"peft_type": "LORA"})
        write_adapter_tensors(copy, adapter.tensors)
        network = load_adapter(copy, base, shown=adapter.folder)
    _tell_unused(adapter, network)
    return network


def _tell_other_revision(adapter: ForeignAdapter, source: BaseSource) -> None:
    named, commit = adapter.settings.get("revision"), source.as_loaded().revision
    is_of_it = adapter.settings.get("base_model_name_or_path") == source.id and commit is not None
    if named and is_of_it and named not in (commit, source.revision or "main"):
        warnings.warn(
            f"{adapter.folder}: it names revision {named} of {source.id}, and the base is at {commit}: set "
            "model.revision to that where they differ",
            stacklevel=3,
        )


def _tell_unused(adapter: ForeignAdapter, network: PeftModel) -> None:
    """Warn of tensors that have no place in the network: PEFT drops them without a word."""
    from peft import get_peft_model_state_dict

    places = get_peft_model_state_dict(network, save_embedding_layers=False).keys() | network.state_dict().keys()
    if unused := sorted(adapter.tensors.keys() - places):
        warnings.warn(
            f"{adapter.folder}: {len(unused)} of {len(adapter.tensors)} tensors have no place in the network and are "
            f"left out ({unused[0]}{', ...' if len(unused) > 1 else ''})",
            stacklevel=3,
        )


def _known_settings(settings: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """The settings that PEFT's LoraConfig has, and the names of the others that say anything."""
    from peft import LoraConfig

    fields = {field.name for field in dataclasses.fields(LoraConfig)} | {"peft_version"}
    others = sorted(name for name, value in settings.items() if name not in fields and value)
    return {name: value for name, value in settings.items() if name in fields}, others
