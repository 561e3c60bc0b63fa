"""Reads texts under all draws, whichever of them wrote each."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from blob_pyro.prediction.generation.decoding import Start
from blob_pyro.prediction.generation.measures import TokenMeasures, token_measures

SCORED_TOKENS = 1536
"""Most tokens of a forward, draws x texts x length; what fills memory is their logits over the whole vocabulary (150 MB
for 50,000 words in bfloat16). A forward takes one text under all draws whatever it is."""


def score(start: Start, tokens: Tensor, mask: Tensor) -> TokenMeasures:
    """What each draw says of every token of C texts behind each prompt.

    The prompts are not read again: their keys and values are there, and a text is read at once, not step by step. The
    laws are those of the steps up to rounding.

    Args:
        start: P prompts, read under S draws.
        tokens: (P, C, T) ids.
        mask: (P, C, T) True at tokens, False behind the end of a text.

    Returns:
        (S, P, C, T) log-probabilities, (P, C, T) entropies and mutual informations; 0 where `mask` is False.
    """
    size = max(1, SCORED_TOKENS // (start.logits.shape[0] * tokens.shape[-1]))
    prompts = []
    for prompt, (texts, real) in enumerate(zip(tokens, mask, strict=True)):
        parts = [_read(start, prompt, *part) for part in zip(texts.split(size), real.split(size), strict=True)]
        prompts.append(TokenMeasures.joined(parts, -2))
    return TokenMeasures.stacked(prompts, -3).map(lambda values: values * mask)


def _read(start: Start, prompt: int, tokens: Tensor, mask: Tensor) -> TokenMeasures:
    """Of (c, T) tokens behind one prompt: (S, c, T) and (c, T)."""
    num_draws, num_prompts, _ = start.logits.shape
    first = start.logits[:, prompt, None].expand(-1, len(tokens), -1)
    steps = [token_measures(first, tokens[:, 0])]
    width = int(mask.sum(-1).max())
    if width > 1:
        own = torch.arange(num_draws, device=tokens.device) * num_prompts + prompt
        rows = start.rows.select(own.repeat_interleave(len(tokens)))
        logits = rows.read(tokens[:, : width - 1].repeat(num_draws, 1), last=False).unflatten(0, (num_draws, -1))
        steps += [token_measures(logits[:, :, step], tokens[:, step + 1]) for step in range(width - 1)]
    behind = tokens.shape[-1] - width
    return TokenMeasures.stacked(steps, -1).map(lambda values: F.pad(values, (0, behind)))
