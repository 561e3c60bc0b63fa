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
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file

from blob_pyro.errors import ConfigError, RunDirectoryError, UnsupportedPosteriorError
from blob_pyro.guides import GUIDES, AdapterGuide
from blob_pyro.model.adapted_base import load_adapted
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.likelihoods import LIKELIHOODS
from blob_pyro.model.loading import BaseSource
from blob_pyro.model.prior import Hyperprior
from blob_pyro.storage.adapter_checks import check_adapter
from blob_pyro.storage.adapter_files import read_adapter_config, write_adapter_config
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
        guide: its posterior.
    """

    path: Path
    model: BayesianLoRA
    guide: AdapterGuide


def save(run_dir: str | Path, model: BayesianLoRA, guide: AdapterGuide) -> None:
    """Write adapter, posterior and description into `run_dir` (made if it is not there), all or none of them.

    Args:
        run_dir: the run directory; these three parts of it are replaced.
        model: the model.
        guide: its posterior.

    Raises:
        ConfigError: the guide is none of bp.guides, which `load` could not make again, or it is another model's;
            nothing is written.
        UnsupportedPosteriorError: the model was trained under another guide since; nothing is written.
        UnsupportedLayerError: the adapter is not the network's active, enabled and unmerged one; nothing is written.
    """
    model.check_alive()
    described = describe(model, guide)
    guide.check_model(model)
    with replaced_together(Path(run_dir)) as path:
        # "auto" would ask the hub whether the vocabulary grew; an adapter on lm_head needs no embedding saved
        model.network.save_pretrained(
            str(path / ADAPTER), selected_adapters=guide.adapters, save_embedding_layers=False
        )
        for folder in (adapter_folder(path, adapter) for adapter in guide.adapters):
            # PEFT writes the folder of this machine that the base was loaded from, not what the user calls it
            write_adapter_config(folder, read_adapter_config(folder) | {"base_model_name_or_path": model.source.id})
        (path / ADAPTER / "README.md").unlink(missing_ok=True)  # an empty form, which names that folder too
        tensors = {name: value.detach().cpu().contiguous() for name, value in guide.tensors().items()}
        save_file(tensors, path / TENSORS)
        told = {"mean_scales": mean_scales(guide), "width": _width(guide), "sha256": digests(path, guide.adapters)}
        write_whole(path / DESCRIPTION, json.dumps(described | told, indent=2) + "\n")


def load(run_dir: str | Path, *, base: Any = None, device_map: Any = None, shard_base: bool = False) -> Run:
    """Make the model and guide of a run directory again, bit for bit.

    Args:
        run_dir: what `save` wrote.
        base: the base network, where it is in memory already; by default it is loaded from where it came.
        device_map: where the base is loaded to, whatever the run was trained on: as in
            `BayesianLoRA.from_pretrained`; not beside `base`.
        shard_base: share the base out over the processes that a launcher has connected; not beside `base`.

    Raises:
        ConfigError: the device map cannot be, or names a device that is not here; or there is a base too; or the base
            cannot be shared out.
        RunDirectoryError: a part is missing or altered, or of another format version.
        ModelLoadError: the base model was not found.
    """
    if base is not None and device_map is not None:
        raise ConfigError("device_map: expected none beside a base, which is in memory already; got both")
    if base is not None and shard_base:
        raise ConfigError("shard_base: expected no base beside it, which is in memory already; got both")
    path = together_in(Path(run_dir))
    described = read_description(path)
    with refuse_altered(path / DESCRIPTION):
        likelihood = LIKELIHOODS[described["likelihood"]["name"]](**described["likelihood"]["settings"])
        source = BaseSource(**described["base"])
        guide_kind, guide_settings = GUIDES[described["guide"]["name"]], described["guide"]["settings"]
        names = [described["adapter"], *described.get("adapters", [])]
        refuse_oversized(path, described, names)
        others = [name for name in dict.fromkeys(names) if name != names[0]]
    if base is None:
        network, tokenizer = load_adapted(
            source,
            likelihood,
            lambda base: _load_adapters(path, names[0], others, base),
            device_map=device_map,
            shard=shard_base,
        )
    else:
        network, tokenizer = _load_adapters(path, names[0], others, base), None
    with refuse_altered(path / DESCRIPTION):
        model = BayesianLoRA(
            network,
            likelihood,
            prior_scale=_prior_scale(described["prior_scale"]),
            num_data=described["num_data"],
            bayesian=described.get("bayesian", "A"),
            bayesian_layers=described.get("bayesian_layers"),
            tokenizer=tokenizer,
            source=source,
        )
        guide = guide_kind(model, **guide_settings)
    _check_sites(path, model, described["sites"])
    restore(guide.tensors(), read_tensors(path), path)
    check_digests(path, guide.adapters, described.get("sha256", {}))
    return Run(Path(run_dir), model, guide)


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


def describe(model: BayesianLoRA, guide: AdapterGuide) -> dict[str, Any]:
    """What is needed, beside the tensors, to make model and guide again; JSON types only."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "guide": {"name": _name_of(guide), "settings": guide.settings()},
        "likelihood": {"name": type(model.likelihood).__name__, "settings": model.likelihood.settings()},
        "prior_scale": model.prior_scale if model.hyperprior is None else model.hyperprior.describe(),
        "num_data": model.num_data,
        "bayesian": model.bayesian,
        "bayesian_layers": model.bayesian_layers,
        "adapter": model.adapter,
        "adapters": guide.adapters,
        "base": dataclasses.asdict(model.source),
        "sites": _site_shapes(model),
    }


def _prior_scale(described: Any) -> Any:
    """What `BayesianLoRA` takes: a number, or a law."""
    return Hyperprior.from_description(described).law() if isinstance(described, dict) else described


def _site_shapes(model: BayesianLoRA) -> dict[str, list[int]]:
    return {site: list(model.location(site).shape) for site in model.sites}


def _name_of(guide: AdapterGuide) -> str:
    for name, kind in GUIDES.items():
        if type(guide) is kind:
            return name
    raise ConfigError(f"guide: expected one of bp.guides ({', '.join(GUIDES)}); got {type(guide).__name__}")


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
