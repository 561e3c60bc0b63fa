"""The head of a classifier: what a decoder's says at the last real token of each item."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from blob_pyro.data.examples import Batch
from blob_pyro.model.architectures import HEADS, is_encoder

if TYPE_CHECKING:
    from peft import PeftModel


def class_logits(network: PeftModel, batch: Batch) -> Tensor:
    """Logits of a sequence classifier, (B, K).

    transformers reads a decoder's at the last token that is not the configuration's pad_token_id: at padding, where the
    batch is padded with another one, and a token early where a text ends in that one. Here the mask tells.

    Args:
        network: a PEFT model of a sequence classifier.
        batch: right-padded items.
    """
    base = network.get_base_model()
    with _every_token(base) as found:
        logits: Tensor = network(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    if not found or found[0].dim() != 3 or is_encoder(base.config):
        return logits
    rows = torch.arange(len(batch), device=logits.device)
    return found[0][rows, batch.lengths.to(logits.device) - 1]


@contextmanager
def _every_token(base: Any) -> Iterator[list[Tensor]]:
    """Context in which what the network's head makes is kept, and a decoder misses no pad_token_id."""
    head = next((getattr(base, name) for name in HEADS if hasattr(base, name)), None)
    if head is None:
        yield []
        return
    found: list[Tensor] = []
    config = base.config.get_text_config()
    lacks_padding = getattr(config, "pad_token_id", None) is None
    hook = head.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    try:
        if lacks_padding:
            config.pad_token_id = 0
        yield found
    finally:
        if lacks_padding:
            config.pad_token_id = None
        hook.remove()
