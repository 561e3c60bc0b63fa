"""What a run was made with, beside its configuration: versions, machine, items, and what was noted of the items."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from blob_pyro.data.tasks.task_data import TaskData
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.storage.directory import REVISIONS
from blob_pyro.system.machine import ABSENT, device_name, versions

PACKAGES = ("blob_pyro", "torch", "pyro-ppl", "transformers", "peft", "accelerate", "bitsandbytes")


def about(
    model: BayesianLoRA, data: TaskData, num_processes: int = 1, data_commit: str | None = None
) -> dict[str, Any]:
    """What about.json holds; JSON types only, and no path.

    Args:
        model: says on which device it is.
        data: the items, and the notes on them.
        num_processes: that train together.
        data_commit: of the hub, that the items are of.

    Returns:
        "versions" by package and of Python, "machine", "items" by part, "label_entropy" of the training labels'
        frequencies in nats (null where items have none), and "notes"; and "revisions", the commits of "model" and
        "data" where they are of the hub.
    """
    commits = {"model": model.source.revision, "data": data_commit}
    revisions = {name: commit for name, commit in commits.items() if commit is not None}
    return {
        "versions": {name: found for name, found in versions(PACKAGES).items() if found != ABSENT},
        "machine": {
            "device": model.device.type,
            "name": device_name(model.device),
            "threads": torch.get_num_threads(),
            "processes": num_processes,
        },
        "items": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
        "label_entropy": _entropy([example.label for example in data.train if example.label is not None]),
        "notes": list(data.notes),
        **({REVISIONS: revisions} if revisions else {}),
    }


def _entropy(labels: Sequence[int]) -> float | None:
    """What naming each label as often as it occurs costs: nats per item."""
    if not labels:
        return None
    counts = Counter(labels).values()
    return -sum(count / len(labels) * math.log(count / len(labels)) for count in counts)
