"""Saves and loads a run: PEFT's own adapter folder, the posterior's spread beside it, never pickle.

A run directory holds

    adapter/                the posterior mean, exactly what PEFT saves (loads with plain PEFT, merges, serves)
    posterior.safetensors   the guide's own tensors, by Pyro name
    posterior.json          what is needed to make model and guide again; versioned
    config.yaml ...         what a whole run adds (`blob_pyro.workflow`)

The scale stays out of the adapter file because servers (vLLM, for one) refuse any tensor there but lora_A
and lora_B.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from blob_pyro.errors import RunDirectoryError
from blob_pyro.guides import GUIDES, AdapterGuide
from blob_pyro.likelihoods import LIKELIHOODS
from blob_pyro.loading import BaseSource, load_base, load_tokenizer
from blob_pyro.model import BayesianLoRA

if TYPE_CHECKING:
    from peft import PeftModel

FORMAT = "blob_pyro.posterior"
VERSION = 1
ADAPTER, TENSORS, DESCRIPTION = "adapter", "posterior.safetensors", "posterior.json"


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
    """Write adapter, posterior and description into `run_dir` (made if it is not there).

    Args:
        run_dir: the run directory; these three parts of it are overwritten.
        model: the model.
        guide: its posterior.
    """
    path = Path(run_dir)
    path.mkdir(parents=True, exist_ok=True)
    # "auto" would ask the hub whether the vocabulary grew; an adapter on lm_head needs no embedding saved
    model.network.save_pretrained(str(path / ADAPTER), selected_adapters=[model.adapter], save_embedding_layers=False)
    tensors = {name: value.detach().cpu().contiguous() for name, value in guide.scale_parameters().items()}
    save_file(tensors, path / TENSORS)
    (path / DESCRIPTION).write_text(json.dumps(_describe(model, guide), indent=2) + "\n", encoding="utf-8")


def load(run_dir: str | Path, *, base: Any = None) -> Run:
    """Make the model and guide of a run directory again, bit for bit.

    Args:
        run_dir: what `save` wrote.
        base: the base network, where it is in memory already; by default it is loaded from where it came.

    Raises:
        RunDirectoryError: a part is missing or altered, or of another format version.
        ModelLoadError: the base model was not found.
    """
    path = Path(run_dir)
    described = _read_description(path)
    likelihood = LIKELIHOODS[described["likelihood"]["name"]](**described["likelihood"]["settings"])
    source = BaseSource(**described["base"])
    network = _load_adapter(path, described["adapter"], base if base is not None else load_base(source, likelihood))
    model = BayesianLoRA(
        network,
        likelihood,
        prior_scale=described["prior_scale"],
        num_data=described["num_data"],
        tokenizer=load_tokenizer(source.id) if base is None else None,
        source=source,
    )
    guide = GUIDES[described["guide"]["name"]](model, **described["guide"]["settings"])
    _restore(guide, path)
    return Run(path, model, guide)


def _describe(model: BayesianLoRA, guide: AdapterGuide) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "version": VERSION,
        "guide": {"name": _name_of(guide), "settings": guide.settings()},
        "likelihood": {"name": type(model.likelihood).__name__, "settings": model.likelihood.settings()},
        "prior_scale": model.prior_scale,
        "num_data": model.num_data,
        "adapter": model.adapter,
        "base": dataclasses.asdict(model.source),
        "sites": {site: list(model.location(site).shape) for site in model.sites},
    }


def _name_of(guide: AdapterGuide) -> str:
    return next(name for name, kind in GUIDES.items() if type(guide) is kind)


def _read_description(path: Path) -> dict[str, Any]:
    file = path / DESCRIPTION
    if not file.is_file():
        raise RunDirectoryError(f"{path}: expected a run directory with {DESCRIPTION}; it is not there; check the path")
    try:
        described: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        kind, version = described["format"], described["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise RunDirectoryError(
            f"{file}: expected the description of a posterior; it cannot be read: {error}"
        ) from error
    if (kind, version) != (FORMAT, VERSION):
        raise RunDirectoryError(
            f"{file}: expected {FORMAT} version {VERSION}; got {kind} version {version}; "
            "load it with the version of blob_pyro that wrote it"
        )
    missing = [
        key for key in ("guide", "likelihood", "prior_scale", "num_data", "adapter", "base") if key not in described
    ]
    if missing or described["guide"]["name"] not in GUIDES or described["likelihood"]["name"] not in LIKELIHOODS:
        raise RunDirectoryError(
            f"{file}: expected a known guide and likelihood; it is incomplete or altered; save it anew"
        )
    return described


def _load_adapter(path: Path, adapter: str, base: Any) -> PeftModel:
    from peft import PeftModel

    # PEFT writes the default adapter into the folder itself, any other into a folder of its name
    folder = path / ADAPTER if adapter == "default" else path / ADAPTER / adapter
    if not (folder / "adapter_model.safetensors").is_file():
        raise RunDirectoryError(
            f"{path}: expected {folder.relative_to(path)}/adapter_model.safetensors; it is not there"
        )
    try:
        return PeftModel.from_pretrained(base, str(folder), adapter_name=adapter, is_trainable=True)
    except (SafetensorError, RuntimeError, ValueError, KeyError) as error:
        raise RunDirectoryError(
            f"{folder}: expected an adapter for this base model; PEFT says: {' '.join(str(error).split())[:300]}"
        ) from error


def _restore(guide: AdapterGuide, path: Path) -> None:
    """Copy the saved tensors into the guide's parameters."""
    try:
        saved = load_file(path / TENSORS)
    except (OSError, SafetensorError) as error:
        raise RunDirectoryError(f"{path / TENSORS}: expected a safetensors file; it cannot be read: {error}") from error
    parameters = guide.scale_parameters()
    shapes = {name: tuple(value.shape) for name, value in parameters.items()}
    found = {name: tuple(value.shape) for name, value in saved.items()}
    if found != shapes:
        odd = sorted(set(found.items()) ^ set(shapes.items()))[0][0]
        raise RunDirectoryError(
            f"{path / TENSORS}: expected the posterior of this adapter ({len(shapes)} tensors); "
            f"got {len(found)}; {odd} differs; the parts of this directory come from different runs"
        )
    with torch.no_grad():
        for name, value in saved.items():
            parameters[name].copy_(value)
