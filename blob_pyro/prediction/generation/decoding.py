"""The loop over tokens: S draws of P prompts step together, in one batch with one KV cache."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blob_pyro.data.examples import Batch
from blob_pyro.prediction.generation.cached import CachedRows
from blob_pyro.prediction.generation.reread import RereadRows, rows_of

Pick = Callable[[Tensor, int], Tensor]
"""(S, P, V) logits and the number of the step -> (S, P) tokens."""


@dataclass(frozen=True)
class Ending:
    """When a text ends.

    Attributes:
        tokens: ids of which the first that comes ends a text.
        padding: the id behind it.
        max_new_tokens: most tokens of a text.
        strings: of which the first that a text holds ends it, behind the token that completes it.
        text: the text that tokens add to the prompt of a number; for `strings`.
    """

    tokens: tuple[int, ...]
    padding: int
    max_new_tokens: int
    strings: tuple[str, ...] = ()
    text: Callable[[int, Sequence[int]], str] = lambda prompt, tokens: ""

    def ends(self, written: Tensor) -> Tensor:
        """Which texts end with their last token; (S, P) bool.

        Args:
            written: (S, P, t) the tokens so far.
        """
        last = written[..., -1]
        found = torch.isin(last, torch.tensor(self.tokens, dtype=torch.long, device=last.device))
        if self.strings:
            found = found | torch.tensor(
                [[self._holds_one(prompt, row) for prompt, row in enumerate(rows)] for rows in written.tolist()],
                device=last.device,
            )
        return found

    def _holds_one(self, prompt: int, tokens: Sequence[int]) -> bool:
        text = self.text(prompt, tokens)
        return any(string in text for string in self.strings)


@dataclass(frozen=True)
class Start:
    """P prompts that were read under S draws.

    Attributes:
        rows: row s * P + i is prompt i under draw s.
        logits: (S, P, V) of the first token behind the prompts.
    """

    rows: CachedRows | RereadRows
    logits: Tensor

    @classmethod
    def reading(cls, network: Any, prompts: Batch, num_draws: int) -> Start:
        """Read left-padded prompts under the draws that are held, S of them."""
        repeated = prompts.repeat(num_draws)
        rows = rows_of(network, len(repeated))
        logits = rows.read(repeated.input_ids, repeated.attention_mask)
        return cls(rows, logits.unflatten(0, (num_draws, len(prompts))))


def decode(
    start: Start, pick: Pick, ending: Ending, tell: Callable[[], object] = lambda: None
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Go on from the prompts, token by token, until every text has ended; `start` stays as it is.

    Args:
        start: the prompts.
        pick: how a token is picked.
        ending: when a text ends.
        tell: called behind each step.

    Yields:
        The (S, P, V) logits of a step, the (S, P) tokens that were picked, and True where no text has ended before;
        elsewhere the token is padding.
    """
    logits, shape = start.logits, start.logits.shape[:2]
    rows = start.rows.select(torch.arange(shape.numel(), device=logits.device))
    ended = torch.zeros(shape, dtype=torch.bool, device=logits.device)
    written = torch.zeros(*shape, 0, dtype=torch.long, device=logits.device)
    for step in range(ending.max_new_tokens):
        tokens = pick(logits, step).masked_fill(ended, ending.padding)
        yield logits, tokens, ~ended
        tell()
        written = torch.cat([written, tokens[..., None]], -1)
        ended = ended | ending.ends(written)
        if bool(ended.all()) or step + 1 == ending.max_new_tokens:
            return
        logits = rows.read(tokens.reshape(-1, 1)).unflatten(0, shape)
