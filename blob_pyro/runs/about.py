"""What a run was made with, beside its configuration: versions, machine, items, and what was noted of the items."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from blob_pyro.data.tasks.task_data import TaskData
from blob_pyro.model.bayesian_lora import BayesianLoRA

PACKAGES = ("blob_pyro", "torch", "pyro-ppl", "transformers", "peft", "accelerate", "bitsandbytes")


def about(model: BayesianLoRA, data: TaskData, num_processes: int = 1) -> dict[str, Any]:
    """What about.json holds; JSON types only, and no path.

    Args:
        model: says on which device it is.
        data: the items, and the notes on them.
        num_processes: that train together.

    Returns:
        "versions" by package and of Python, "machine", "items" by part, and "notes".
    """
    device = model.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "versions": {"python": platform.python_version()}
        | {name: found for name in PACKAGES if (found := _version(name))},
        "machine": {
            "device": device.type,
            "name": name,
            "threads": torch.get_num_threads(),
            "processes": num_processes,
        },
        "items": {"train": len(data.train), "validation": len(data.validation), "test": len(data.test)},
        "notes": list(data.notes),
    }


def _version(package: str) -> str | None:
    """Its version; None where it is not installed as a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
