"""Loads a base model and its tokenizer, and puts a LoRA adapter on it, with transformers' and PEFT's own calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import transformers

from blob_pyro.errors import ConfigError, ModelLoadError
from blob_pyro.likelihoods import Likelihood
from blob_pyro.packaged import ALIASES, packaged_model

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import BitsAndBytesConfig

DTYPES = ("auto", "float32", "bfloat16", "float16")


@dataclass(frozen=True)
class BaseSource:
    """Where a base model came from: enough to load the same one again.

    Attributes:
        id: hub id, local folder or alias.
        quantization: "8bit", "4bit" or None.
        llm_int8_threshold: outlier threshold of 8-bit layers.
        dtype: one of "auto", "float32", "bfloat16", "float16".
        attn_implementation: as in transformers; None lets it choose.

    Raises:
        ConfigError: quantization or dtype is none of these.
    """

    id: str
    quantization: str | None = None
    llm_int8_threshold: float = 6.0
    dtype: str = "auto"
    attn_implementation: str | None = None

    def __post_init__(self) -> None:
        if self.quantization not in (None, "8bit", "4bit"):
            raise ConfigError(f"quantization: expected '8bit', '4bit' or None; got {self.quantization!r}")
        if self.dtype not in DTYPES:
            raise ConfigError(f"dtype: expected one of {', '.join(DTYPES)}; got {self.dtype!r}")

    @classmethod
    def of(cls, network: PeftModel) -> BaseSource:
        """What a PEFT model says of its own base."""
        base = network.get_base_model()
        dtype = str(base.dtype).removeprefix("torch.")
        return cls(id=base.config.name_or_path, dtype=dtype if dtype in DTYPES else "auto")

    def quantization_config(self) -> BitsAndBytesConfig | None:
        """The bitsandbytes settings of `quantization`."""
        from transformers import BitsAndBytesConfig

        if self.quantization == "8bit":
            return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=self.llm_int8_threshold)
        if self.quantization == "4bit":
            return BitsAndBytesConfig(
                load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
            )
        return None


def load_tokenizer(id_or_path: str) -> Any:
    """The tokenizer of a hub id, folder or alias; padding falls back to the end-of-sequence token.

    Raises:
        ModelLoadError: it was not found.
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(_resolve(id_or_path))
    except (OSError, ValueError) as error:
        raise _not_found(id_or_path, error) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(source: BaseSource, likelihood: Likelihood, device_map: Any = None) -> Any:
    """The pretrained network with the head that `likelihood` needs.

    Raises:
        ModelLoadError: it was not found or could not be read.
    """
    auto_class = getattr(transformers, likelihood.auto_class)
    settings: dict[str, Any] = {"dtype": source.dtype, **likelihood.model_settings()}
    optional = {
        "quantization_config": source.quantization_config(),
        "attn_implementation": source.attn_implementation,
        "device_map": device_map,
    }
    settings |= {name: value for name, value in optional.items() if value is not None}
    try:
        return auto_class.from_pretrained(_resolve(source.id), **settings)
    except (OSError, ValueError, ImportError) as error:
        raise _not_found(source.id, error) from error


def load_network(
    source: BaseSource, likelihood: Likelihood, adapter: Mapping[str, Any], device_map: Any = None
) -> tuple[PeftModel, Any]:
    """A base model with a fresh LoRA adapter, and its tokenizer.

    Args:
        source: the base.
        likelihood: decides the head and PEFT's task type.
        adapter: arguments of `peft.LoraConfig`.
        device_map: passed on to transformers.

    Raises:
        ModelLoadError: the base was not found.
        ConfigError: PEFT cannot place the adapter (no default target_modules for the architecture, or
            none of the given names exists).
    """
    from peft import LoraConfig, get_peft_model

    tokenizer = load_tokenizer(source.id)
    base = load_base(source, likelihood, device_map)
    if base.config.pad_token_id is None:
        base.config.pad_token_id = tokenizer.pad_token_id
    try:
        network = get_peft_model(base, LoraConfig(task_type=likelihood.task_type, **adapter))
    except ValueError as error:
        raise ConfigError(
            f"target_modules: expected names of linear layers of {source.id}; PEFT says: {_one_line(error)} "
            f"Its linear layers are: {', '.join(linear_layer_names(base))}"
        ) from error
    return network, tokenizer


def linear_layer_names(network: torch.nn.Module) -> list[str]:
    """Last parts of the names of a network's linear layers, each once: what target_modules may hold."""
    kinds = (torch.nn.Linear, transformers.pytorch_utils.Conv1D)
    return sorted({name.rsplit(".", 1)[-1] for name, module in network.named_modules() if isinstance(module, kinds)})


def _resolve(id_or_path: str) -> str:
    return str(packaged_model(id_or_path)) if id_or_path in ALIASES else id_or_path


def _not_found(id_or_path: str, error: Exception) -> ModelLoadError:
    where = "local folder" if Path(id_or_path).exists() else "hub id, a local folder or an alias"
    return ModelLoadError(
        f"model {id_or_path}: expected a readable {where} ({', '.join(ALIASES)}); transformers says: {_one_line(error)}"
    )


def _one_line(error: Exception, limit: int = 300) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= limit else text[: limit - 1] + "…"
