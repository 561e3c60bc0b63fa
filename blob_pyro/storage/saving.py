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
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from blob_pyro.errors import ConfigError, RunDirectoryError, UnsupportedLayerError, UnsupportedPosteriorError
from blob_pyro.guides import GUIDES, AdapterGuide
from blob_pyro.model.adapted_base import load_adapted
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.likelihoods import LIKELIHOODS
from blob_pyro.model.loading import BaseSource
from blob_pyro.model.prior import Hyperprior
from blob_pyro.storage.adapter_checks import check_adapter
from blob_pyro.storage.adapter_files import CONFIG, read_adapter_config, write_adapter_config
from blob_pyro.storage.adapter_files import TENSORS as ADAPTER_TENSORS
from blob_pyro.system.files import digest, read_object, replaced_together, together_in, write_whole
from blob_pyro.system.hub_errors import one_line

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
        for folder in (_folder(path, adapter) for adapter in guide.adapters):
            # PEFT writes the folder of this machine that the base was loaded from, not what the user calls it
            write_adapter_config(folder, read_adapter_config(folder) | {"base_model_name_or_path": model.source.id})
        (path / ADAPTER / "README.md").unlink(missing_ok=True)  # an empty form, which names that folder too
        tensors = {name: value.detach().cpu().contiguous() for name, value in guide.tensors().items()}
        save_file(tensors, path / TENSORS)
        told = {"mean_scales": mean_scales(guide), "width": _width(guide), "sha256": _digests(path, guide.adapters)}
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
    described = _read_description(path)
    with _refuse_altered(path / DESCRIPTION):
        likelihood = LIKELIHOODS[described["likelihood"]["name"]](**described["likelihood"]["settings"])
        source = BaseSource(**described["base"])
        guide_kind, guide_settings = GUIDES[described["guide"]["name"]], described["guide"]["settings"]
        names = [described["adapter"], *described.get("adapters", [])]
        _refuse_oversized(path, described, names)
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
    _check_digests(path, guide.adapters, described.get("sha256", {}))
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


@contextlib.contextmanager
def _refuse_altered(file: Path) -> Iterator[None]:
    """Turn what a description of the wrong shape sets off into one error."""
    try:
        yield
    except UnsupportedLayerError:  # a TypeError too, but it speaks of the network
        raise
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError, RuntimeError) as error:
        why = f"{type(error).__name__}: {one_line(error, 200)}"
        raise RunDirectoryError(
            f"{file}: expected the description of a posterior; it is incomplete or altered ({why})"
        ) from error


def _read_description(path: Path) -> dict[str, Any]:
    file = path / DESCRIPTION
    if not file.is_file():
        raise RunDirectoryError(f"{path}: expected a run directory with {DESCRIPTION}; it is not there; check the path")
    try:
        described = read_object(file)
    except TypeError as error:
        raise RunDirectoryError(f"{file}: {error}") from error
    except (OSError, ValueError) as error:
        raise RunDirectoryError(
            f"{file}: expected the description of a posterior; it cannot be read: {error}"
        ) from error
    kind, version = described.get("format"), described.get("version")
    if (kind, version) != (FORMAT, VERSION):
        raise RunDirectoryError(
            f"{file}: expected {FORMAT} version {VERSION}; got {str(kind)[:40]} version {str(version)[:40]}; load "
            "it with the version of blob_pyro that wrote it"
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


def _folder(path: Path, adapter: Any) -> Path:
    """PEFT puts the default adapter into the folder itself, any other into a folder of its name.

    An exported posterior has its adapter beside its description.

    Raises:
        RunDirectoryError: it is no name, or would lead out of the run directory.
    """
    if adapter == "default":
        exported = (path / CONFIG).is_file() and not (path / ADAPTER).is_dir()
        return path if exported else path / ADAPTER
    name = adapter if isinstance(adapter, str) else ""
    if name in ("", ".", "..") or set(name) & set("/\\\0") or len(name) > 200:
        raise RunDirectoryError(
            f"{path / DESCRIPTION}: expected the name of an adapter without a path; got {str(adapter)[:100]!r}; it was "
            "altered"
        )
    return path / ADAPTER / name


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


def _restore(guide: AdapterGuide, path: Path) -> None:
    """Copy the saved tensors into the guide's."""
    file = path / TENSORS
    try:
        if not file.is_file():  # a pipe would wait for a writer
            raise FileNotFoundError("it is not there")
        saved = load_file(file)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
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
    for name, value in saved.items():
        if value.dtype != tensors[name].dtype or not bool(value.isfinite().all()):
            raise RunDirectoryError(
                f"{file}: expected finite numbers of type {str(tensors[name].dtype).removeprefix('torch.')}; {name} "
                "has others; the file was altered"
            )
    with torch.no_grad():
        for name, value in saved.items():
            tensors[name].copy_(value)


def _refuse_oversized(path: Path, described: dict[str, Any], adapters: list[str]) -> None:
    """Raise where the description asks for more memory than its files have numbers for."""
    likelihood, guide = described["likelihood"]["settings"], described["guide"]["settings"]
    most = max((file.stat().st_size for file in _files(path, adapters) if file.is_file()), default=0)
    wanted = {"num_labels": likelihood.get("num_labels"), "rank": guide.get("rank")}
    for name, size in wanted.items():
        if isinstance(size, int | float) and size > most:
            raise RunDirectoryError(
                f"{path / DESCRIPTION}: expected {name} as the run's tensors have it; got {str(size)[:40]}; it was "
                "altered"
            )
    members = guide.get("num_members")
    if members is not None and members != len(set(adapters)):
        raise RunDirectoryError(
            f"{path / DESCRIPTION}: expected an adapter for each of num_members {str(members)[:40]}; got "
            f"{len(set(adapters))}; it was altered"
        )


def _files(path: Path, adapters: list[str]) -> list[Path]:
    """All that `save` writes beside the description."""
    folders = [_folder(path, adapter) for adapter in adapters]
    return [*(folder / name for folder in folders for name in (CONFIG, ADAPTER_TENSORS)), path / TENSORS]


def _digests(path: Path, adapters: list[str]) -> dict[str, str]:
    return {file.relative_to(path).as_posix(): digest(file) for file in _files(path, adapters)}


def _check_digests(path: Path, adapters: list[str], saved: Any) -> None:
    """Raise unless the files are those that the description was written with; older ones tell of none."""
    if not isinstance(saved, dict):
        raise RunDirectoryError(f"{path / DESCRIPTION}: expected checksums by file in sha256; it was altered")
    for name, found in _digests(path, adapters).items():
        if name in saved and saved[name] != found:
            raise RunDirectoryError(
                f"{path / name}: expected the file as it was saved; its checksum is not that in {DESCRIPTION}: it was "
                f"altered, or is of another run (if you meant to alter it, delete its entry of sha256 in {DESCRIPTION})"
            )
