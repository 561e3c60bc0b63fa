"""Writes one value of an adapter as an ordinary PEFT folder."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from blob_pyro.errors import UnsupportedPosteriorError
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.layers.members import INITIAL
from blob_pyro.model.layers.substituted import substitute
from blob_pyro.storage.adapter_files import write_adapter_config, write_adapter_tensors


def write_adapter(folder: Path, model: BayesianLoRA, base: str, values: Mapping[str, Tensor] | None) -> list[str]:
    """adapter_config.json and adapter_model.safetensors of the model's adapter at given values.

    Args:
        folder: made here.
        model: the model.
        base: what the base model is called.
        values: site, or name of a point parameter -> its value; what is not in it is at the adapter's own weight.

    Returns:
        Keys of the tensors that are no lora_A or lora_B: heads, biases.

    Raises:
        UnsupportedPosteriorError: the adapter changes the base weights where it is loaded.
    """
    from peft import get_peft_model_state_dict

    config = copy.deepcopy(model.network.peft_config[model.adapter])
    if config.init_lora_weights not in INITIAL:
        raise UnsupportedPosteriorError(
            f"export: expected an adapter beside an unchanged base; got init_lora_weights="
            f"{config.init_lora_weights!r}, which changes the base weights; convert it with PEFT's "
            "path_initial_model_for_weight_conversion before it is made Bayesian"
        )
    config.inference_mode = True
    config.base_model_name_or_path = base
    named = {f"{key}.{model.adapter}.weight" if key in model.sites else key: v for key, v in (values or {}).items()}
    with torch.no_grad(), substitute(model.network, named):
        tensors = get_peft_model_state_dict(model.network, adapter_name=model.adapter, save_embedding_layers=False)
    folder.mkdir(parents=True, exist_ok=True)
    revision = model.source.revision
    write_adapter_config(folder, config.to_dict() | ({} if revision is None else {"revision": revision}))
    write_adapter_tensors(folder, tensors)
    return sorted(key for key in tensors if not key.endswith(("lora_A.weight", "lora_B.weight")))
