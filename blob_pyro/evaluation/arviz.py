"""Predictions as ArviZ has them: named groups of arrays over chains, draws and items."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from blob_pyro.errors import ConfigError, DataError, MissingPackageError

INSTALL = "pip install 'blob_pyro[arviz]'"
# As in the scores: below float32's smallest normal number a probability counts as that.
SMALLEST_PROB = torch.finfo(torch.float32).tiny

Groups = dict[str, dict[str, Any]]


def to_arviz(
    draws: Tensor, labels: Tensor | None, shares: Tensor | None, classes: Sequence[str] | None, seed: int
) -> Any:
    """What `Predictions.to_arviz` returns, from its fields."""
    arviz = _import_arviz()
    if len(draws) < 2:
        raise DataError(
            f"expected predictions under at least 2 posterior draws; got {len(draws)} (the posterior mean has none): "
            "predict with num_samples of 2 or more"
        )
    names = _class_names(classes, draws.shape[-1])
    probs = draws.detach().cpu().double()
    coords = {"item": list(range(probs.shape[1])), "class": names}
    dims = {"probs": ["item", "class"], "label": ["item"], "shares": ["item", "class"]}
    groups = _groups(probs, labels, shares, seed)
    if "posterior" in signature(arviz.from_dict).parameters:  # before 1.0 the groups are arguments
        return arviz.from_dict(**groups, coords=coords, dims=dims)
    return arviz.from_dict(groups, coords=coords, dims=dims)


def _groups(probs: Tensor, labels: Tensor | None, shares: Tensor | None, seed: int) -> Groups:
    """Group -> variable -> array; those with draws have (chain, draw) in front."""
    groups: Groups = {
        "posterior": {"probs": probs.numpy()[None]},
        "posterior_predictive": {"label": _drawn_labels(probs, seed).numpy()[None]},
    }
    if labels is not None:
        groups["log_likelihood"] = {"label": _log_likelihood(probs, labels, shares).numpy()[None]}
        groups["observed_data"] = {"label": labels.detach().cpu().numpy()}
    if shares is not None:
        groups["observed_data"]["shares"] = shares.detach().cpu().numpy()
    return groups


def _drawn_labels(probs: Tensor, seed: int) -> Tensor:
    """(S, n) a label of every item under every draw; no global random state is touched."""
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(probs.flatten(0, 1), 1, generator=generator).reshape(probs.shape[:2])


def _log_likelihood(probs: Tensor, labels: Tensor, shares: Tensor | None) -> Tensor:
    """(S, n) log-probability of each item's label, or of its shares, sum_k q_k log p_k, in nats."""
    log_probs = probs.clamp(min=SMALLEST_PROB).log()
    if shares is not None:
        return (shares.detach().cpu().double() * log_probs).sum(-1)
    index = labels.detach().cpu().long().expand(probs.shape[:2])
    return log_probs.gather(-1, index[..., None])[..., 0]


def _class_names(classes: Sequence[str] | None, num_classes: int) -> list[Any]:
    if classes is None:
        return list(range(num_classes))
    if len(classes) != num_classes:
        raise ConfigError(f"classes: expected {num_classes} names, one a class; got {len(classes)}")
    return list(classes)


def _import_arviz() -> Any:
    try:
        return import_module("arviz")
    except ImportError as error:
        raise MissingPackageError(f"expected the package arviz for to_arviz; it is not installed: {INSTALL}") from error
