"""The files of a saved posterior: its description, tensors and checksums, read as data.

No model is made of them here; `saving` does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from blob_pyro.errors import RunDirectoryError, UnsupportedLayerError
from blob_pyro.storage.adapter_files import CONFIG
from blob_pyro.storage.adapter_files import TENSORS as ADAPTER_TENSORS
from blob_pyro.system.files import digest, read_object
from blob_pyro.system.hub_errors import one_line

FORMAT = "blob_pyro.posterior"
VERSION = 1
ADAPTER, TENSORS, DESCRIPTION = "adapter", "posterior.safetensors", "posterior.json"


@contextlib.contextmanager
def refuse_altered(file: Path) -> Iterator[None]:
    """Turn what a description of the wrong shape sets off into one error."""
    try:
        yield
    except UnsupportedLayerError:  # a TypeError too, but it speaks of the network
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError) as error:
        why = f"{type(error).__name__}: {one_line(error, 200)}"
        raise RunDirectoryError(
            f"{file}: expected the description of a posterior; it is incomplete or altered ({why})"
        ) from error


def read_description(path: Path) -> dict[str, Any]:
    """What a run says of its model and guide, of this version's format and with all that is needed.

    Raises:
        RunDirectoryError: it is not there, or not that.
    """
    file = path / DESCRIPTION
    if not file.is_file():
        raise RunDirectoryError(f"{path}: expected a run directory with {DESCRIPTION}; it is not there; check the path")
    try:
        described = read_object(file)
    except TypeError as error:
        raise RunDirectoryError(f"{file}: {error}") from error
    except (OSError, ValueError) as error:
        raise RunDirectoryError(
            f"{file}: expected the description of a posterior; it cannot be read: {error}"
        ) from error
    kind, version = described.get("format"), described.get("version")
    if (kind, version) != (FORMAT, VERSION):
        raise RunDirectoryError(
            f"{file}: expected {FORMAT} version {VERSION}; got {str(kind)[:40]} version {str(version)[:40]}; load "
            "it with the version of blob_pyro that wrote it"
        )
    keys = ("guide", "likelihood", "prior_scale", "num_data", "adapter", "base", "sites")
    if missing := [key for key in keys if key not in described]:
        raise RunDirectoryError(
            f"{file}: expected the description of a posterior; it is incomplete: {', '.join(missing)} missing"
        )
    return described


def adapter_folder(path: Path, adapter: Any) -> Path:
    """PEFT puts the default adapter into the folder itself, any other into a folder of its name.

    An exported posterior has its adapter beside its description.

    Raises:
        RunDirectoryError: it is no name, or would lead out of the run directory.
    """
    if adapter == "default":
        exported = (path / CONFIG).is_file() and not (path / ADAPTER).is_dir()
        return path if exported else path / ADAPTER
    name = adapter if isinstance(adapter, str) else ""
    if name in ("", ".", "..") or set(name) & set("/\\\0") or len(name) > 200:
        raise RunDirectoryError(
            f"{path / DESCRIPTION}: expected the name of an adapter without a path; got {str(adapter)[:100]!r}; it was "
            "altered"
        )
    return path / ADAPTER / name


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors that were saved of a guide, by name.

    Raises:
        RunDirectoryError: the file is not there, or no safetensors file.
    """
    file = path / TENSORS
    try:
        if not file.is_file():  # a pipe would wait for a writer
            raise FileNotFoundError("it is not there")
        return load_file(file)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise RunDirectoryError(f"{file}: expected a safetensors file; it cannot be read: {error}") from error


def odd_tensor(saved: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> str | None:
    """The name of a tensor that two sets do not share, or not in one shape; None where there is none."""
    one, other = ({(name, tuple(value.shape)) for name, value in found.items()} for found in (saved, tensors))
    return min(one ^ other)[0] if one != other else None


def restore(tensors: Mapping[str, Tensor], saved: Mapping[str, Tensor], path: Path) -> None:
    """Copy saved tensors into those of a guide.

    Args:
        tensors: the guide's.
        saved: what `read_tensors` read.
        path: where, for messages.

    Raises:
        RunDirectoryError: they have other names, shapes or types, or values that are not finite; nothing is copied.
    """
    if odd := odd_tensor(saved, tensors):
        raise RunDirectoryError(
            f"{path / TENSORS}: expected the posterior of this adapter ({len(tensors)} tensors); "
            f"got {len(saved)}; {odd} differs; the parts of this directory come from different runs"
        )
    for name, value in saved.items():
        if value.dtype != tensors[name].dtype or not bool(value.isfinite().all()):
            raise RunDirectoryError(
                f"{path / TENSORS}: expected finite numbers of type "
                f"{str(tensors[name].dtype).removeprefix('torch.')}; {name} has others; the file was altered"
            )
    with torch.no_grad():
        for name, value in saved.items():
            tensors[name].copy_(value)


def refuse_oversized(path: Path, described: dict[str, Any], adapters: list[str]) -> None:
    """Raise where the description asks for more memory than its files have numbers for."""
    likelihood, guide = described["likelihood"]["settings"], described["guide"]["settings"]
    most = max((file.stat().st_size for file in files(path, adapters) if file.is_file()), default=0)
    wanted = {"num_labels": likelihood.get("num_labels"), "rank": guide.get("rank")}
    for name, size in wanted.items():
        if isinstance(size, int | float) and size > most:
            raise RunDirectoryError(
                f"{path / DESCRIPTION}: expected {name} as the run's tensors have it; got {str(size)[:40]}; it was "
                "altered"
            )
    members = guide.get("num_members")
    if members is not None and members != len(set(adapters)):
        raise RunDirectoryError(
            f"{path / DESCRIPTION}: expected an adapter for each of num_members {str(members)[:40]}; got "
            f"{len(set(adapters))}; it was altered"
        )


def files(path: Path, adapters: list[str]) -> list[Path]:
    """All that `save` writes beside the description."""
    folders = [adapter_folder(path, adapter) for adapter in adapters]
    return [*(folder / name for folder in folders for name in (CONFIG, ADAPTER_TENSORS)), path / TENSORS]


def digests(path: Path, adapters: list[str]) -> dict[str, str]:
    """Checksum by file, of all of them."""
    return {file.relative_to(path).as_posix(): digest(file) for file in files(path, adapters)}


def check_digests(path: Path, adapters: list[str], saved: Any) -> None:
    """Raise unless the files are those that the description was written with; older ones tell of none."""
    if not isinstance(saved, dict):
        raise RunDirectoryError(f"{path / DESCRIPTION}: expected checksums by file in sha256; it was altered")
    if odd := next((file for file in files(path, adapters) if not file.is_file()), None):  # a pipe would be waited for
        raise RunDirectoryError(f"{odd}: expected a file of the run; it is not there, or no file: the run was altered")
    for name, found in digests(path, adapters).items():
        if name in saved and saved[name] != found:
            raise RunDirectoryError(
                f"{path / name}: expected the file as it was saved; its checksum is not that in {DESCRIPTION}: it was "
                f"altered, or is of another run (if you meant to alter it, delete its entry of sha256 in {DESCRIPTION})"
            )
