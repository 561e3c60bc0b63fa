"""From text to padded batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import torch
from torch.utils.data import ConcatDataset, Dataset, Subset

from blob_pyro.data.batches.fitting import fit_prompts, warn_of_cuts
from blob_pyro.data.examples import IGNORED, Batch, Example
from blob_pyro.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Encoded:
    """One item as token ids.

    Attributes:
        input_ids: (T,) ids of the whole prompt, special tokens included.
        label: index of the right answer, or None.
        shares: (K,) of the annotators for each class, or None.
        token_labels: (T,) the ids that are predicted, -100 where one is given; None for items of classes.
    """

    input_ids: tuple[int, ...]
    label: int | None
    shares: tuple[float, ...] | None = None
    token_labels: tuple[int, ...] | None = None


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

    @overload
    def __getitem__(self, index: int) -> tuple[int, Encoded]: ...
    @overload
    def __getitem__(self, index: slice) -> EncodedDataset: ...
    def __getitem__(self, index: int | slice) -> tuple[int, Encoded] | EncodedDataset:
        """The position (counted from 0 also where `index` counts from the end) and the item; of a slice its items."""
        position = range(len(self))[index]
        return self.select(position) if isinstance(position, range) else (position, self.items[position])

    @classmethod
    def of(cls, dataset: Dataset[Any]) -> EncodedDataset:
        """The items of an encoded data set, or of torch's `Subset` (`random_split`) or `ConcatDataset` of such.

        Positions are those in what is given.

        Raises:
            TypeError: it is something else.

        Example:
            >>> items = EncodedDataset((), (Encoded((5,), 0), Encoded((6,), 1), Encoded((7,), 0)), truncated=0)
            >>> part = EncodedDataset.of(torch.utils.data.Subset(items, [2, 0]))
            >>> [item.input_ids for item in part.items], part[0][0]
            ([(7,), (5,)], 0)
        """
        if isinstance(dataset, EncodedDataset):
            return dataset
        if isinstance(dataset, Subset):
            return cls.of(dataset.dataset).select(dataset.indices)
        if isinstance(dataset, ConcatDataset):
            parts = [cls.of(part) for part in dataset.datasets]
            examples, items = ([one for part in parts for one in getattr(part, name)] for name in ("examples", "items"))
            return cls(tuple(examples), tuple(items), sum(part.truncated for part in parts))
        raise TypeError(
            f"expected items as bp.encode makes them, or torch's Subset or ConcatDataset of such; got "
            f"{type(dataset).__name__}: encode the texts first"
        )

    def select(self, rows: Sequence[int]) -> EncodedDataset:
        """Some of the items, in the order wanted; `truncated` stays that of all."""
        examples = tuple(self.examples[row] for row in rows) if self.examples else ()
        return EncodedDataset(examples, tuple(self.items[row] for row in rows), self.truncated)


def padding_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """Id to pad with: the padding token, or the end-of-text token of a tokenizer that has none.

    Raises:
        DataError: the tokenizer has neither.
    """
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token_id, int):
            return token_id
    raise DataError("expected a tokenizer with a padding or end-of-text token; got neither: set tokenizer.pad_token")


def encode(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, max_length: int, *, closing: bool = True
) -> EncodedDataset:
    """Tokenise prompts, with the special tokens that the tokenizer adds by default, and none behind (`prompt_tokens`).

    A prompt of more than `max_length` tokens loses text from the left of its passage, up to the end of a token, and
    is tokenised again: what remains is the text before the passage, an end piece of the passage, and the text after
    it. One warning says how many there were.

    Args:
        examples: the items.
        tokenizer: a fast tokenizer (they tell which characters a token covers).
        max_length: most tokens of an item, special tokens included.
        closing: whether tokens stay that mark a text's end for an encoder ([SEP]); False for a decoder that has an
            encoder's tokenizer, whose answer follows the prompt's own last token.

    Raises:
        DataError: the tokenizer is a slow one, a prompt has no token, or one is too long even without its passage.
    """
    fitted = fit_prompts(examples, tokenizer, [max_length] * len(examples), closing=closing)
    if fitted.truncated:
        warn_of_cuts(fitted.truncated, len(examples), max_length)
    items = (Encoded(ids, example.label, example.shares) for ids, example in zip(fitted.ids, examples, strict=True))
    return EncodedDataset(tuple(examples), tuple(items), fitted.truncated)


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
    return Batch(
        input_ids=torch.tensor([_padded(item.input_ids, width, pad_token_id) for item in encoded]),
        attention_mask=torch.tensor([_padded([1] * len(item.input_ids), width, 0) for item in encoded]),
        labels=_labels(encoded, width),
        index=torch.tensor([position for position, _ in items]),
    )


def _padded(values: Sequence[int], width: int, filler: int) -> list[int]:
    return [*values, *[filler] * (width - len(values))]


def _labels(items: Sequence[Encoded], width: int) -> torch.Tensor | None:
    """(B, T) token labels, (B, K) shares, or (B,) classes; None where no item has any."""
    kinds: dict[str, list[Any]] = {
        "tokens": [_padded(item.token_labels, width, IGNORED) for item in items if item.token_labels is not None],
        "shares": [item.shares for item in items if item.shares is not None],
        "classes": [item.label for item in items if item.label is not None],
    }
    found = next((labels for labels in kinds.values() if labels), [])
    if found and len(found) < len(items):
        raise DataError(f"expected a label for every item of a batch, or for none; got {len(found)} of {len(items)}")
    return torch.tensor(found) if found else None
