"""A network of nothing but adapted layers, each applied to one token: what remains is what a step costs by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutput

from blob_pyro.experiments.bench.settings import BenchSettings
from blob_pyro.training.random_state import seeded

if TYPE_CHECKING:
    from peft import PeftModel

VOCAB_SIZE = 16
NUM_LABELS = 3


class AdaptersOnly(nn.Module):
    """Sum of linear layers of an item's first token, each to `NUM_LABELS` outputs.

    Args:
        in_features: width of each layer.
    """

    def __init__(self, in_features: tuple[int, ...]) -> None:
        super().__init__()
        self.config = PretrainedConfig()
        self.config.name_or_path = "bookkeeping"
        self.embeddings = nn.ModuleDict({str(n): nn.Embedding(VOCAB_SIZE, n) for n in sorted(set(in_features))})
        self.layers = nn.ModuleList(nn.Linear(n, NUM_LABELS, bias=False) for n in in_features)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, as transformers' models tell it."""
        return next(self.parameters()).dtype

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        """Logits (B, NUM_LABELS) of items (B, 1)."""
        inputs = {width: embedding(input_ids[:, :1]) for width, embedding in self.embeddings.items()}
        outputs = [layer(inputs[str(layer.in_features)]) for layer in self.layers]
        return SequenceClassifierOutput(logits=torch.stack(outputs).sum(0).squeeze(1))


def adapters_only(settings: BenchSettings, in_features: tuple[int, ...]) -> PeftModel:
    """The same PEFT model at every call, with one adapter for each of `in_features`."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.lora_alpha,
        target_modules=[f"layers.{i}" for i in range(len(in_features))],
    )
    with seeded(settings.seed, torch.device(settings.device)):
        return get_peft_model(AdaptersOnly(in_features).to(settings.device), config)


def num_normals(settings: BenchSettings, in_features: tuple[int, ...]) -> int:
    """How many Gaussian numbers a step draws: one for each entry of every A."""
    return settings.r * sum(in_features)
