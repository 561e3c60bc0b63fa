"""Loads a base model and its tokenizer, and puts a LoRA adapter on it, with transformers' and PEFT's own calls."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers

from blob_pyro.config.checks import check_revision, unknown_name
from blob_pyro.config.device_maps import (
    check_device_map,
    refuse_missing_device,
    refuse_offloaded,
    refuse_unknown_modules,
)
from blob_pyro.errors import ConfigError, ModelLoadError
from blob_pyro.model.architectures import HEADS, head_modules, refuse_kind, towers_beside_text
from blob_pyro.model.base_folder import refuse_adapter
from blob_pyro.model.heads import check_sizes, output_names
from blob_pyro.model.layers.targets import (
    default_target_modules,
    linear_layer_names,
    may_search_long,
)
from blob_pyro.model.likelihoods import Likelihood
from blob_pyro.model.place import Place, cached_commit, locate, no_such_model, refused
from blob_pyro.system.hub_errors import one_line, refusal

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import BitsAndBytesConfig

DTYPES = ("auto", "float32", "bfloat16", "float16")

# What transformers raises for files that are missing, broken, or of another kind than asked for.
_UNREADABLE = Exception  # of no narrower kind where the tokenizers library raises it


@dataclass(frozen=True)
class BaseSource:
    """Where a base model came from: enough to load the same one again.

    Attributes:
        id: hub id, local folder or alias.
        quantization: "8bit", "4bit" or None.
        llm_int8_threshold: outlier threshold of 8-bit layers.
        dtype: one of "auto", "float32", "bfloat16", "float16".
        attn_implementation: as in transformers; None takes eager for bfloat16 on CPUs (the faster one up to
            300 tokens, see docs/performance.md), and elsewhere transformers' choice.
        ignore_mismatched_sizes: make a classification head anew where the model's own is of another size.
        revision: of a hub id: branch, tag or commit; None takes its main branch. Of a loaded model it is the commit.

    Raises:
        ConfigError: quantization or dtype is none of these, another field is of another type, or attn_implementation
            names code on the hub.
    """

    id: str
    quantization: str | None = None
    llm_int8_threshold: float = 6.0
    dtype: str = "auto"
    attn_implementation: str | None = None
    ignore_mismatched_sizes: bool = False
    revision: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.id, str):
            raise ConfigError(f"id: expected a hub id, a local folder or an alias; got {self.id!r}")
        if isinstance(self.llm_int8_threshold, bool) or not isinstance(self.llm_int8_threshold, int | float):
            raise ConfigError(f"llm_int8_threshold: expected a number; got {self.llm_int8_threshold!r}")
        check_revision("revision", self.revision)
        self._check_attention()
        if self.quantization not in (None, "8bit", "4bit"):
            raise ConfigError(f"quantization: expected '8bit', '4bit' or None; got {self.quantization!r}")
        if self.dtype not in DTYPES:
            raise unknown_name("dtype", DTYPES, self.dtype)

    def _check_attention(self) -> None:
        """Refuse what transformers would download and run: "ORGANISATION/KERNEL" of the hub."""
        name: object = self.attn_implementation
        if name is not None and not (isinstance(name, str) and re.fullmatch(r"[\w|]+", name)):
            raise ConfigError(
                f"attn_implementation: expected a name of transformers' own, like sdpa or eager, or None; got {name!r}"
            )

    @classmethod
    def of(cls, network: PeftModel) -> BaseSource:
        """What a PEFT model says of its own base."""
        base = network.get_base_model()
        dtype = str(base.dtype).removeprefix("torch.")
        settings = getattr(base.config, "quantization_config", None)
        bits = {"8bit": getattr(settings, "load_in_8bit", False), "4bit": getattr(settings, "load_in_4bit", False)}
        return cls(
            id=base.config.name_or_path,
            quantization=next((name for name, used in bits.items() if used), None),
            llm_int8_threshold=getattr(settings, "llm_int8_threshold", 6.0),
            dtype=dtype if dtype in DTYPES else "auto",
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields by name; a revision only where there is one."""
        found = dataclasses.asdict(self)
        return found if self.revision is not None else {k: v for k, v in found.items() if k != "revision"}

    def for_peft(self) -> dict[str, Any]:
        """What PEFT's configuration of an adapter calls the base, and its revision where there is one."""
        return {"base_model_name_or_path": self.id} | ({} if self.revision is None else {"revision": self.revision})

    def as_loaded(self) -> BaseSource:
        """The same with the commit that was just loaded in place of its branch or tag, where it is of the hub."""
        return dataclasses.replace(self, revision=cached_commit(self.id, self.revision))

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


def load_tokenizer(id_or_path: str, revision: str | None = None) -> Any:
    """The tokenizer of a hub id, folder or alias; padding falls back to the end-of-sequence token.

    Args:
        id_or_path: what it is of.
        revision: of a hub id: branch, tag or commit; None takes its main branch.

    Raises:
        ModelLoadError: it was not found.
        ConfigError: a revision of what is not on the hub.
    """
    place = locate(id_or_path, revision)
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place.path, **place.settings, trust_remote_code=False)
    except _UNREADABLE as error:
        refuse_adapter(id_or_path, place.path, **place.settings)
        raise _unreadable(id_or_path, place, error) from error
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_base(
    source: BaseSource, likelihood: Likelihood, device_map: Any = None, computes_on: torch.device | None = None
) -> Any:
    """The pretrained network with the head that `likelihood` needs.

    Args:
        source: where it is from.
        likelihood: decides the head.
        device_map: where it goes, as in transformers; None takes the CPU, of a quantised base the GPU if there is one.
        computes_on: where it will compute, which decides the attention; None where it is loaded to.

    Raises:
        ModelLoadError: it was not found or could not be read, or is an adapter.
        ConfigError: the likelihood needs a causal language model, and this is an encoder; or the device map cannot be,
            names a device that is not here, or leaves weights out of memory.
    """
    check_device_map(device_map)
    refuse_missing_device(device_map)
    place = locate(source.id, source.revision)
    config = _config(source.id, place)
    refuse_kind(config, source.id, likelihood)
    auto_class = getattr(transformers, likelihood.auto_class)
    settings: dict[str, Any] = {
        "dtype": source.dtype,
        **place.settings,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # left to itself, transformers speaks of a report that commands do not show
        "trust_remote_code": False,  # left open, transformers asks at the terminal whether to run a model's code
        **likelihood.model_settings(),
    }
    optional = {
        "quantization_config": source.quantization_config(),
        "attn_implementation": source.attn_implementation,
        "device_map": device_map,
    }
    settings |= {name: value for name, value in optional.items() if value is not None}
    if place.why:  # transformers looks for an adapter beside the base, and would ask the hub for it again and again
        settings["adapter_kwargs"] = {"local_files_only": True}
    try:
        network, report = auto_class.from_pretrained(place.path, **settings)
    except _UNREADABLE as error:
        raise _unreadable(source.id, place, error) from error
    if mismatched := report["mismatched_keys"]:
        check_sizes(mismatched, network, source.id, output_names(config), ignored=source.ignore_mismatched_sizes)
    refuse_offloaded(network)
    refuse_unknown_modules(network, device_map)
    if source.attn_implementation is None:
        choose_attention(network, computes_on)
    missing = sorted({*report["missing_keys"], *(name for name, *_ in mismatched)})
    network.missing_keys = missing if likelihood.task_type == "SEQ_CLS" else []  # a head is made anew, and saved
    if missing and likelihood.task_type == "CAUSAL_LM":
        warnings.warn(f"model {source.id}: its files lack {', '.join(missing[:3])}; random there", stacklevel=2)
    return network


def base_config(id_or_path: str, revision: str | None = None) -> Any:
    """A model's configuration, by transformers.

    Args:
        id_or_path: the model.
        revision: as in `load_tokenizer`.

    Raises:
        ModelLoadError: it was not found, or is an adapter.
    """
    return _config(id_or_path, locate(id_or_path, revision))


def _config(id_or_path: str, place: Place) -> Any:
    refuse_adapter(id_or_path, place.path, **place.settings)
    try:
        return transformers.AutoConfig.from_pretrained(place.path, **place.settings, trust_remote_code=False)
    except _UNREADABLE as error:
        raise _unreadable(id_or_path, place, error) from error


def choose_attention(network: Any, device: torch.device | None = None) -> None:
    """Eager attention where it is faster: on CPUs in bfloat16 torch's fused attention is not.

    Args:
        network: the base.
        device: where it will compute; None where it is.
    """
    if (device or network.device).type == "cpu" and network.dtype == torch.bfloat16:
        network.set_attn_implementation("eager")


def with_fresh_adapter(base: Any, source: BaseSource, likelihood: Likelihood, adapter: Mapping[str, Any]) -> PeftModel:
    """A base model with a fresh LoRA adapter.

    Args:
        base: the network.
        source: where it is from.
        likelihood: decides PEFT's task type.
        adapter: arguments of `peft.LoraConfig`.

    Raises:
        ConfigError: PEFT cannot place the adapter (no default target_modules for the architecture, or
            none of the given names exists).
    """
    from peft import LoraConfig, get_peft_model

    pattern = adapter.get("target_modules")
    pattern = "all-linear" if pattern == ["all-linear"] else pattern
    if isinstance(pattern, str) and may_search_long(pattern):  # `load` refuses it, too
        raise ConfigError(
            f"target_modules: expected a regular expression that is searched quickly; got {pattern[:100]!r}; name the "
            "layers in a list"
        )
    adapter = {**adapter, "target_modules": default_target_modules(base) if pattern is None else pattern}
    fresh = head_modules(getattr(base, "missing_keys", ()), base)
    left_out = towers = towers_beside_text(base)
    if fresh:
        adapter["modules_to_save"] = fresh
    if pattern == "all-linear":  # a head is trained whole, and PEFT knows the last layer of one alone
        left_out = [*towers, *fresh, *(name for name, _ in base.named_children() if name.endswith(HEADS))]
    if left_out:
        adapter["exclude_modules"] = rf"({'|'.join(map(re.escape, left_out))})(\..*)?"
    if towers:
        warnings.warn(
            f"model {source.id}: adapted is its language model; no text comes to {', '.join(towers)}", stacklevel=3
        )
    try:
        with warnings.catch_warnings():
            # PEFT sees GPT-2's Conv1D by itself, and says so to a user who has no say in it
            warnings.filterwarnings("ignore", "fan_in_fan_out is set to")
            return get_peft_model(base, LoraConfig(task_type=likelihood.task_type, **adapter))
    except (ValueError, re.error) as error:
        raise ConfigError(
            f"target_modules: expected names of linear layers of {source.id}; PEFT says: {one_line(error, limit=300)} "
            f"Its linear layers are: {', '.join(linear_layer_names(base))}"
        ) from error


def fill_padding(network: Any, tokenizer: Any) -> None:
    """Tell a network without a padding token the tokenizer's: classification heads look for a row's end by it."""
    if getattr(network.config, "pad_token_id", None) is None:  # some configurations lack the field
        network.config.pad_token_id = tokenizer.pad_token_id


def _unreadable(id_or_path: str, place: Place, error: Exception) -> ModelLoadError:
    id_or_path += "" if place.revision is None else f" at {place.revision}"
    if told := place.refusal or refusal(error):
        return refused(id_or_path, told)
    if "trust_remote_code" in str(error):
        return ModelLoadError(
            f"model {id_or_path}: expected a model of an architecture that transformers has; this one has code of its "
            "own, which is never run; take another model"
        )
    if place.why:
        return no_such_model(
            id_or_path, f"no such folder, not in the hub's local cache, and the hub cannot be asked ({place.why})"
        )
    return ModelLoadError(
        f"model {id_or_path}: expected a model that transformers can load; it says: {one_line(error, limit=300)}"
    )
