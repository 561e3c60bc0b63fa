"""The folder of an adapter as it lies on disk: read as data, checked before PEFT sees it.

Only safetensors and JSON are written. Of files from elsewhere a pickle is read with torch's weights_only=True, which
makes tensors and nothing else.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from blob_pyro.errors import RunDirectoryError
from blob_pyro.system.files import new_file, read_object, write_whole
from blob_pyro.system.hub_errors import one_line

CONFIG, TENSORS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
SETS = ("target_modules", "exclude_modules")  # sets to PEFT, which writes them as lists in any order


def read_adapter_config(folder: Path, shown: Path | None = None, *, any_type: bool = False) -> dict[str, Any]:
    """adapter_config.json of a LoRA adapter.

    Args:
        folder: the adapter's.
        shown: what a message calls the folder, where it is a copy.
        any_type: take any peft_type.

    Raises:
        RunDirectoryError: it is missing, no JSON object, of another kind than LoRA, or names a module to be imported.
    """
    file, told = folder / CONFIG, (shown or folder) / CONFIG
    if not file.is_file():
        raise RunDirectoryError(f"{shown or folder}: expected {CONFIG} in the folder of an adapter; it is not there")
    try:
        found = read_object(file)
    except TypeError as error:
        raise RunDirectoryError(f"{told}: {error}") from error
    except (OSError, ValueError) as error:
        raise RunDirectoryError(f"{told}: expected the settings of an adapter; it cannot be read: {error}") from error
    kind = str(found.get("peft_type"))[:100]
    if found.get("peft_type") != "LORA" and not any_type:
        raise RunDirectoryError(f"{told}: expected a LoRA adapter (peft_type LORA); got {kind!r}; take a LoRA adapter")
    if found.get("megatron_config") is not None:  # PEFT would import the module that megatron_core names
        raise RunDirectoryError(
            f"{told}: expected an adapter that imports nothing; got megatron_config with megatron_core "
            f"{str(found.get('megatron_core'))[:100]!r}; set it to null if you trust the adapter"
        )
    return found


def write_adapter_config(folder: Path, settings: Mapping[str, Any]) -> None:
    """adapter_config.json, in an order that does not depend on the process."""
    plain = {
        name: sorted(value, key=str) if isinstance(value, set) or (name in SETS and isinstance(value, list)) else value
        for name, value in settings.items()
    }
    write_whole(folder / CONFIG, json.dumps(plain, indent=2, sort_keys=True) + "\n")


def read_adapter_tensors(folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter on the CPU; the safetensors file where there are both.

    Raises:
        RunDirectoryError: there is no file, or it holds anything but tensors by name.
    """
    for name, read in ((TENSORS, load_file), (PICKLE, _read_pickle)):
        if (folder / name).is_file():
            return _tensors(folder / name, read)
    raise RunDirectoryError(f"{folder}: expected {TENSORS} or {PICKLE} in the folder of an adapter; neither is there")


def write_adapter_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """adapter_model.safetensors; tensors that share memory are written one by one."""
    plain = {name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}
    with new_file(folder / TENSORS) as file:
        save_file(plain, file, metadata={"format": "pt"})


def _tensors(file: Path, read: Any) -> dict[str, Tensor]:
    try:
        found = read(file)
    except (OSError, SafetensorError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError) as error:
        why = one_line(error, 200)
        raise RunDirectoryError(f"{file}: expected the tensors of an adapter; it cannot be read: {why}") from error
    if not isinstance(found, dict) or not all(isinstance(value, Tensor) for value in found.values()):
        raise RunDirectoryError(f"{file}: expected tensors by name; got something else")
    return {str(name): value for name, value in found.items()}


def _read_pickle(file: Path) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True)
