"""Uncertainty of a next token under several draws, in nats."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TokenMeasures:
    """Of n tokens, each in a context of its own.

    Attributes:
        log_probs: (S, n) log p_s(y), log-probability of the token under each draw.
        entropy: (n,) H of the draws' averaged law.
        mutual_information: (n,) of token and draw.
    """

    log_probs: Tensor
    entropy: Tensor
    mutual_information: Tensor

    @classmethod
    def stacked(cls, parts: Sequence[TokenMeasures], dim: int) -> TokenMeasures:
        """Several of one shape along a new dimension, counted from the last one of the result."""
        return cls._of(lambda *tensors: torch.stack(tensors, dim), *parts)

    @classmethod
    def joined(cls, parts: Sequence[TokenMeasures], dim: int) -> TokenMeasures:
        """Several along a dimension that they have, counted from the last one."""
        return cls._of(lambda *tensors: torch.cat(tensors, dim), *parts)

    def map(self, change: Callable[[Tensor], Tensor]) -> TokenMeasures:
        """`change` of each tensor."""
        return self._of(change, self)

    @classmethod
    def _of(cls, make: Callable[..., Tensor], *parts: TokenMeasures) -> TokenMeasures:
        names = [field.name for field in dataclasses.fields(cls)]
        return cls(**{name: make(*(getattr(part, name) for part in parts)) for name in names})


def token_measures(logits: Tensor, tokens: Tensor) -> TokenMeasures:
    r"""What S next-token laws say of the tokens that came.

    With p_s = softmax(logits_s), the law under draw s, and its average p = 1/S sum_s p_s (0 log 0 = 0):

        entropy             H(p) = -sum_v p(v) log p(v)
        mutual information  I = H(p) - 1/S sum_s H(p_s)

    I is 0 for a single draw, at most log S, and rounding below 0 is clamped.

    Args:
        logits: (S, n, V) next-token logits under each draw, in the same n contexts; taken in float32.
        tokens: (n,) the tokens.

    Example:
        >>> agree, differ = [0.5, 0.5], [[1.0, 0.0], [0.0, 1.0]]
        >>> logits = torch.tensor([[agree, differ[0]], [agree, differ[1]]]).log()
        >>> measures = token_measures(logits, torch.tensor([0, 0]))
        >>> measures.entropy, measures.mutual_information
        (tensor([0.6931, 0.6931]), tensor([0.0000, 0.6931]))
    """
    laws = logits.float().log_softmax(-1)
    chosen = tokens.expand(laws.shape[:-1])[..., None]
    log_probs = laws.gather(-1, chosen).squeeze(-1)
    probs = laws.exp()
    entropy = torch.special.entr(probs.mean(0)).sum(-1)
    expected = torch.special.entr(probs).sum(-1).mean(0)
    return TokenMeasures(log_probs, entropy, (entropy - expected).clamp(min=0.0))
