"""Saves and loads a run: PEFT's own adapter folder, the posterior's spread beside it, never pickle.

A run directory holds

    adapter/                the posterior mean, exactly what PEFT saves (loads with plain PEFT, merges, serves);
                            of an ensemble its first member, and the others in folders below
    posterior.safetensors   the guide's own tensors, by Pyro name
    posterior.json          what is needed to make model and guide again; versioned; the mean standard deviation of
                            each site, to be read without them; checksums of the others
    config.yaml ...         what a whole run adds (`blob_pyro.runs.fit`)

The scale stays out of the adapter file because servers (vLLM, for one) refuse any tensor there but lora_A
and lora_B. A process that is killed in `save` leaves the run that was there, or the new one: `load` finds whole what it
had still to copy to its place (`blob_pyro.system.files.replaced_together`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import nn

from blob_pyro.errors import ConfigError, ModelLoadError, RunDirectoryError, UnsupportedPosteriorError
from blob_pyro.guides import GUIDES, AdapterGuide
from blob_pyro.model.adapted_base import load_adapted
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.likelihoods import LIKELIHOODS, Likelihood
from blob_pyro.model.loading import BaseSource
from blob_pyro.model.prior import Hyperprior
from blob_pyro.prediction.predictive import check_guide
from blob_pyro.storage.adapter_checks import check_adapter
from blob_pyro.storage.adapter_files import read_adapter_config, write_adapter_config
from blob_pyro.storage.base_digest import DIGEST, base_digest, check_base
from blob_pyro.storage.own_guides import (
    MakeGuide,
    guide_adapters,
    guide_description,
    guide_tensors,
    made_guide,
    refuse_made,
)
from blob_pyro.storage.posterior_files import (
    ADAPTER,
    DESCRIPTION,
    FORMAT,
    TENSORS,
    VERSION,
    adapter_folder,
    check_digests,
    digests,
    read_description,
    read_tensors,
    refuse_altered,
    refuse_oversized,
    restore,
)
from blob_pyro.system.files import replaced_together, together_in, write_whole
from blob_pyro.system.hub_errors import one_line

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class Run:
    """What `load` gives back.

    Attributes:
        path: the run directory.
        model: the model, with the run's adapter and tokenizer.
        guide: its posterior: one of `bp.guides`, or what `load` was told to make.
    """

    path: Path
    model: BayesianLoRA
    guide: Any


def save(run_dir: str | Path, model: BayesianLoRA, guide: nn.Module) -> None:
    """Write adapter, posterior and description into `run_dir` (made if it is not there), all or none of them.

    Args:
        run_dir: the run directory; these three parts of it are replaced.
        model: the model.
        guide: its posterior: one of `bp.guides`, or an autoguide or another module, of which the state is kept. How
            such a guide is made `load` has to be told.

    Raises:
        ConfigError: the guide is no module, an autoguide without parameters yet, or another model's.
        UnsupportedPosteriorError: the model was trained under another guide since.
        UnsupportedLayerError: the adapter is not the network's active, enabled and unmerged one.
    """
    model.check_alive()
    described, adapters = describe(model, guide), guide_adapters(model, guide)
    check_guide(model, guide)
    with replaced_together(Path(run_dir)) as path:
        # "auto" would ask the hub whether the vocabulary grew; an adapter on lm_head needs no embedding saved
        model.network.save_pretrained(str(path / ADAPTER), selected_adapters=adapters, save_embedding_layers=False)
        for folder in (adapter_folder(path, adapter) for adapter in adapters):
            # PEFT writes the folder of this machine that the base was loaded from, not what the user calls it
            write_adapter_config(folder, read_adapter_config(folder) | model.source.for_peft())
        (path / ADAPTER / "README.md").unlink(missing_ok=True)  # an empty form, which names that folder too
        tensors = guide_tensors(model, guide)
        save_file({name: value.detach().cpu().clone().contiguous() for name, value in tensors.items()}, path / TENSORS)
        scales, width = (mean_scales(guide), _width(guide)) if isinstance(guide, AdapterGuide) else ({}, None)
        told = {"mean_scales": scales, "width": width, "sha256": digests(path, adapters), DIGEST: base_digest(model)}
        write_whole(path / DESCRIPTION, json.dumps(described | told, indent=2) + "\n")


def load(
    run_dir: str | Path,
    *,
    guide: MakeGuide | None = None,
    base: Any = None,
    device_map: Any = None,
    shard_base: bool = False,
) -> Run:
    """Make the model and guide of a run directory again, bit for bit.

    Args:
        run_dir: what `save` wrote.
        guide: makes the guide of a model, where the run's is none of `bp.guides`: `lambda model: AutoNormal(model)`.
        base: the base network, where it is in memory already; or the folder, hub id or alias that it is loaded from,
            where it has moved. By default it is loaded from where it came.
        device_map: where the base is loaded to, whatever the run was trained on: as in
            `BayesianLoRA.from_pretrained`; not beside a network.
        shard_base: share the base out over the processes that a launcher has connected; not beside a network.

    Raises:
        ConfigError: the device map cannot be, or names a device that is not here; or there is a base too; or the base
            cannot be shared out. `guide` is missing, or there is no place for one; or Pyro's param store holds other
            values by the names of its parameters.
        RunDirectoryError: a part is missing or altered, or of another format version; or `guide` makes another one.
        ModelLoadError: the base model was not found; or the one in a place that `base` names has other weights than
            the run's.
    """
    moved_to, base = (str(base), None) if isinstance(base, str | Path) else (None, base)
    if base is not None and device_map is not None:
        raise ConfigError("device_map: expected none beside a base, which is in memory already; got both")
    if base is not None and shard_base:
        raise ConfigError("shard_base: expected no base beside it, which is in memory already; got both")
    path = together_in(Path(run_dir))
    described = read_description(path)
    with refuse_altered(path / DESCRIPTION):
        of_guide = dict(described["guide"])
    refuse_made(Path(run_dir), of_guide, guide)
    with refuse_altered(path / DESCRIPTION):
        likelihood = LIKELIHOODS[described["likelihood"]["name"]](**described["likelihood"]["settings"])
        before = BaseSource(**described["base"])
        source = before if moved_to is None else dataclasses.replace(before, id=moved_to, revision=None)
        own: Callable[..., AdapterGuide] | None = None if guide else GUIDES[of_guide["name"]]
        names = [described["adapter"], *described.get("adapters", [])]
        refuse_oversized(path, described, names)

    def put_adapters(base: Any) -> PeftModel:
        return _load_adapters(path, names[0], [name for name in dict.fromkeys(names) if name != names[0]], base)

    if base is None:
        with _told_of_moves(moved_to):
            network, tokenizer = load_adapted(source, likelihood, put_adapters, device_map=device_map, shard=shard_base)
        source = source.as_loaded()
    else:
        network, tokenizer = put_adapters(base), None
    with refuse_altered(path / DESCRIPTION):
        model = _model(described, network, likelihood, tokenizer, source)
        made: Any = None if own is None else own(model, **of_guide["settings"])
    _check_sites(path, model, described["sites"])
    if moved_to is not None:
        check_base(model, before.id, described)
    saved = read_tensors(path)
    if guide is not None:
        made = made_guide(guide, model, of_guide, saved)
    restore(guide_tensors(model, made), saved, path)
    check_digests(path, guide_adapters(model, made), described.get("sha256", {}))
    return Run(Path(run_dir), model, made)


@contextlib.contextmanager
def _told_of_moves(moved_to: str | None) -> Iterator[None]:
    """Say how to name the new place of a base that is not where it was."""
    try:
        yield
    except ModelLoadError as error:
        if moved_to is not None:
            raise
        raise ModelLoadError(f"{error}; if the base has moved, name its place: --base, or bp.load(base=)") from error


def _model(
    described: dict[str, Any], network: PeftModel, likelihood: Likelihood, tokenizer: Any, source: BaseSource
) -> BayesianLoRA:
    """The model that a description tells of."""
    return BayesianLoRA(
        network,
        likelihood,
        prior_scale=_prior_scale(described["prior_scale"]),
        num_data=described["num_data"],
        bayesian=described.get("bayesian", "A"),
        bayesian_layers=described.get("bayesian_layers"),
        tokenizer=tokenizer,
        source=source,
    )


def mean_scales(guide: AdapterGuide) -> dict[str, float]:
    """Site -> mean posterior standard deviation over its entries, finite ones; empty where there is no spread yet."""
    with torch.no_grad():
        try:
            found = {site: float(guide.scale(site).double().mean()) for site in guide.model.sites}
        except UnsupportedPosteriorError:  # of a guide that was not fitted
            return {}
    return {site: scale for site, scale in found.items() if math.isfinite(scale)}


def _width(guide: AdapterGuide) -> float | None:
    """The spread as a share of the prior's; None where there is none that is told."""
    try:
        width = guide.width()
    except UnsupportedPosteriorError:  # of a guide that was not fitted
        return None
    return width if math.isfinite(width) else None


def describe(model: BayesianLoRA, guide: nn.Module) -> dict[str, Any]:
    """What is needed, beside the tensors, to make model and guide again; JSON types only."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "guide": guide_description(guide),
        "likelihood": {"name": type(model.likelihood).__name__, "settings": model.likelihood.settings()},
        "prior_scale": model.prior_scale if model.hyperprior is None else model.hyperprior.describe(),
        "num_data": model.num_data,
        "bayesian": model.bayesian,
        "bayesian_layers": model.bayesian_layers,
        "adapter": model.adapter,
        "adapters": guide_adapters(model, guide),
        "base": model.source.to_dict(),
        "sites": _site_shapes(model),
    }


def _prior_scale(described: Any) -> Any:
    """What `BayesianLoRA` takes: a number, or a law."""
    return Hyperprior.from_description(described).law() if isinstance(described, dict) else described


def _site_shapes(model: BayesianLoRA) -> dict[str, list[int]]:
    return {site: list(model.location(site).shape) for site in model.sites}


def load_adapter(folder: Path, base: Any, name: str = "default", *, shown: Path | None = None) -> PeftModel:
    """A base network with the adapter of a folder, ready to be trained.

    Args:
        folder: what PEFT saves: adapter_config.json and adapter_model.safetensors.
        base: the base network.
        name: what the adapter is called.
        shown: what a message calls the folder, where it is a copy.

    Raises:
        RunDirectoryError: it is not there, or not one for this base.
    """
    from peft import PeftModel

    with _reading(folder, shown):
        return PeftModel.from_pretrained(base, str(folder), adapter_name=name, is_trainable=True)


def _load_adapters(path: Path, adapter: str, others: list[str], base: Any) -> PeftModel:
    """The base with every adapter of a run on it; the model's own is the active one."""
    network = load_adapter(adapter_folder(path, adapter), base, adapter)
    for name in others:
        with _reading(adapter_folder(path, name)):
            network.load_adapter(str(adapter_folder(path, name)), adapter_name=name, is_trainable=True)
    network.set_adapter(adapter)
    return network


@contextlib.contextmanager
def _reading(folder: Path, shown: Path | None = None) -> Iterator[None]:
    """Around PEFT's reading of an adapter: one error for whatever is wrong with it."""
    check_adapter(folder, shown or folder)
    try:
        with warnings.catch_warnings():  # tensors that are not in the file would keep random values
            warnings.filterwarnings("error", message=".*missing adapter keys")
            yield
    except Exception as error:  # whatever PEFT trips over in settings that make no sense
        why = one_line(error, 300)
        raise RunDirectoryError(
            f"{shown or folder}: expected an adapter for this base model; PEFT says: {why}"
        ) from error


def _check_sites(path: Path, model: BayesianLoRA, sites: Any) -> None:
    """Raise unless the adapter that was loaded has the layers that the description names."""
    if _site_shapes(model) != sites:
        raise RunDirectoryError(
            f"{path}: expected the adapter that {DESCRIPTION} describes; the one in {ADAPTER} has other layers or "
            "ranks; the parts of this directory come from different runs"
        )
