"""Tells the folder of a base model from that of an adapter, which transformers takes for its base with it on it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from transformers.utils.peft_utils import find_adapter_config_file

from blob_pyro.errors import ModelLoadError
from blob_pyro.system.files import read_object
from blob_pyro.system.packaged import ALIASES

ADAPTER, MODEL = "adapter_config.json", "config.json"


def refuse_adapter(id_or_path: str, path: str, **settings: Any) -> None:
    """Raise where a base model is expected, and an adapter is named: its folder, a run, or a folder of several.

    A fresh adapter would take the place of the trained one, or be trained beside it.

    Args:
        id_or_path: what the user calls it.
        path: a folder, or a hub id.
        settings: how a hub id is looked up: local_files_only, and perhaps a revision.

    Raises:
        ModelLoadError: names the settings to use.
    """
    folder = Path(path)
    if not folder.is_dir():
        if file := find_adapter_config_file(path, **settings):
            where = f"a folder with a copy of it (hf download {id_or_path} --local-dir FOLDER)"
            raise _no_base(id_or_path, "an adapter", _base_of(Path(file)), where)
        return
    if (folder / ADAPTER).is_file():
        if (folder / MODEL).is_file():
            raise ModelLoadError(
                f"model {id_or_path}: expected a base model alone; got one with the files of an adapter beside it: "
                f"move {ADAPTER} and its tensors to a folder of their own, and set model.adapter to that"
            )
        raise _no_base(id_or_path, "the folder of an adapter", _base_of(folder / ADAPTER), str(folder))
    if not (folder / MODEL).is_file() and (below := sorted(folder.glob(f"*/{ADAPTER}"), key=_number)):
        several = "a run or another folder of adapters" if len(below) == 1 else f"a folder of {len(below)} adapters"
        raise _no_base(id_or_path, several, _base_of(below[-1]), str(below[-1].parent))


def _no_base(id_or_path: str, got: str, base: str, adapter: str) -> ModelLoadError:
    return ModelLoadError(
        f"model {id_or_path}: expected a base model; got {got}: set model.id to {base} and model.adapter to {adapter} "
        f"(in Python give PeftModel.from_pretrained(base, adapter, is_trainable=True) to BayesianLoRA)"
    )


def _number(file: Path) -> tuple[list[int], str]:
    """By the numbers in the folder's name: checkpoint-9, checkpoint-10."""
    name = file.parent.name
    return [int(digits) for digits in re.findall(r"[0-9]+", name)], name


def _base_of(file: Path) -> str:
    """What an adapter calls its base; that of an export has no path."""
    try:
        name = read_object(file, finite=False).get("base_model_name_or_path")
    except (OSError, ValueError, TypeError):
        name = None
    known = not name or "/" in str(name) or str(name) in ALIASES or os.path.exists(str(name))
    return (str(name)[:300] if name else "its base") + ("" if known else " (or the folder that holds that)")
