"""Versions and machine of this process."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

LIBRARIES = ("blob_pyro", "torch", "pyro-ppl", "transformers", "peft", "accelerate", "safetensors")


def library_versions() -> dict[str, str]:
    """Version of Python and of each library that what is computed depends on."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def describe_machine(device: str) -> dict[str, str | int]:
    """Processor, threads and versions of this process."""
    found: dict[str, str | int] = {
        "system": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }
    if device.startswith("cuda"):
        found["gpu"] = torch.cuda.get_device_name(device)
    packages = {"torch": "torch", "transformers": "transformers", "peft": "peft", "pyro": "pyro-ppl",
                "bitsandbytes": "bitsandbytes"}  # fmt: skip
    return found | {name: importlib.metadata.version(package) for name, package in packages.items()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
