"""`--as mean`: one ordinary PEFT adapter, with the posterior's spread beside it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from blob_pyro.guides import EnsembleGuide
from blob_pyro.runs.exports.adapter import write_adapter
from blob_pyro.runs.exports.subject import Subject
from blob_pyro.storage.directory import read_json, write_json
from blob_pyro.storage.posterior_files import DESCRIPTION, TENSORS
from blob_pyro.system.files import together_in


def write_mean(subject: Subject, folder: Path) -> dict[str, Any]:
    """The adapter as plain PEFT loads it, and posterior.safetensors and .json, with which `bp.load` has the posterior.

    Of an ensemble it is the first member alone, without the others. (The mean over members is a network that nobody
    has trained.)

    Returns:
        Entries of the manifest.
    """
    others = write_adapter(folder, subject.run.model, subject.base, subject.single)
    entries = {"adapter_is": subject.single_is, "other_tensors": others}
    if isinstance(subject.guide, EnsembleGuide):
        return entries
    saved = together_in(subject.run.path)
    shutil.copyfile(saved / TENSORS, folder / TENSORS)
    described = read_json(saved / DESCRIPTION)
    described |= {"adapter": "default", "adapters": ["default"], "base": described["base"] | {"id": subject.base}}
    write_json(folder / DESCRIPTION, described)
    return entries
