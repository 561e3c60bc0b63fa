"""In which order a trained head has the labels of a run, and what to say of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from blob_pyro.config.sections import ModelConfig
from blob_pyro.data.tasks.load import find_task
from blob_pyro.errors import BlobPyroError
from blob_pyro.model.heads import are_numbered, matched_outputs, trained_names
from blob_pyro.model.loading import base_config
from blob_pyro.storage.directory import CONFIG, read_config, read_json
from blob_pyro.storage.posterior_files import DESCRIPTION

MANIFEST = "manifest.json"


def head_outputs(config: ModelConfig, labels: Sequence[str]) -> tuple[tuple[int, ...] | None, str | None]:
    """The output of each label where the head that a run starts from has names for its outputs; and a note.

    Args:
        config: names the base, and perhaps an adapter with a head.
        labels: answer words in class order.

    Returns:
        As `SequenceClassification` takes it; and a line for the user where the order is another, or is not known
        though there are names.

    Raises:
        ModelLoadError: the base was not found.
    """
    place, names = f"model.adapter {config.adapter}", _adapter_names(config.adapter)
    if names is None:
        place, names = f"model.id {config.id}", trained_names(base_config(config.id, config.revision))
    if names is None or len(names) != len(labels):  # of another size: said where it is loaded
        return None, None
    wanted, told = ", ".join(label.strip() for label in labels), ", ".join(name.strip() for name in names)
    outputs = matched_outputs(names, labels)
    if outputs is None and are_numbered(names) and not all(re.search(r"\d$", label.strip()) for label in labels):
        return None, None  # words for what nobody has named
    if outputs is None:
        return None, f"{place}: its head has the labels {told}; data.labels are {wanted}, and are taken in that order"
    if list(outputs) != sorted(outputs):
        return outputs, f"{place}: its head has the labels in the order {told}; they are matched by name"
    return None, None


def _adapter_names(adapter: str | None) -> list[str] | None:
    """What the run or export around an adapter calls the outputs of its head; None where nothing tells."""
    if adapter is None:
        return None
    folder = Path(adapter)
    try:
        exported = read_json(folder / MANIFEST)
        if exported:
            labels, told = exported["labels"], exported["likelihood"]
        elif (folder.parent / CONFIG).is_file():
            data = read_config(folder.parent).data
            labels = find_task(data.task).labels if data.task is not None else data.labels or ()
            told = read_json(folder.parent / DESCRIPTION)["likelihood"]
        else:
            return None
        outputs: Sequence[int] = told["settings"].get("outputs") or range(len(labels))
        return [str(name) for _, name in sorted(zip(outputs, labels, strict=True))]
    except (BlobPyroError, LookupError, TypeError, AttributeError, ValueError):
        return None  # altered, or of something else: as an adapter of which nothing is told
