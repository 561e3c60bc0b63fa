"""Tells whether a base is the one that a run was trained on, by a few of its weights."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from blob_pyro.errors import ModelLoadError
from blob_pyro.model.bayesian_lora import BayesianLoRA

DIGEST = "base_sha256"
VALUES = 8  # of each adapted layer: enough to tell bases apart, and nothing to read


def base_digest(model: BayesianLoRA) -> str | None:
    """A checksum of the base's weights under all adapted layers, of some evenly spaced values of each.

    None where they are not here as plain numbers: quantised, sharded over processes, or not in memory.
    """
    found = hashlib.sha256()
    adapted = {name: part for name, part in model.network.named_modules() if hasattr(part, "base_layer")}
    weights = {name: getattr(part.base_layer, "weight", None) for name, part in adapted.items()}
    for name, weight in sorted(weights.items()):
        if type(weight) is not nn.Parameter or weight.is_meta or not weight.is_floating_point():
            return None
        flat = weight.detach().reshape(-1)
        values = flat[:: max(1, len(flat) // VALUES)][:VALUES].to("cpu", torch.float32)
        found.update(f"{name} {tuple(weight.shape)}".encode() + values.numpy().tobytes())
    return found.hexdigest()


def check_base(model: BayesianLoRA, name: str, described: Mapping[str, Any]) -> None:
    """Check that a base that was loaded from another place is the one of a run.

    Where that cannot be told (a quantised base, a run of an older version) a warning says so.

    Args:
        model: has the base.
        name: what the run calls it.
        described: what the run says of its model.

    Raises:
        ModelLoadError: it has other weights.
    """
    found, digest = base_digest(model), described.get(DIGEST)
    if found is None or digest is None:
        why = "the run does not tell them" if digest is None else "they are no plain numbers here"
        warnings.warn(f"base {name}: what was loaded in its place was not compared by its weights: {why}", stacklevel=3)
    elif found != digest:
        raise ModelLoadError(
            f"base {name}: expected its weights, which the run was trained on, in the place that it has moved to; got "
            "others: name that place"
        )
