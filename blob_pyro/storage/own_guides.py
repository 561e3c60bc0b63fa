"""Guides that are none of `bp.guides`: autoguides of Pyro's, guides of one's own. What is saved, and made again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor, nn

from blob_pyro.data.examples import Batch
from blob_pyro.errors import ConfigError, RunDirectoryError
from blob_pyro.guides import GUIDES, AdapterGuide
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.likelihoods import CausalLM
from blob_pyro.storage.posterior_files import odd_tensor
from blob_pyro.system.hub_errors import one_line
from blob_pyro.training.random_state import kept_random_state

MakeGuide = Callable[[BayesianLoRA], Any]
"""Makes a guide of a model, as it was made when it was trained."""


def guide_description(guide: Any) -> dict[str, Any]:
    """What a run says of its guide: name and settings; of one that is none of `bp.guides`, that it is the user's own.

    Raises:
        ConfigError: it is no module, or an autoguide without parameters yet.
    """
    for name, kind in GUIDES.items():
        if type(guide) is kind:
            return {"name": name, "settings": guide.settings()}
    if not isinstance(guide, nn.Module):
        raise ConfigError(
            f"guide: expected one of bp.guides, an autoguide or another nn.Module, whose parameters can be saved; got "
            f"{getattr(guide, '__name__', type(guide).__name__)}: write it as a pyro.nn.PyroModule"
        )
    if isinstance(guide, AutoGuide) and guide.prototype_trace is None:
        raise ConfigError(
            f"guide: expected an autoguide that was trained; got {type(guide).__name__} that has not seen a batch yet"
        )
    settings = guide.settings() if isinstance(guide, AdapterGuide) else {}
    return {"name": type(guide).__name__, "own": True, "settings": settings}


def guide_adapters(model: BayesianLoRA, guide: Any) -> list[str]:
    """Names of the network's adapters that are saved with a guide; the model's own comes first."""
    return guide.adapters if isinstance(guide, AdapterGuide) else [model.adapter]


def guide_tensors(model: BayesianLoRA, guide: Any) -> dict[str, Tensor]:
    """What is saved of a guide, by name: of a module its state, without what belongs to the network.

    Raises:
        ConfigError: a part of its state is no tensor.
    """
    if isinstance(guide, AdapterGuide):
        return guide.tensors()
    state = guide.state_dict()
    if odd := next((name for name, value in state.items() if not isinstance(value, Tensor)), None):
        raise ConfigError(f"guide: expected tensors in its state; got {type(state[odd]).__name__} as {odd}")
    of_network = {value.data_ptr() for value in (*model.network.parameters(), *model.network.buffers())} - {0}
    return {name: value for name, value in state.items() if value.data_ptr() not in of_network}


def made_guide(make: MakeGuide, model: BayesianLoRA, described: dict[str, Any], saved: dict[str, Tensor]) -> Any:
    """A guide as the user makes it, with places for all that was saved of it.

    Parameters that it makes when it first sees a batch are made by one of two tokens, away from Pyro's param store.

    Args:
        make: gets the model.
        model: the model.
        described: what the run says of its guide.
        saved: its tensors.

    Raises:
        RunDirectoryError: the guide is of another kind than the run's, or has other tensors.
        ConfigError: Pyro's param store holds other values under the names of its parameters, which it would take up.
    """
    guide, name = make(model), described["name"]
    if type(guide).__name__ != name:
        raise RunDirectoryError(
            f"guide: expected one that makes {name}, which the run was saved with; got {type(guide).__name__}"
        )
    try:
        declared = _declared(model, guide)
    except Exception as error:  # whatever a guide of one's own makes of two tokens
        declared, why = {}, f" ({one_line(error, 200)})"
    else:
        why = ""
    _take_buffers(guide, saved)
    if odd := odd_tensor(saved, guide_tensors(model, guide)):
        raise RunDirectoryError(
            f"guide: expected the guide that the run was saved with, made with the same arguments; {odd} differs{why}"
        )
    _refuse_other_values(declared, guide, saved)
    return guide


def _take_buffers(guide: nn.Module, saved: dict[str, Tensor]) -> None:
    """Give a guide buffers in place of constrained parameters, as Pyro's `laplace_approximation` does."""
    state = guide.state_dict()
    for name in saved.keys() - state.keys():
        if f"{name}_unconstrained" in state:
            delattr(guide, name)
            guide.register_buffer(name, saved[name].clone())


def _declared(model: BayesianLoRA, guide: Any) -> dict[str, Tensor]:
    """What a guide tells Pyro's param store when it sees a batch; the store and the generators stay as they were."""
    tokens = torch.zeros((1, 2), dtype=torch.long, device=model.device)
    labels = tokens if isinstance(model.likelihood, CausalLM) else tokens[0, :1]
    with torch.no_grad(), kept_random_state(model.network), pyro.get_param_store().scope():
        guide(Batch(tokens, torch.ones_like(tokens), labels))
        return dict(pyro.get_param_store().named_parameters())


def _refuse_other_values(declared: dict[str, Tensor], guide: Any, saved: dict[str, Tensor]) -> None:
    """Raise where the param store would put other values into a guide than those that were saved."""
    names = {id(value): name for name, value in _named(guide)}
    present = dict(pyro.get_param_store().named_parameters())
    for name, value in declared.items():
        wanted = saved.get(names.get(id(value), ""))
        if name in present and wanted is not None and not torch.equal(present[name].detach().cpu(), wanted):
            raise ConfigError(
                f"guide: expected a param store without another {type(guide).__name__}; Pyro's holds other values as "
                f"{name}, which this one would take up: pyro.clear_param_store() first"
            )


def _named(guide: nn.Module) -> Iterator[tuple[str, Tensor]]:
    return guide.named_parameters(remove_duplicate=False)


def refuse_made(path: Path, described: dict[str, Any], make: MakeGuide | None) -> None:
    """Check that a guide is told where the run's is the user's own, and not elsewhere.

    Raises:
        ConfigError: it is not so.
    """
    name, own = str(described.get("name"))[:80], described.get("own") is True
    if own and make is None:
        raise ConfigError(
            f"{path}: expected to be told how its guide is made, {name}, which is none of bp.guides: "
            f"bp.load({str(path)!r}, guide=lambda model: {name}(model))"
        )
    if make is not None and not own:
        raise ConfigError(f"guide: expected none beside a run that says how its own is made ({name}); got one")
