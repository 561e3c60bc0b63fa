"""Log-probabilities of answers of several tokens, without running what they share more than once."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from blob_pyro.data.examples import Batch
from blob_pyro.model.layers.answer_head import logits_at

if TYPE_CHECKING:
    from peft import PeftModel

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class AnswerTree:
    """Which rows and positions the tokens of K answers are read from.

    A token of an answer is predicted behind the prompt and the answer's tokens before it. One row serves every such
    beginning of what it holds: " good" and " fair" need a row without any answer token, " very good" and " very bad"
    one with " very" behind the prompt, and that row serves the two others as well.

    Attributes:
        answers: K answers, the tokens of each; none begins another.
        beginnings: (P) the different proper beginnings of answers, sorted; the first is the empty one.
        rows: (R) those of them that begin no other, sorted: what is put behind the prompt in each row of an item.
    """

    answers: tuple[Tokens, ...]
    beginnings: tuple[Tokens, ...]
    rows: tuple[Tokens, ...]

    @classmethod
    def of(cls, answers: Sequence[Sequence[int]]) -> AnswerTree:
        """The tree of K answers.

        Example:
            >>> AnswerTree.of([[5], [7, 3], [7, 4]]).rows
            ((7,),)
            >>> AnswerTree.of([[5, 1], [7, 3]]).rows
            ((5,), (7,))
        """
        whole = tuple(map(tuple, answers))
        beginnings = tuple(sorted({answer[:end] for answer in whole for end in range(len(answer))}))
        # sorted, what begins with another follows it
        followers = (*beginnings[1:], None)
        rows = tuple(
            one for one, after in zip(beginnings, followers, strict=True) if after is None or after[: len(one)] != one
        )
        return cls(whole, beginnings, rows)

    @property
    def depth(self) -> int:
        """Tokens of the longest row."""
        return max(map(len, self.rows))

    def row_of(self, beginning: Tokens) -> int:
        """The first row that starts with `beginning`."""
        return bisect_left(self.rows, beginning)

    def extend(self, batch: Batch) -> Batch:
        """R rows of each item, beside one another: row i * R + j is item i with rows[j] behind it.

        Args:
            batch: B right-padded items.
        """
        count, depth, device = len(self.rows), self.depth, batch.input_ids.device
        held = torch.tensor([[*row, *(0,) * (depth - len(row))] for row in self.rows], device=device).long()
        real = torch.tensor([[1] * len(row) + [0] * (depth - len(row)) for row in self.rows], device=device).long()
        held, real = held.reshape(count, depth), real.reshape(count, depth)
        start = batch.lengths.repeat_interleave(count).unsqueeze(1)
        places = start + torch.arange(depth, device=device)
        ids, mask = (
            F.pad(values, (0, depth)).repeat_interleave(count, 0) for values in (batch.input_ids, batch.attention_mask)
        )
        return dataclasses.replace(
            batch,
            input_ids=ids.scatter(1, places, held.repeat(len(batch), 1).to(ids.dtype)),
            attention_mask=mask.scatter(1, places, real.repeat(len(batch), 1).to(mask.dtype)),
            labels=None,
            index=None,
        )


def whole_answer_log_probs(network: PeftModel, batch: Batch, tree: AnswerTree) -> Tensor:
    """log p(answer k | prompt), the sum over its tokens of log p(token | prompt, the answer's tokens before it).

    Args:
        network: a PEFT causal language model.
        batch: right-padded items.
        tree: K answers.

    Returns:
        (B, K) nats, float32. The head is multiplied in float32, as in `answer_logits`.
    """
    device, size = batch.input_ids.device, len(tree.rows)
    rows = torch.arange(len(batch), device=device).unsqueeze(1) * size
    rows = rows + torch.tensor([tree.row_of(beginning) for beginning in tree.beginnings], device=device)
    ends = torch.tensor([len(beginning) for beginning in tree.beginnings], device=device)
    positions = batch.lengths.unsqueeze(1) - 1 + ends
    log_probs = logits_at(network, tree.extend(batch), rows, positions).log_softmax(-1)
    steps = [(k, answer[:end], answer[end]) for k, answer in enumerate(tree.answers) for end in range(len(answer))]
    places = torch.tensor([bisect_left(tree.beginnings, beginning) for _, beginning, _ in steps], device=device)
    tokens = torch.tensor([token for _, _, token in steps], device=device)
    owners = torch.tensor([k for k, _, _ in steps], device=device)
    picked = log_probs[:, places, tokens]
    return picked.new_zeros(len(batch), len(tree.answers)).index_add(1, owners, picked)
