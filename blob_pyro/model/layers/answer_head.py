"""The head of a causal language model where it is needed: at a few positions, for all tokens or a few of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blob_pyro.data.examples import Batch
from blob_pyro.model.layers.drawn_linear import DrawnLinear
from blob_pyro.model.layers.inject import is_lora_layer

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
    rows = torch.arange(len(batch), device=batch.input_ids.device)
    last = batch.attention_mask.sum(1) - 1
    if not has_plain_head(network):
        return _rows_of(_at(_whole_logits(network, batch), rows, last).mT, token_ids).mT
    states = _last_states(network, batch).unflatten(0, (-1, len(batch)))
    hidden = _at(states, slice(None), rows, last).flatten(0, 1)
    return _head_rows(network.get_base_model().get_output_embeddings(), hidden, token_ids)


def logits_at(network: PeftModel, batch: Batch, rows: Tensor, positions: Tensor) -> Tensor:
    """Logits of the whole vocabulary of V tokens, behind the tokens at some places.

    Args:
        network: a PEFT causal language model.
        batch: right-padded items.
        rows: (...) the row of each place, rising from draw to draw where draws are held.
        positions: (...) its position in the row.

    Returns:
        (..., V), float32, and multiplied in float32 as in `answer_logits`: a copy of the head's weight in float32 is
        made for it.
    """
    if not has_plain_head(network):
        return _at(_whole_logits(network, batch), rows, positions).float()
    hidden = _at(_last_states(network, batch), rows, positions)
    logits = _head_rows(network.get_base_model().get_output_embeddings(), hidden.flatten(0, -2), None)
    return logits.unflatten(0, hidden.shape[:-1])


def has_plain_head(network: PeftModel) -> bool:
    """Whether the logits of a causal language model are lm_head(last hidden state), nothing else."""
    return network.get_base_model().config.model_type in PLAIN_HEADS


def _inputs(batch: Batch) -> dict[str, Any]:
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "use_cache": False}


def _last_states(network: PeftModel, batch: Batch) -> Tensor:
    """(B, T, d) what the head is given; (S * B, T, d) where the backbone makes S rows of each item."""
    causal_lm = network.get_base_model()
    states: Tensor = getattr(causal_lm, causal_lm.base_model_prefix)(**_inputs(batch)).last_hidden_state
    return states


def _whole_logits(network: PeftModel, batch: Batch) -> Tensor:
    logits: Tensor = network.get_base_model()(**_inputs(batch)).logits
    return logits


def _head_rows(head: Any, hidden: Tensor, token_ids: Tensor | None) -> Tensor:
    """Rows `token_ids` of head(hidden), all of them for None: (B, d) to (B, K), float32."""
    base = head.get_base_layer() if is_lora_layer(head) else head
    if not isinstance(base.weight, Tensor) or not base.weight.is_floating_point():
        return _rows_of(head(hidden).mT, token_ids).mT
    hidden = hidden.to(base.weight.device)  # a base over several devices may have it elsewhere
    bias = None if base.bias is None else _rows_of(base.bias, token_ids)
    logits = F.linear(hidden.float(), _rows_of(base.weight, token_ids), bias)
    if is_lora_layer(head) and not head.merged and not head.disable_adapters:
        for adapter in head.active_adapters:
            if adapter in head.lora_A:
                logits = logits + _adapter_rows(head, adapter, hidden, token_ids)
    return logits


def _adapter_rows(head: LoraLayer, adapter: str, hidden: Tensor, token_ids: Tensor | None) -> Tensor:
    """The same rows of the head's own LoRA branch, under the draws that are held."""
    lora_A, lora_B = head.lora_A[adapter], head.lora_B[adapter]
    inner = lora_A(head.lora_dropout[adapter](hidden.to(lora_A.weight.dtype))).float()
    draw = lora_B.draw if isinstance(lora_B, DrawnLinear) else None
    if draw is not None:
        rows = draw(inner) if token_ids is None else draw.outputs(token_ids.to(inner.device))(inner)
    else:
        bias = None if lora_B.bias is None else _rows_of(lora_B.bias, token_ids)
        rows = F.linear(inner, _rows_of(lora_B.weight, token_ids), bias)
    return rows * float(head.scaling[adapter])


def _rows_of(values: Tensor, index: Tensor | None) -> Tensor:
    """values[index], or all of them for None; float32."""
    return (values if index is None else _at(values, index)).float()


def _at(values: Tensor, *index: Tensor | slice) -> Tensor:
    """values[index], of indices on any device."""
    return values[tuple(one.to(values.device) if isinstance(one, Tensor) else one for one in index)]
