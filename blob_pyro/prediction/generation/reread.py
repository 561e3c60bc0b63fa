"""Rows of tokens that a network reads from their beginning each time, where its cache is no list of keys and values.

Hybrid, linear-attention and recurrent networks keep a state that cannot be handed on to other rows.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor

from blob_pyro.data.examples import Batch
from blob_pyro.prediction.generation.cached import CachedRows


class RereadRows:
    """As `CachedRows`, at the cost of a whole forward for each reading; what is computed is what a prediction computes.

    Args:
        network: a causal language model.
        num_rows: how many rows.
    """

    def __init__(self, network: Any, num_rows: int) -> None:
        self._network = network
        self._tokens = torch.zeros(num_rows, 0, dtype=torch.long, device=network.device)
        self._mask = self._tokens.clone()

    def read(self, tokens: Tensor, mask: Tensor | None = None, *, last: bool = True) -> Tensor:
        """The next-token logits after these tokens, in the network's dtype; arguments as those of `CachedRows.read`."""
        self._tokens = torch.cat([self._tokens, tokens], 1)
        self._mask = torch.cat([self._mask, torch.ones_like(tokens) if mask is None else mask], 1)
        rows = Batch(self._tokens, self._mask).right_padded()
        logits = self._network(input_ids=rows.input_ids, attention_mask=rows.attention_mask, use_cache=False).logits
        behind = self._mask.sum(1, keepdim=True) - 1
        if not last:
            behind = behind + torch.arange(1 - tokens.shape[1], 1, device=behind.device)
        found = logits.gather(1, behind[..., None].expand(-1, -1, logits.shape[-1]))
        return found[:, -1] if last else found

    def select(self, rows: Tensor) -> RereadRows:
        """Some of the rows, in any order and number, as they stand; reading on here leaves `self` as it is.

        Args:
            rows: (m,) indices of rows.
        """
        chosen = RereadRows(self._network, 0)
        chosen._tokens, chosen._mask = self._tokens[rows], self._mask[rows]
        return chosen


def rows_of(network: Any, num_rows: int) -> CachedRows | RereadRows:
    """Rows with a KV cache where the network's is one of keys and values for each token alone.

    Args:
        network: a causal language model.
        num_rows: how many rows.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

    takes_one = "past_key_values" in inspect.signature(network.forward).parameters
    if not takes_one or getattr(network, "_is_stateful", False):
        return RereadRows(network, num_rows)
    layers = DynamicCache(config=network.config.get_text_config(decoder=True)).layers
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    return CachedRows(network, num_rows) if plain else RereadRows(network, num_rows)
