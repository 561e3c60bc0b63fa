"""What a training state may hold: checked before any of it is taken up.

A checkpoint's checksums tell of accidents. Who writes a checkpoint on purpose writes them as well, so that what comes
from a file is still checked for type, size and range: NumPy, for one, takes any position in its generator's state, and
reads memory there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer

from blob_pyro.training.loss_scale import GROWTH_STEPS
from blob_pyro.training.recipes import PriorScaleStep

GENERATOR = "loader.generator"
_MOMENTS: dict[type[Optimizer], set[str]] = {
    AdamW: {"step", "exp_avg", "exp_avg_sq"},
    SGD: set(),
    PriorScaleStep: set(),
}
_WORDS = 624  # of a Mersenne Twister


def check_state(tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
    """Check what can be checked without the model.

    Raises:
        LookupError, TypeError, AttributeError: something is missing, or of another type.
        ValueError, RuntimeError: a value cannot be.
    """
    step = _count("step", numbers["step"], math.inf)
    for name in ("num_skipped", "batches_of_pass"):
        _count(name, numbers[name], step)
    scale, best = numbers["loss_scale"], numbers["best"]
    _check(_is_number(scale["value"]) and 0 < scale["value"] < 2.0**127, "loss_scale", scale["value"])
    _count("loss_scale.good_steps", scale["good_steps"], GROWTH_STEPS - 1)
    for name in ("step", "waited"):
        _count(f"best.{name}", best[name], step)
    _check((best["nll"] is None) != _has(tensors, "best."), "best.nll", best["nll"])
    _check(best["nll"] is None or _is_number(best["nll"]), "best.nll", best["nll"])
    settled = numbers["settled"] or {}
    for name, value in {**settled, "first_width": numbers["first_width"] or 0.0}.items():
        _check(_is_number(value) and value >= 0, name, value)
    for others in numbers["random"]:
        _check_numpy(others["numpy"])
        _check_python(others["python"])
    for name, value in tensors.items():
        _check_tensor(name, value)


def check_moments(
    tensors: Mapping[str, Tensor], optimizers: tuple[Optimizer, ...], names: Mapping[str, Tensor], step: int
) -> None:
    """Check what the optimisers kept of each parameter: all of it or nothing, in the parameter's shape and type.

    Args:
        tensors: of the state.
        optimizers: that are to take it.
        names: name -> parameter.
        step: steps that were done.

    Raises:
        KeyError, IndexError, ValueError: it does not fit.
    """
    found: dict[tuple[int, str], set[str]] = {}
    for name, value in tensors.items():
        if not name.startswith("optimizer."):
            continue
        k, of, key = split_moment(name)
        parameter = names[of]
        if not any(parameter is own for group in optimizers[k].param_groups for own in group["params"]):
            raise KeyError(name)
        found.setdefault((k, of), set()).add(key)
        if key == "step":
            _check(value.shape == () and float(value) in range(1, step + 1), name, value.tolist())
        else:
            check_like(name, value, parameter)
            _check(key != "exp_avg_sq" or not bool((value < 0).any()), name, "numbers below 0")
    for (k, of), keys in found.items():
        if odd := keys ^ _MOMENTS[type(optimizers[k])]:
            raise KeyError(f"optimizer.{k}.{of}.{min(odd)}")
    if bool(found) != _has(tensors, "last_good."):
        raise KeyError("optimizer." if not found else "last_good.")


def split_moment(name: str) -> tuple[int, str, str]:
    """Which optimiser, which parameter's, and what: of "optimizer.K.PARAMETER.KEY"."""
    _, k, rest = name.split(".", 2)
    of, key = rest.rsplit(".", 1)
    if not (k.isascii() and k.isdigit()):
        raise ValueError(f"{name} names no optimiser")
    return int(k), of, key


def check_like(name: str, value: Tensor, parameter: Tensor) -> None:
    """Raise unless a tensor has the shape and the type of a parameter.

    Raises:
        ValueError: says which.
    """
    if value.shape != parameter.shape or value.dtype != parameter.dtype:
        raise ValueError(
            f"{name} has the shape {tuple(value.shape)} and type {value.dtype}, not {tuple(parameter.shape)} and "
            f"{parameter.dtype}"
        )


def _check_tensor(name: str, value: Tensor) -> None:
    kind = name.split(".", 1)[0]
    if kind == "random" or name == GENERATOR:
        _check(value.dtype == torch.uint8 and value.dim() == 1, name, str(value.dtype))
        if name == GENERATOR or name.endswith(".torch"):  # those of devices are of as many kinds
            torch.Generator().set_state(value)
        return
    _check(kind in ("parameter", "last_good", "best", "optimizer"), "tensor", name)
    # parameters may have left the numbers in the very last step, which the next one sees and undoes
    _check(kind == "parameter" or not bool(value.isnan().any()), name, "NaN")


def _check_numpy(found: Mapping[str, Any]) -> None:
    key = found["state"]["key"]
    _check(isinstance(key, list) and len(key) == _WORDS and all(map(_is_word, key)), "random.numpy", "another key")
    _count("random.numpy.pos", found["state"]["pos"], _WORDS)
    _count("random.numpy.has_gauss", found["has_gauss"], 1)
    _check(_is_number(found["gauss"]), "random.numpy.gauss", found["gauss"])


def _check_python(found: Any) -> None:
    version, words, gauss = found
    good = version == 3 and isinstance(words, list) and len(words) == _WORDS + 1 and all(map(_is_word, words))
    _check(good and words[-1] <= _WORDS, "random.python", "another state")
    _check(gauss is None or _is_number(gauss), "random.python", gauss)


def _is_word(value: Any) -> bool:
    return _is_whole(value) and 0 <= value < 2**32


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_whole(value)


def _has(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in tensors)


def _count(name: str, value: Any, most: float) -> int:
    _check(_is_whole(value) and 0 <= value <= most, name, value)
    return int(value)


def _check(holds: bool, name: str, got: Any) -> None:
    if not holds:
        raise ValueError(f"{name} cannot be {str(got)[:80]}")
