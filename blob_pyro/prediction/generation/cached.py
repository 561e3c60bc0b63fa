"""Rows of tokens that a network has read, with the keys and values that it keeps of them."""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor


class CachedRows:
    """Rows under the draws that are held; each reading goes on where the last one ended.

    Positions are counted from a row's first real token, as transformers' `generate` counts them: what stands to the
    left of it is masked, and changes nothing.

    Args:
        network: a causal language model with a KV cache.
        num_rows: how many rows.
    """

    def __init__(self, network: Any, num_rows: int) -> None:
        from transformers import DynamicCache

        self._network = network
        self._parameters = inspect.signature(network.forward).parameters
        self._cache = DynamicCache(config=network.config.get_text_config(decoder=True))
        self._mask = torch.ones(num_rows, 0, dtype=torch.long, device=network.device)

    def read(self, tokens: Tensor, mask: Tensor | None = None, *, last: bool = True) -> Tensor:
        """The next-token logits after these tokens, in the network's dtype.

        Args:
            tokens: (rows, k) ids.
            mask: (rows, k), 1 at real tokens and 0 at padding, which may stand to the left of a row's first real token
                and nowhere else. None: all are real.
            last: after the last of them alone.

        Returns:
            (rows, V); (rows, k, V) where `last` is False.
        """
        self._mask = torch.cat([self._mask, torch.ones_like(tokens) if mask is None else mask], 1)
        inputs: dict[str, Any] = {"attention_mask": self._padding(), "position_ids": self._positions(tokens.shape[1])}
        inputs |= {"logits_to_keep": 1} if last else {}
        known = {name: value for name, value in inputs.items() if name in self._parameters}
        found = self._network(input_ids=tokens, past_key_values=self._cache, use_cache=True, **known)
        return found.logits[:, -1] if last else found.logits

    def select(self, rows: Tensor) -> CachedRows:
        """Some of the rows, in any order and number, as they stand; reading on here leaves `self` as it is.

        Args:
            rows: (m,) indices of rows.
        """
        chosen = copy.copy(self)
        chosen._cache = copy.copy(self._cache)
        chosen._cache.layers = [copy.copy(layer) for layer in self._cache.layers]
        chosen._cache.batch_select_indices(rows)
        chosen._mask = self._mask[rows]
        return chosen

    def _padding(self) -> Tensor | None:
        """The attention mask; None where it hides nothing, which is what `generate` hands over then."""
        return None if bool(self._mask.all()) else self._mask

    def _positions(self, width: int) -> Tensor:
        """(rows, width) positions of the tokens that were put in last."""
        positions = (self._mask.long().cumsum(1) - 1).clamp(min=0)
        return positions[:, -width:]
