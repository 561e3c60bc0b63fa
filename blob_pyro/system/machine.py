"""Versions and machine of this process."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

LIBRARIES = ("blob_pyro", "torch", "pyro-ppl", "transformers", "peft", "accelerate", "safetensors")
"""What is computed depends on them."""
ABSENT = "not installed"


def versions(packages: Iterable[str] = LIBRARIES) -> dict[str, str]:
    """Version of Python and of each package; `ABSENT` where it is not installed as a package."""
    return {"python": platform.python_version()} | {name: version_of(name) for name in packages}


def version_of(package: str) -> str:
    """Its version; `ABSENT` where it is not installed as a package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ABSENT


def device_name(device: str | torch.device) -> str:
    """Of a GPU its name; else the kind of processor."""
    return torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else platform.machine()


def describe_machine(device: str) -> dict[str, str | int]:
    """Processor, threads and versions of this process."""
    machine: dict[str, str | int] = {
        "system": platform.platform(),
        "processor": _processor(),
        "cpus": os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
    }
    if device.startswith("cuda"):
        machine["gpu"] = device_name(device)
    packages = {"torch": "torch", "transformers": "transformers", "peft": "peft", "pyro": "pyro-ppl",
                "bitsandbytes": "bitsandbytes"}  # fmt: skip
    return machine | {name: version_of(package) for name, package in packages.items()}


def machine_name(machine: Mapping[str, str | int]) -> str:
    """The kind of a machine that `describe_machine` describes, as part of a file's name; nothing that is its own alone.

    Example:
        >>> machine_name({"processor": "Intel(R) Xeon(R) CPU @ 2.20GHz", "cpus": 2})
        'intel-xeon-cpu-2.20ghz-2-cpus'
    """
    words = f"{machine.get('gpu', machine['processor'])} {machine['cpus']} cpus".lower()
    return re.sub(r"[^a-z0-9.]+", "-", re.sub(r"\((r|tm)\)", "", words)).strip("-")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
