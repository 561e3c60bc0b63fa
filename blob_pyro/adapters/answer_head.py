"""Logits of a few answer tokens at the last position, without the other fifty thousand rows of the head."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blob_pyro.adapters.drawn_linear import DrawnLinear
from blob_pyro.adapters.inject import is_lora_layer
from blob_pyro.data.examples import Batch

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

# Architectures whose logits are exactly lm_head(last hidden state). Others scale, cap or shift them
# (Gemma 2's soft cap, Cohere's and Granite's factors), so they take the whole forward.
PLAIN_HEADS = frozenset(
    {"gemma", "gpt2", "gpt_neox", "llama", "mistral", "opt", "phi", "phi3", "qwen2", "qwen3", "smollm3"}
)


def answer_logits(network: PeftModel, batch: Batch, token_ids: Tensor) -> Tensor:
    """Logits of `token_ids` after the last real token of each item.

    Args:
        network: a PEFT causal language model.
        batch: right-padded items.
        token_ids: (K,) vocabulary ids of the answers.

    Returns:
        (B, K), float32; (S * B, K) where the backbone makes S rows of each item (`SharedPrefix.repeated`).
        The K rows of the head are multiplied in float32, whatever the base's dtype: bfloat16 logits near 20
        are 0.125 apart, too coarse for probabilities.
    """
    causal_lm = network.get_base_model()
    rows = torch.arange(len(batch), device=batch.input_ids.device)
    last = batch.attention_mask.sum(1) - 1
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}
    if causal_lm.config.model_type not in PLAIN_HEADS:
        logits: Tensor = causal_lm(**inputs).logits[rows, last]
        return logits[:, token_ids].float()
    backbone = getattr(causal_lm, causal_lm.base_model_prefix)
    states = backbone(**inputs).last_hidden_state
    hidden = states.unflatten(0, (-1, len(batch)))[:, rows, last].flatten(0, 1)
    return _head_rows(causal_lm.get_output_embeddings(), hidden, token_ids)


def _head_rows(head: Any, hidden: Tensor, token_ids: Tensor) -> Tensor:
    """Rows `token_ids` of head(hidden): (B, d) to (B, K), float32."""
    base = head.get_base_layer() if is_lora_layer(head) else head
    if not isinstance(base.weight, Tensor) or not base.weight.is_floating_point():
        quantised: Tensor = head(hidden)
        return quantised[:, token_ids].float()
    bias = None if base.bias is None else base.bias[token_ids].float()
    logits = F.linear(hidden.float(), base.weight[token_ids].float(), bias)
    if is_lora_layer(head) and not head.merged and not head.disable_adapters:
        for adapter in head.active_adapters:
            if adapter in head.lora_A:
                logits = logits + _adapter_rows(head, adapter, hidden, token_ids)
    return logits


def _adapter_rows(head: LoraLayer, adapter: str, hidden: Tensor, token_ids: Tensor) -> Tensor:
    """The same rows of the head's own LoRA branch, under the draws that are held."""
    lora_A, lora_B = head.lora_A[adapter], head.lora_B[adapter]
    inner = lora_A(head.lora_dropout[adapter](hidden.to(lora_A.weight.dtype))).float()
    bias = None if lora_B.bias is None else lora_B.bias[token_ids].float()
    draw = lora_B.draw if isinstance(lora_B, DrawnLinear) else None
    rows = F.linear(inner, lora_B.weight[token_ids].float(), bias) if draw is None else draw.outputs(token_ids)(inner)
    return rows * float(head.scaling[adapter])
