"""Saves and loads a run: PEFT's own adapter folder, the posterior's spread beside it, never pickle.

A run directory holds

    adapter/                the posterior mean, exactly what PEFT saves (loads with plain PEFT, merges, serves);
                            of an ensemble its first member, and the others in folders below
    posterior.safetensors   the guide's own tensors, by Pyro name
    posterior.json          what is needed to make model and guide again; versioned
    config.yaml ...         what a whole run adds (`blob_pyro.workflow`)

The scale stays out of the adapter file because servers (vLLM, for one) refuse any tensor there but lora_A
and lora_B.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from blob_pyro.adapter_files import CONFIG, read_adapter_config, write_adapter_config
from blob_pyro.adapter_files import TENSORS as ADAPTER_TENSORS
from blob_pyro.errors import ConfigError, RunDirectoryError, UnsupportedLayerError
from blob_pyro.guides import GUIDES, AdapterGuide
from blob_pyro.likelihoods import LIKELIHOODS
from blob_pyro.loading import BaseSource, fill_padding, load_base, load_tokenizer
from blob_pyro.model import BayesianLoRA
from blob_pyro.prior import Hyperprior

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
    card = path / ADAPTER / "README.md"
    own_card = card.exists()
    # "auto" would ask the hub whether the vocabulary grew; an adapter on lm_head needs no embedding saved
    model.network.save_pretrained(str(path / ADAPTER), selected_adapters=guide.adapters, save_embedding_layers=False)
    for folder in (_folder(path, adapter) for adapter in guide.adapters):
        # PEFT writes the folder of this machine that the base was loaded from, not what the user calls it
        write_adapter_config(folder, read_adapter_config(folder) | {"base_model_name_or_path": model.source.id})
    if not own_card:  # PEFT's is an empty form, and names that folder too
        card.unlink(missing_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in guide.tensors().items()}
    save_file(tensors, path / TENSORS)
    (path / DESCRIPTION).write_text(json.dumps(describe(model, guide), indent=2) + "\n", encoding="utf-8")


def load(run_dir: str | Path, *, base: Any = None, device_map: Any = None) -> Run:
    """Make the model and guide of a run directory again, bit for bit.

    Args:
        run_dir: what `save` wrote.
        base: the base network, where it is in memory already; by default it is loaded from where it came.
        device_map: where the base is loaded to, whatever the run was trained on: as in
            `BayesianLoRA.from_pretrained`; not beside `base`.

    Raises:
        ConfigError: the device map cannot be, or names a device that is not here; or there is a base too.
        RunDirectoryError: a part is missing or altered, or of another format version.
        ModelLoadError: the base model was not found.
    """
    if base is not None and device_map is not None:
        raise ConfigError("device_map: expected none beside a base, which is in memory already; got both")
    path = Path(run_dir)
    described = _read_description(path)
    with _refuse_altered(path / DESCRIPTION):
        likelihood = LIKELIHOODS[described["likelihood"]["name"]](**described["likelihood"]["settings"])
        source = BaseSource(**described["base"])
        guide_kind, guide_settings = GUIDES[described["guide"]["name"]], described["guide"]["settings"]
        others = [str(name) for name in described.get("adapters", []) if name != described["adapter"]]
    tokenizer = load_tokenizer(source.id) if base is None else None
    network = _load_adapters(
        path, described["adapter"], others, load_base(source, likelihood, device_map) if base is None else base
    )
    if tokenizer is not None:
        fill_padding(network.get_base_model(), tokenizer)
    with _refuse_altered(path / DESCRIPTION):
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
    _restore(guide, path)
    return Run(path, model, guide)


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


@contextlib.contextmanager
def _refuse_altered(file: Path) -> Iterator[None]:
    """Turn what a description of the wrong shape sets off into one error."""
    try:
        yield
    except UnsupportedLayerError:  # a TypeError too, but it speaks of the network
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        why = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise RunDirectoryError(
            f"{file}: expected the description of a posterior; it is incomplete or altered ({why})"
        ) from error


def _read_description(path: Path) -> dict[str, Any]:
    file = path / DESCRIPTION
    if not file.is_file():
        raise RunDirectoryError(f"{path}: expected a run directory with {DESCRIPTION}; it is not there; check the path")
    try:
        described = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunDirectoryError(
            f"{file}: expected the description of a posterior; it cannot be read: {error}"
        ) from error
    if not isinstance(described, dict):
        raise RunDirectoryError(f"{file}: expected a JSON object; got a {type(described).__name__}")
    kind, version = described.get("format"), described.get("version")
    if (kind, version) != (FORMAT, VERSION):
        raise RunDirectoryError(
            f"{file}: expected {FORMAT} version {VERSION}; got {kind} version {version}; "
            "load it with the version of blob_pyro that wrote it"
        )
    keys = ("guide", "likelihood", "prior_scale", "num_data", "adapter", "base", "sites")
    if missing := [key for key in keys if key not in described]:
        raise RunDirectoryError(
            f"{file}: expected the description of a posterior; it is incomplete: {', '.join(missing)} missing"
        )
    return described


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
    network = load_adapter(_folder(path, adapter), base, adapter)
    for name in others:
        with _reading(_folder(path, name)):
            network.load_adapter(str(_folder(path, name)), adapter_name=name, is_trainable=True)
    network.set_adapter(adapter)
    return network


def _folder(path: Path, adapter: str) -> Path:
    """PEFT puts the default adapter into the folder itself, any other into a folder of its name.

    An exported posterior has its adapter beside its description.

    Raises:
        RunDirectoryError: the name would lead out of the run directory.
    """
    if adapter == "default":
        exported = (path / CONFIG).is_file() and not (path / ADAPTER).is_dir()
        return path if exported else path / ADAPTER
    if adapter in ("", ".", "..") or set(adapter) & set("/\\\0"):
        raise RunDirectoryError(
            f"{path / DESCRIPTION}: expected the name of an adapter without a path; got {adapter!r}; it was altered"
        )
    return path / ADAPTER / adapter


@contextlib.contextmanager
def _reading(folder: Path, shown: Path | None = None) -> Iterator[None]:
    """Around PEFT's reading of an adapter: one error for whatever is wrong with it."""
    for name in (CONFIG, ADAPTER_TENSORS):  # PEFT would ask the hub for them
        if not (folder / name).is_file():
            raise RunDirectoryError(f"{folder}: expected {name} in the folder of an adapter; it is not there")
    read_adapter_config(folder)
    try:
        with warnings.catch_warnings():  # tensors that are not in the file would keep random values
            warnings.filterwarnings("error", message=".*missing adapter keys")
            yield
    except (SafetensorError, RuntimeError, ValueError, KeyError, TypeError, OSError, Warning) as error:
        why = " ".join(str(error).split())[:300]
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


def _restore(guide: AdapterGuide, path: Path) -> None:
    """Copy the saved tensors into the guide's."""
    try:
        saved = load_file(path / TENSORS)
    except (OSError, SafetensorError) as error:
        raise RunDirectoryError(f"{path / TENSORS}: expected a safetensors file; it cannot be read: {error}") from error
    tensors = guide.tensors()
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    found = {name: tuple(value.shape) for name, value in saved.items()}
    if found != shapes:
        odd = sorted(set(found.items()) ^ set(shapes.items()))[0][0]
        raise RunDirectoryError(
            f"{path / TENSORS}: expected the posterior of this adapter ({len(shapes)} tensors); "
            f"got {len(found)}; {odd} differs; the parts of this directory come from different runs"
        )
    with torch.no_grad():
        for name, value in saved.items():
            tensors[name].copy_(value)
