"""Prompts as token ids: an answer follows the last of them, and what begins a text is there once."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class TokenizerWarning(UserWarning):
    """What a tokenizer adds to each text, and a prompt is read without."""


def most_characters(max_tokens: int) -> int:
    """Most characters that are read of a prompt of so many tokens: a hundred for each, and a million at least."""
    return max(1_000_000, 100 * max_tokens)


@dataclass(frozen=True)
class PromptTokens:
    """Token ids of a prompt.

    Attributes:
        ids: with the special tokens that the tokenizer puts around a text, but for those named in `prompt_tokens`.
        text: how many of them are the text's own.
        spans: (start, end) characters of those of the text; none of a tokenizer that does not tell.
    """

    ids: tuple[int, ...]
    text: int
    spans: list[tuple[int, int]]


def prompt_tokens(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], *, closing: bool = True
) -> list[PromptTokens]:
    """Tokens of all prompts in one call, which is many times faster than a call for each.

    Left out, with a `TokenizerWarning` for either, are

    - tokens that the tokenizer puts behind a text (end of text, say): an answer follows the prompt's own last token.
      Those that mark a text's end for an encoder ([SEP], which RoBERTa spells like its end of text) stay, of a
      tokenizer that marks its beginning ([CLS]) as well.
    - tokens in front that the text begins with already, as one of a chat template does.

    Args:
        tokenizer: adds special tokens as it does by default.
        prompts: texts.
        closing: whether those for an encoder stay; False for a decoder, which may have an encoder's tokenizer.
    """
    if not prompts:
        return []
    found: Any = tokenizer(
        list(prompts),
        padding=False,
        truncation=False,
        return_offsets_mapping=tokenizer.is_fast,
        return_special_tokens_mask=True,
        verbose=False,
    )
    spans = found["offset_mapping"] if tokenizer.is_fast else [[]] * len(prompts)
    kept = _closing(tokenizer) if closing else ()
    rows, behind, twice = [], set(), set()
    for ids, special, places in zip(found["input_ids"], found["special_tokens_mask"], spans, strict=True):
        end, own_start = _end(ids, special, kept), special.index(0) if 0 in special else len(special)
        start = own_start - _shared(ids[:own_start], ids[own_start:])
        behind.update(ids[end:])
        twice.update(ids[start:own_start])
        own = [tuple(place) for place, added in zip(places, special, strict=False) if not added]
        rows.append(PromptTokens((*ids[:start], *ids[own_start:end]), len(special) - sum(special), own))
    _tell(
        tokenizer, behind, "the tokenizer puts {} behind a text: prompts are read without, for an answer follows them"
    )
    _tell(tokenizer, twice, "the tokenizer puts {} in front of a text: prompts that begin with it have it once")
    return rows


def tokens_around(tokenizer: PreTrainedTokenizerBase, *, closing: bool) -> tuple[list[int], list[int]]:
    """What stands in front of a text and behind it as `prompt_tokens` has them, where a text has none of it itself.

    Args:
        tokenizer: adds special tokens as it does by default.
        closing: as in `prompt_tokens`.
    """
    found: Any = tokenizer("a", return_special_tokens_mask=True)
    ids, special = found["input_ids"], found["special_tokens_mask"]
    start = special.index(0) if 0 in special else len(ids)
    behind = next((place for place in range(len(ids), start, -1) if not special[place - 1]), start)
    return ids[:start], ids[behind : _end(ids, special, _closing(tokenizer) if closing else ())]


def _closing(tokenizer: PreTrainedTokenizerBase) -> tuple[int | None, ...]:
    """The tokens that mark a text's end for an encoder."""
    return () if tokenizer.cls_token_id is None else (tokenizer.sep_token_id, tokenizer.cls_token_id)


def _end(ids: Sequence[int], special: Sequence[int], closing: Sequence[int | None]) -> int:
    """Where the ids that are kept end; `special` is 1 at those that the tokenizer has added."""
    end = len(ids)
    while end and special[end - 1] and ids[end - 1] not in closing and not all(special[:end]):
        end -= 1
    return end


def _shared(added: Sequence[int], own: Sequence[int]) -> int:
    """How many of the last ids in front of a text are its own first ones, too."""
    return next((size for size in range(len(added), 0, -1) if added[-size:] == own[:size]), 0)


def _tell(tokenizer: PreTrainedTokenizerBase, tokens: set[int], note: str) -> None:
    if tokens:
        names = ", ".join(repr(tokenizer.convert_ids_to_tokens(token)) for token in sorted(tokens))
        warnings.warn(note.format(names), TokenizerWarning, stacklevel=4)


@contextlib.contextmanager
def told_once() -> Iterator[None]:
    """Give each warning that comes inside once, at the end: a tokenizer has the same habits for each file."""
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        yield
    for text, category in dict.fromkeys((str(note.message), note.category) for note in notes):
        warnings.warn(text, category, stacklevel=3)
