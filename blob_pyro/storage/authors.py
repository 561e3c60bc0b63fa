"""Checkpoints of BLoB's public code (Wang-ML-Lab/bayesian-peft): a PEFT adapter with lora_A_rho beside lora_A."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from blob_pyro.config.checks import unknown_name
from blob_pyro.distributions.scale_maps import SCALE_MAPS
from blob_pyro.errors import ConfigError, RunDirectoryError
from blob_pyro.guides import AdapterGuide, BLoBGuide
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.likelihoods import Likelihood
from blob_pyro.model.loading import BaseSource, fill_padding, load_base, load_tokenizer
from blob_pyro.storage.foreign import ForeignAdapter, put_on, read_adapter
from blob_pyro.storage.saving import Run


def load_authors_checkpoint(
    folder: str | Path,
    id_or_path: str,
    likelihood: Likelihood,
    *,
    scale: Literal["square", "softplus"] = "square",
    prior_scale: float = 0.2,
    num_data: int | None = None,
    quantization: str | None = None,
    llm_int8_threshold: float = 6.0,
    dtype: str = "auto",
    base: Any = None,
) -> Run:
    """The posterior of BLoB's public code as a model and a `BLoBGuide`: to predict with, to train on, to `bp.save`.

    Its mean is lora_A, its standard deviation lora_A_rho squared (or softplus, where the code was run with a negative
    bayes_eps); lora_B is a point. The files do not tell the base model, the prior or the items trained on in a way that
    could be relied on: they are the arguments. The public code reads logits in other ways than this library does
    (`bp.DataConfig(compat="authors")` reads its tasks as it does), and draws signs for each token.

    Args:
        folder: adapter_config.json with adapter_model.safetensors, or .bin, which is read as tensors alone.
        id_or_path: the base model, as in `BayesianLoRA.from_pretrained`.
        likelihood: what the logits mean.
        scale: "square" or "softplus": how lora_A_rho becomes a standard deviation.
        prior_scale, num_data: as in `BayesianLoRA`; the public code's bayes_beta is the prior scale.
        quantization, llm_int8_threshold, dtype: as in `BayesianLoRA.from_pretrained` (the public code loads in 8-bit).
        base: the base network, where it is in memory already.

    Returns:
        A Run whose path is `folder`; `bp.save(path, run.model, run.guide)` makes a run directory of it.

    Raises:
        RunDirectoryError: the folder is not such a checkpoint, or not one for this base.
        ConfigError: an unknown scale, or lora_A_rho cannot be what `scale` says.
        ModelLoadError: the base was not found.
    """
    if scale not in SCALE_MAPS:
        raise unknown_name("scale", SCALE_MAPS, scale)
    adapter = read_adapter(folder)
    if not adapter.rho:
        raise RunDirectoryError(
            f"{folder}: expected lora_A_rho beside lora_A, as BLoB's public code saves it; got a plain adapter; "
            "start from it with model.adapter, or with bp.BayesianLoRA on the PEFT model"
        )
    source = BaseSource(id_or_path, quantization, llm_int8_threshold, dtype)
    tokenizer = None if base is not None else load_tokenizer(source.id, source.revision)
    network = put_on(adapter, load_base(source, likelihood) if base is None else base)
    source = source.as_loaded() if base is None else source
    if tokenizer is not None:
        fill_padding(network.get_base_model(), tokenizer)
    model = BayesianLoRA(
        network, likelihood, prior_scale=prior_scale, num_data=num_data, tokenizer=tokenizer, source=source
    )
    guide = BLoBGuide(model, scale=scale)
    start_spread(guide, adapter, scale)
    network.eval()
    return Run(Path(folder), model, guide)


def start_spread(guide: AdapterGuide, adapter: ForeignAdapter, scale: str = "square") -> None:
    """Start a `BLoBGuide` at the spread of an adapter that has one; other guides keep their own, with a warning.

    Args:
        guide: the guide of a model that has the adapter.
        adapter: with lora_A_rho; nothing is done about a plain one.
        scale: how its lora_A_rho becomes a standard deviation.

    Raises:
        RunDirectoryError: lora_A_rho is there for other layers than the guide's, or of another shape.
        ConfigError: lora_A_rho cannot be what `scale` says.
    """
    if not adapter.rho:
        return
    if not isinstance(guide, BLoBGuide):
        warnings.warn(
            f"{adapter.folder}: its spread (lora_A_rho) is left out: only the guide blob starts from one", stacklevel=2
        )
        return
    rho = {site: _checked(site, guide, adapter) for site in guide.model.sites}
    _check_sign(torch.cat([value.flatten() for value in rho.values()]), adapter, scale)
    with torch.no_grad():
        for site, value in rho.items():
            free = guide.free_scale(site)
            same = guide.scale_map.name == scale
            free.copy_(value if same else guide.scale_map.to_free(SCALE_MAPS[scale].to_scale(value.float())))
    if unused := sorted(adapter.rho.keys() - guide.model.sites.keys()):
        warnings.warn(
            f"{adapter.folder}: lora_A_rho of {len(unused)} layers that are not random is left out ({unused[0]}, ...)",
            stacklevel=2,
        )


def _checked(site: str, guide: BLoBGuide, adapter: ForeignAdapter) -> Tensor:
    expected = tuple(guide.free_scale(site).shape)
    if site not in adapter.rho:
        raise RunDirectoryError(f"{adapter.folder}: expected lora_A_rho for every random site; got none for {site}")
    found = adapter.rho[site]
    if tuple(found.shape) != expected or not found.isfinite().all():
        raise RunDirectoryError(
            f"{adapter.folder}: expected finite lora_A_rho of shape {expected} at {site}; got {tuple(found.shape)}"
            f"{'' if found.isfinite().all() else ' with values that are not finite'}"
        )
    return found


def _check_sign(rho: Tensor, adapter: ForeignAdapter, scale: str) -> None:
    """The public code starts rho above 0 where it is squared, and far below it under softplus."""
    if scale == "square" and float((rho < 0).float().mean()) > 0.5:
        raise ConfigError(
            f"{adapter.folder}: expected lora_A_rho that is squared, mostly above 0; got most of it below: it was "
            "trained under softplus (bayes_eps below 0): load it with bp.load_authors_checkpoint(scale='softplus')"
        )
