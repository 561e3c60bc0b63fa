"""Loaders: batches for training, grouped by length or not, and for prediction."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from blob_pyro.data.batches.collate import Encoded, EncodedDataset, collate
from blob_pyro.data.examples import Batch
from blob_pyro.errors import DataError

MEGA_BATCHES = 50  # as in transformers' LengthGroupedSampler


class LengthGroupedBatchSampler(Sampler[list[int]]):
    """Batches of items of similar length, in random order: a new one each epoch.

    All items are shuffled and cut into mega-batches of min(n / (4 batch_size), 50) batches, and at least one; each
    is sorted by length and cut into batches, and all batches are shuffled. The items left over, which do not fill a
    batch, are the last of the first shuffle and come last: whether an item counts more, in a smaller batch, has
    nothing to do with its length.

    Source: `LengthGroupedSampler` of transformers, which does not shuffle the batches.

    Args:
        lengths: tokens of each item.
        batch_size: items of every batch but the last, which may be smaller.
        generator: where all of the order comes from; its state at the start of an epoch decides that epoch.

    Example:
        >>> sampler = LengthGroupedBatchSampler([5, 90, 7, 80, 6], batch_size=2, generator=torch.Generator())
        >>> len(sampler), sorted(i for batch in sampler for i in batch)
        (3, [0, 1, 2, 3, 4])
    """

    drop_last = False

    def __init__(self, lengths: Sequence[int], batch_size: int, generator: torch.Generator) -> None:
        self.lengths, self.batch_size, self.generator = lengths, batch_size, generator

    def __len__(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.lengths) // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = self._permutation(len(self.lengths))
        full = len(order) - len(order) % self.batch_size
        mega = self.batch_size * max(1, min(len(order) // (4 * self.batch_size), MEGA_BATCHES))
        grouped = [i for part in _cut(order[:full], mega) for i in sorted(part, key=lambda i: -self.lengths[i])]
        batches = _cut(grouped, self.batch_size)
        yield from (batches[i] for i in self._permutation(len(batches)))
        yield from _cut(order[full:], self.batch_size)

    def _permutation(self, count: int) -> list[int]:
        return [int(i) for i in torch.randperm(count, generator=self.generator)]


def _cut(items: list[int], size: int) -> list[list[int]]:
    """Pieces of `size` items; the last may be smaller."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def train_loader(
    dataset: Dataset[Any], batch_size: int, pad_token_id: int, seed: int, *, group_by_length: bool = True
) -> DataLoader[tuple[int, Encoded]]:
    """Batches for training: a new order each epoch, and the last one may be smaller.

    The order depends on `seed` alone; `loader.generator` is the generator whose state a checkpoint keeps.

    Args:
        dataset: the items, or torch's `Subset` or `ConcatDataset` of such (`EncodedDataset.of`).
        batch_size: items a step.
        pad_token_id: what to pad with.
        seed: decides the order.
        group_by_length: put items of similar length together (`LengthGroupedBatchSampler`), which saves padding;
            False shuffles plainly.

    Raises:
        DataError: the data set is empty.
    """
    dataset = EncodedDataset.of(dataset)
    if not len(dataset):
        raise DataError("expected at least one item to train on; got none")
    generator = torch.Generator().manual_seed(seed)
    padded = partial(collate, pad_token_id=pad_token_id)
    if not group_by_length:
        return DataLoader(dataset, batch_size=batch_size, shuffle=True, generator=generator, collate_fn=padded)
    batches = LengthGroupedBatchSampler(_lengths(dataset), batch_size, generator)
    return DataLoader(dataset, batch_sampler=batches, generator=generator, collate_fn=padded)


def ordered_loader(dataset: Dataset[Any], batch_size: int, pad_token_id: int) -> DataLoader[tuple[int, Encoded]]:
    """Batches for training in the order of the items, the same at each epoch, as the paper's public code has them."""
    padded = partial(collate, pad_token_id=pad_token_id)
    return DataLoader(EncodedDataset.of(dataset), batch_size=batch_size, collate_fn=padded)


def predict_loader(dataset: Dataset[Any], batch_size: int, pad_token_id: int) -> DataLoader[tuple[int, Encoded]]:
    """Batches for prediction: each item once, items of similar length together, the longest first.

    Longest first shows at once whether memory suffices; `Batch.index` restores the order of the data set.
    `PosteriorPredictive` cuts each batch again into forwards: a larger batch leaves it more choice.
    """
    dataset = EncodedDataset.of(dataset)
    lengths = _lengths(dataset)
    order = sorted(range(len(dataset)), key=lambda i: -lengths[i])
    padded = partial(collate, pad_token_id=pad_token_id)
    return DataLoader(dataset, batch_sampler=_cut(order, batch_size), collate_fn=padded)


def _lengths(dataset: EncodedDataset) -> list[int]:
    return [len(item.input_ids) for item in dataset.items]


def batches_of(data: Any) -> Iterator[Batch]:
    """A batch alone, or each of an iterable of them; mappings as `Batch.of` takes them.

    Raises:
        DataError: as `Batch.of`.
    """
    if isinstance(data, Batch | Mapping | str) or not isinstance(data, Iterable):
        yield Batch.of(data)
        return
    for batch in data:
        yield Batch.of(batch)


def only_batch(data: Any) -> Batch | None:
    """The batch where there is one alone, for guides that set themselves up on it."""
    return Batch.of(data) if isinstance(data, Batch | Mapping) else None


def num_items(data: Batch | Iterable[Batch]) -> int | None:
    """How many items there are in all batches; None where that cannot be known before they are made."""
    if isinstance(data, Batch | Mapping):
        return len(Batch.of(data))
    if isinstance(data, DataLoader):
        return len(data.dataset) if isinstance(data.dataset, Sized) else None
    return sum(len(batch) for batch in batches_of(data)) if isinstance(data, Sequence) else None


def tell_of_order(data: Batch | Iterable[Batch], has_index: bool) -> None:
    """Warn where a loader gives the items in another order and its batches do not say which they hold.

    Args:
        data: what was predicted.
        has_index: whether every batch had an index.
    """
    if has_index or not isinstance(data, DataLoader) or _is_in_order(data):
        return
    warnings.warn(
        "the loader shuffles and its batches have no index: the predictions come in the order in which it gave the "
        "items; take one that does not shuffle, or give each Batch its index",
        stacklevel=4,
    )


def _is_in_order(loader: DataLoader[Any]) -> bool:
    batches: Any = loader.batch_sampler
    if batches is not None and type(batches) is not BatchSampler:
        return isinstance(batches, list | tuple) and _ascends([place for batch in batches for place in batch])
    sampler: Any = loader.sampler if batches is None else batches.sampler
    if isinstance(sampler, Sequence | np.ndarray | Tensor):
        return _ascends(sampler)
    shuffles = isinstance(sampler, RandomSampler | SubsetRandomSampler | WeightedRandomSampler)
    return not shuffles and not getattr(sampler, "shuffle", False)  # torch's DistributedSampler has it


def _ascends(places: Any) -> bool:
    """Whether positions ascend; keys of a mapping have no order to keep."""
    try:
        found = [operator.index(place) for place in places]
    except TypeError:
        return True
    return found == sorted(found)
