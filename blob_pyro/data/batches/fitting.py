"""Tokenised prompts within a length: what is too long loses text from the left of its passage."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from blob_pyro.data.batches.prompt_tokens import PromptTokens, most_characters, prompt_tokens
from blob_pyro.data.examples import Example
from blob_pyro.data.rows.wording import and_others, shown
from blob_pyro.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class FittedPrompts:
    """Prompts as token ids.

    Attributes:
        ids: the token ids of each prompt.
        truncated: how many passages lost text.
    """

    ids: list[tuple[int, ...]]
    truncated: int


def fit_prompts(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    limits: Sequence[int],
    completions: Sequence[int] | None = None,
    *,
    closing: bool,
) -> FittedPrompts:
    """Tokenise prompts, and cut the passages of those that are too long.

    Args:
        examples: the items.
        tokenizer: a fast tokenizer.
        limits: most tokens of each prompt, special tokens included.
        completions: how many tokens the completion behind each takes, where there is one; for the message.
        closing: as in `prompt_tokens`.

    Raises:
        DataError: the tokenizer is a slow one, a prompt has no token, or one is too long even without its passage.
    """
    if not tokenizer.is_fast:
        raise DataError(f"expected a fast tokenizer; got {type(tokenizer).__name__}: load it with use_fast=True")
    near = [_end_piece(example, limit) for example, limit in zip(examples, limits, strict=True)]
    read = functools.partial(prompt_tokens, tokenizer, closing=closing)
    tokens = read([example.prompt for example in near])
    for example, found in zip(near, tokens, strict=True):
        if not found.spans:
            raise DataError(
                f"{example.id}: expected a prompt with text; got {shown(example.prompt)}, which has no token"
            )
    cut = _cut_to_fit(near, tokens, read, limits, completions)
    cut |= {i for i, (piece, example) in enumerate(zip(near, examples, strict=True)) if piece is not example}
    return FittedPrompts([found.ids for found in tokens], len(cut))


def warn_of_cuts(truncated: int, num_items: int, max_length: int) -> None:
    """One warning that says how many passages lost text."""
    warnings.warn(
        f"{truncated} of {num_items} prompts were longer than {max_length} tokens: "
        "their passages were cut from the left",
        stacklevel=3,
    )


def _cut_to_fit(
    examples: Sequence[Example],
    tokens: list[PromptTokens],
    read: Callable[[list[str]], list[PromptTokens]],
    limits: Sequence[int],
    completions: Sequence[int] | None,
) -> set[int]:
    """Replace in `tokens` what is longer than its limit; returns which items were cut.

    The shortened text is tokenised again, not spliced from the old tokens: a token may straddle the passage's edge
    (" Persian" begins with a space of the template). It may then need another round, as new neighbours may split
    differently; each round takes at least one character of the passage.
    """
    too_long = {i: example for i, example in enumerate(examples) if len(tokens[i].ids) > limits[i]}
    every = set(too_long)
    while too_long:
        stuck = [i for i, example in too_long.items() if not _can_be_cut(example)]
        if stuck:
            raise _does_not_fit(examples, tokens, stuck, limits, completions)
        cut = {i: _cut_once(ex, tokens[i].spans, len(tokens[i].ids) - limits[i]) for i, ex in too_long.items()}
        retokenized = read([example.prompt for example in cut.values()])
        for i, found in zip(cut, retokenized, strict=True):
            tokens[i] = found
        too_long = {i: example for i, example in cut.items() if len(tokens[i].ids) > limits[i]}
    return every


def _end_piece(example: Example, limit: int) -> Example:
    """The example without the beginning of a passage that is too long to be worth reading as tokens.

    What is read is a hundred characters for each token that may be left, and a million at least: the end of it is the
    end of the whole. A megabyte of text takes some seconds.
    """
    most = most_characters(limit)
    excess = len(example.prompt) - most
    if excess <= 0:
        return example
    start, end = example.passage or (0, 0)
    if end - start <= excess:
        raise DataError(
            f"{example.id}: expected at most {most:,} characters; got {len(example.prompt):,}"
            f"{' and a shorter passage' if example.passage else ''}: shorten it, or name a data.truncate_field"
        )
    prompt = example.prompt[:start] + example.prompt[start + excess :]
    return dataclasses.replace(example, prompt=prompt, passage=(start, end - excess))


def _can_be_cut(example: Example) -> bool:
    return example.passage is not None and example.passage[0] < example.passage[1]


def _cut_once(example: Example, spans: list[tuple[int, int]], excess: int) -> Example:
    """The example without the first `excess` tokens of its passage, and without white space at the cut."""
    assert example.passage is not None
    start, end = example.passage
    inside = [token_end for token_start, token_end in spans if token_end > start and token_start < end]
    position = inside[excess - 1] if excess <= len(inside) else end
    rest = example.prompt[position:end].lstrip()
    prompt = example.prompt[:start] + rest + example.prompt[end:]
    return dataclasses.replace(example, prompt=prompt, passage=(start, start + len(rest)))


def _does_not_fit(
    examples: Sequence[Example],
    tokens: list[PromptTokens],
    stuck: list[int],
    limits: Sequence[int],
    completions: Sequence[int] | None,
) -> DataError:
    """The error that names the items that cannot be made short enough."""
    first = examples[stuck[0]]
    without = "" if first.passage is None else " without its passage"
    more = and_others([examples[i].id for i in stuck])
    advice = "raise data.max_length" + ("" if first.passage else ", or name a data.truncate_field")
    limit, got = limits[stuck[0]], len(tokens[stuck[0]].ids)
    before = "" if completions is None else f" before a completion of {completions[stuck[0]]}"
    return DataError(f"{first.id}: expected at most {limit} tokens{before}; got {got}{without}{more}: {advice}")
