"""What the folder of an adapter may hold: checked before PEFT reads it.

PEFT does what adapter_config.json says: it imports the module that megatron_core names, searches the base for layers by
regular expressions, and makes matrices of any rank. And it copies whatever numbers the tensors have.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from blob_pyro.errors import RunDirectoryError
from blob_pyro.model.layers.targets import _MAX_REPEATS, may_search_long
from blob_pyro.storage.adapter_files import CONFIG, TENSORS, read_adapter_config
from blob_pyro.system.hub_errors import one_line

_PATTERNS = ("target_modules", "exclude_modules", "layers_pattern")  # regular expressions, where they are text
_RANKS = ("rank_pattern", "alpha_pattern")  # their keys are


def check_adapter(folder: Path, shown: Path | None = None) -> None:
    """Check an adapter of whatever origin.

    Args:
        folder: where it lies.
        shown: what a message calls the folder, where it is a copy.

    Raises:
        RunDirectoryError: a file is missing or cannot be read; or it is no LoRA adapter of finite floating-point
            numbers; or PEFT would import a module, search without end, or make matrices larger than those in the file.
    """
    shown = shown or folder
    for name in (CONFIG, TENSORS):  # PEFT would ask the hub for them
        if not (folder / name).is_file():
            raise RunDirectoryError(f"{shown}: expected {name} in the folder of an adapter; it is not there")
    settings = read_adapter_config(folder, shown)
    _check_patterns(shown / CONFIG, settings)
    tensors = _tensors(folder / TENSORS, shown)
    _check_ranks(shown / CONFIG, settings, tensors)
    _check_replication(shown / CONFIG, settings, len(tensors))


def _check_patterns(file: Path, settings: Mapping[str, Any]) -> None:
    patterns = [(name, settings.get(name)) for name in _PATTERNS]
    patterns += [(name, key) for name in _RANKS for key in _keys(settings.get(name))]
    for name, pattern in patterns:
        if isinstance(pattern, str) and may_search_long(pattern):
            raise RunDirectoryError(
                f"{file}: expected a regular expression that is searched quickly as {name} (no repeated group, "
                f"{_MAX_REPEATS} repeats at most); got {pattern[:100]!r}; name the layers in a list"
            )


def _tensors(file: Path, shown: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(file)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        why = one_line(error, 200)
        raise RunDirectoryError(f"{shown}: expected an adapter for this base model; {TENSORS}: {why}") from error
    for name, value in tensors.items():
        if not value.is_floating_point() or not bool(value.isfinite().all()):
            raise RunDirectoryError(
                f"{shown / TENSORS}: expected finite floating-point numbers; {name} has others; the file was altered"
            )
    return tensors


def _check_ranks(file: Path, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """No matrix that PEFT makes may be larger than those that it then reads."""
    largest = max((size for value in tensors.values() for size in value.shape), default=0)
    rank_pattern = settings.get("rank_pattern")
    ranks = [settings.get("r"), *(rank_pattern.values() if isinstance(rank_pattern, Mapping) else ())]
    for rank in ranks:
        if not isinstance(rank, int) or not 1 <= rank <= largest:
            raise RunDirectoryError(
                f"{file}: expected ranks from 1 to {largest}, as the tensors have them; got {str(rank)[:40]}; the "
                "folder was altered"
            )


def _check_replication(file: Path, settings: Mapping[str, Any], num_tensors: int) -> None:
    """No more copies of the base's layers than there are tensors for."""
    ranges = settings.get("layer_replication")
    try:
        num_layers = sum(end - start for start, end in ranges or ())
    except (TypeError, ValueError) as error:
        raise RunDirectoryError(
            f"{file}: expected layer_replication as a list of pairs; got {str(ranges)[:80]}; the folder was altered"
        ) from error
    if num_layers > num_tensors or len(ranges or ()) > num_tensors:
        raise RunDirectoryError(
            f"{file}: expected layer_replication of at most {num_tensors} layers, which the tensors are for; got "
            f"{num_layers}; the folder was altered"
        )


def _keys(value: Any) -> Iterable[Any]:
    return value.keys() if isinstance(value, Mapping) else ()
