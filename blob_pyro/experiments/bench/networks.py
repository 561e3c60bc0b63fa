"""The networks under the contenders: one frozen base in memory, one adapter of its own for each."""

from __future__ import annotations

import copy
import tempfile
import warnings
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor, nn

from blob_pyro.data.examples import Batch
from blob_pyro.errors import ConfigError
from blob_pyro.experiments.bench.batches import answer_tokens
from blob_pyro.experiments.bench.settings import LLAMA_7B, BenchSettings
from blob_pyro.model.layers.targets import linear_layer_names
from blob_pyro.model.likelihoods import MultipleChoice
from blob_pyro.model.loading import BaseSource, choose_attention, load_base
from blob_pyro.training.random_state import seeded

if TYPE_CHECKING:
    from peft import PeftModel

LLAMA_7B_SHAPES: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_attention_heads": 32,
    "vocab_size": 32000,
}
LLAMA_7B_LAYERS = 32


class Base:
    """A pretrained network, loaded once; each contender gets a copy that shares its frozen tensors.

    Quantised bases are copied whole: bitsandbytes repacks the weights of a layer in place at its first forward.

    Args:
        settings: which model, in which dtype, on which device.

    Attributes:
        vocab_size: number of tokens.
        num_layers: number of blocks.

    Raises:
        ModelLoadError: the model was not found or could not be read.
        ConfigError: more layers or longer prompts than the model has.
    """

    def __init__(self, settings: BenchSettings) -> None:
        self.settings = settings
        self._network = _load(settings).requires_grad_(False)
        self._plain_attention = settings.attn_implementation or _default_attention(self._network.config)
        config = self._network.config
        self.vocab_size: int = config.vocab_size
        self.num_layers: int = config.num_hidden_layers
        _refuse_more("layers", max(settings.layers, default=0), self.num_layers)
        lengths = {"train": max(settings.length), "predict": settings.max_length}
        longest = max((length for part, length in lengths.items() if settings.names(part)), default=0)
        _refuse_more("length", longest, getattr(config, "max_position_embeddings", longest))

    @property
    def likelihood(self) -> MultipleChoice:
        """The answer tokens of every contender."""
        return MultipleChoice(answer_tokens(self.vocab_size))

    def adapted(self, layers: int | None = None, *, plain: bool = False) -> PeftModel:
        """A PEFT model on the first `layers` blocks, with the same fresh adapter at every call.

        Args:
            layers: how many blocks; None keeps all.
            plain: take transformers' default attention in place of the library's.
        """
        from peft import LoraConfig, get_peft_model

        network = self._copy()
        if plain:
            network.set_attn_implementation(self._plain_attention)
        keep_layers(network, layers)
        settings = self.settings
        config = LoraConfig(
            r=settings.r,
            lora_alpha=settings.lora_alpha,
            target_modules=list(settings.target_modules),
            task_type=MultipleChoice.task_type,
        )
        with seeded(settings.seed, torch.device(settings.device)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "fan_in_fan_out is set to")
            try:
                return get_peft_model(network, config)
            except ValueError as error:
                names = ", ".join(linear_layer_names(network))
                raise ConfigError(
                    f"target_modules: expected some of {names}; got {', '.join(settings.target_modules)}"
                ) from error

    def tensors(self) -> list[Tensor]:
        """Weights and buffers."""
        return [*self._network.parameters(), *self._network.buffers()]

    def _copy(self) -> Any:
        shared = {} if self.settings.quantization else {id(tensor): tensor for tensor in self.tensors()}
        return copy.deepcopy(self._network, shared)


def full_logits(network: Any, batch: Batch, token_ids: tuple[int, ...]) -> Tensor:
    """Logits of the answers as users write it: the network's logits at all positions, then a few of them.

    Returns:
        (B, K), float32.
    """
    logits = network(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    rows = torch.arange(len(batch), device=logits.device)
    last = batch.attention_mask.sum(1) - 1
    answers: Tensor = logits[rows, last][:, list(token_ids)]
    return answers.float()


def keep_layers(network: Any, layers: int | None) -> None:
    """Drop all but the first `layers` blocks of a transformers model; None keeps all."""
    config = network.config
    if layers is None or layers == config.num_hidden_layers:
        return
    for module in network.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ModuleList) and len(child) == config.num_hidden_layers:
                setattr(module, name, child[:layers])
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]


def _load(settings: BenchSettings) -> Any:
    source = BaseSource(
        id=settings.model,
        quantization=settings.quantization,
        dtype=settings.dtype,
        attn_implementation=settings.attn_implementation,
    )
    likelihood = MultipleChoice(answer_tokens(4))  # which answers is of no matter to the base
    if settings.model != LLAMA_7B:
        return load_base(source, likelihood, {"": settings.device})
    network = random_llama(settings)
    if settings.quantization is None:
        return network
    with tempfile.TemporaryDirectory(prefix="blob_pyro_bench_") as folder:
        network.save_pretrained(folder)
        del network
        return load_base(BaseSource(**(vars(source) | {"id": folder})), likelihood, {"": settings.device})


def random_llama(settings: BenchSettings) -> Any:
    """Llama-2-7B's shapes with random weights, made in their own dtype; as many blocks as are asked for."""
    dtype = torch.bfloat16 if settings.dtype == "auto" else getattr(torch, settings.dtype)
    layers = max(settings.layers, default=LLAMA_7B_LAYERS)
    shapes = LLAMA_7B_SHAPES | {"num_hidden_layers": layers, "attn_implementation": settings.attn_implementation}
    config = transformers.LlamaConfig(**shapes)
    device = torch.device(settings.device)
    with seeded(settings.seed, device), device:
        network = transformers.AutoModelForCausalLM.from_config(config, dtype=dtype).eval()
    if settings.attn_implementation is None:
        choose_attention(network)
    return network


def _default_attention(config: Any) -> str:
    """The attention that transformers chooses where it is given no choice."""
    config = copy.deepcopy(config)
    config._attn_implementation = None
    with torch.device("meta"):
        chosen: str = transformers.AutoModelForCausalLM.from_config(config).config._attn_implementation
    return chosen


def _refuse_more(name: str, wanted: int, available: int) -> None:
    if wanted > available:
        raise ConfigError(f"{name}: expected at most {available} with this model; got {wanted}")
