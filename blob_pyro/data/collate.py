"""From text to padded batches: tokenising, cutting passages that are too long, padding."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

from blob_pyro.data.examples import Batch, Example
from blob_pyro.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoded:
    """One item as token ids.

    Attributes:
        input_ids: (T,) ids of the whole prompt, special tokens included.
        label: index of the right answer, or None.
    """

    input_ids: tuple[int, ...]
    label: int | None


@dataclass(frozen=True)
class EncodedDataset(Dataset[tuple[int, Encoded]]):
    """Encoded items; `dataset[i]` is (i, item i), so that a batch knows which items it holds.

    Attributes:
        examples: the items as text, before any cut.
        items: the same items as token ids.
        truncated: how many passages lost text.
    """

    examples: tuple[Example, ...]
    items: tuple[Encoded, ...]
    truncated: int

    def __len__(self) -> int:
        """Number of items."""
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[int, Encoded]:
        """The position (counted from 0 also where `index` counts from the end) and the item."""
        position = range(len(self))[index]
        return position, self.items[position]


@dataclass(frozen=True)
class _Tokens:
    """Token ids of a prompt; `spans` are the (start, end) characters of its tokens, without special tokens."""

    ids: tuple[int, ...]
    spans: list[tuple[int, int]]


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id to pad with: the padding token, or the end-of-text token of a tokenizer that has none.

    Raises:
        DataError: the tokenizer has neither.
    """
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token_id, int):
            return token_id
    raise DataError("expected a tokenizer with a padding or end-of-text token; got neither: set tokenizer.pad_token")


def encode(examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int) -> EncodedDataset:
    """Tokenise prompts, with the special tokens that the tokenizer adds by default.

    A prompt of more than `max_length` tokens loses text from the left of its passage, up to the end of a token, and
    is tokenised again: what remains is the text before the passage, an end piece of the passage, and the text after
    it. One warning says how many there were.

    Args:
        examples: the items.
        tokenizer: a fast tokenizer (they tell which characters a token covers).
        max_length: most tokens of an item, special tokens included.

    Raises:
        DataError: the tokenizer is a slow one, a prompt has no token, or one is too long even without its passage.
    """
    if not tokenizer.is_fast:
        raise DataError(f"expected a fast tokenizer; got {type(tokenizer).__name__}: load it with use_fast=True")
    tokens = _tokenize(tokenizer, [example.prompt for example in examples])
    for example, found in zip(examples, tokens, strict=True):
        if not found.spans:
            raise DataError(f"{example.id}: expected a prompt with text; got {example.prompt!r}, which has no token")
    truncated = _cut_to_fit(examples, tokens, tokenizer, max_length)
    if truncated:
        warnings.warn(
            f"{truncated} of {len(examples)} prompts were longer than {max_length} tokens: "
            "their passages were cut from the left",
            stacklevel=2,
        )
    items = (Encoded(found.ids, example.label) for example, found in zip(examples, tokens, strict=True))
    return EncodedDataset(tuple(examples), tuple(items), truncated)


def _tokenize(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str]) -> list[_Tokens]:
    """Tokens of all prompts in one call, which is many times faster than a call for each."""
    if not prompts:
        return []
    found: Any = tokenizer(
        list(prompts),
        padding=False,
        truncation=False,
        return_offsets_mapping=True,
        return_special_tokens_mask=True,
        verbose=False,
    )
    columns = zip(found["input_ids"], found["offset_mapping"], found["special_tokens_mask"], strict=True)
    return [
        _Tokens(tuple(ids), [tuple(span) for span, special in zip(spans, mask, strict=True) if not special])
        for ids, spans, mask in columns
    ]


def _cut_to_fit(
    examples: Sequence[Example], tokens: list[_Tokens], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> int:
    """Replace in `tokens` what is longer than `max_length`; returns the number of items that were cut.

    The shortened text is tokenised again, not spliced from the old tokens: a token may straddle the passage's edge
    (" Persian" begins with a space of the template). It may then need another round, as new neighbours may split
    differently; each round takes at least one character of the passage.
    """
    too_long = {i: example for i, example in enumerate(examples) if len(tokens[i].ids) > max_length}
    count = len(too_long)
    while too_long:
        stuck = [i for i, example in too_long.items() if not _can_be_cut(example)]
        if stuck:
            raise _does_not_fit(examples, tokens, stuck, max_length)
        cut = {i: _cut_once(ex, tokens[i].spans, len(tokens[i].ids) - max_length) for i, ex in too_long.items()}
        retokenized = _tokenize(tokenizer, [example.prompt for example in cut.values()])
        for i, found in zip(cut, retokenized, strict=True):
            tokens[i] = found
        too_long = {i: example for i, example in cut.items() if len(tokens[i].ids) > max_length}
    return count


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


def _does_not_fit(examples: Sequence[Example], tokens: list[_Tokens], stuck: list[int], max_length: int) -> DataError:
    """The error that names the first item that cannot be made short enough."""
    first = examples[stuck[0]]
    without = "" if first.passage is None else " without its passage"
    more = f" (and {len(stuck) - 1} more items)" if len(stuck) > 1 else ""
    advice = "raise data.max_length" + ("" if first.passage else ", or name a data.truncate_field")
    return DataError(
        f"{first.id}: expected at most {max_length} tokens; got {len(tokens[stuck[0]].ids)}{without}{more}: {advice}"
    )


def collate(items: Sequence[tuple[int, Encoded]], pad_token_id: int) -> Batch:
    """Pad items on the right to the longest.

    Args:
        items: (position in the data set, item).
        pad_token_id: what to pad with.

    Returns:
        A batch with index; with labels where every item has one.

    Raises:
        DataError: some items have a label and some have none.

    Example:
        >>> batch = collate([(7, Encoded((5, 6), 1)), (2, Encoded((4,), 0))], pad_token_id=9)
        >>> batch.input_ids.tolist(), batch.attention_mask.tolist(), batch.index.tolist()
        ([[5, 6], [4, 9]], [[1, 1], [1, 0]], [7, 2])
    """
    encoded = [item for _, item in items]
    width = max(len(item.input_ids) for item in encoded)
    ids = [list(item.input_ids) + [pad_token_id] * (width - len(item.input_ids)) for item in encoded]
    mask = [[1] * len(item.input_ids) + [0] * (width - len(item.input_ids)) for item in encoded]
    labels = [item.label for item in encoded if item.label is not None]
    if labels and len(labels) < len(encoded):
        raise DataError(f"expected a label for every item of a batch, or for none; got {len(labels)} of {len(encoded)}")
    return Batch(
        input_ids=torch.tensor(ids),
        attention_mask=torch.tensor(mask),
        labels=torch.tensor(labels) if labels else None,
        index=torch.tensor([position for position, _ in items]),
    )
