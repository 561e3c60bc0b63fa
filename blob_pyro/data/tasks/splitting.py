"""Seeded orders, counts that must be met, and validation items whose group is kept out of training."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from blob_pyro.data.examples import Example
from blob_pyro.errors import DataError

T = TypeVar("T")


@dataclass(frozen=True)
class HeldOut(Generic[T]):
    """Training and validation items.

    Attributes:
        train: the first num_train items, or all that validation leaves.
        validation: num_validation items from the back.
        left_out: items that are not trained on because others of their group are validation items.
    """

    train: list[T]
    validation: list[T]
    left_out: list[T]


def shuffled(items: Sequence[T], seed: int) -> list[T]:
    """The items in an order that depends on the seed alone."""
    return random.Random(seed).sample(items, len(items))


def take(items: list[T], count: int | None, name: str, source: str) -> list[T]:
    """The first `count` items; asking for more than there are is an error, not a smaller set.

    Args:
        items: what there is.
        count: how many; None takes all, and at least one.
        name: the setting that holds the count, for the message.
        source: what the items are of, for the message.

    Raises:
        DataError: there are fewer.
    """
    if len(items) < (count or 1):
        raise DataError(f"{source}: expected at least {count or 1} items ({name}); got {len(items)}: lower the count")
    return items[:count]


def grouped(items: Sequence[T], keys: Sequence[Hashable]) -> list[list[T]]:
    """The items of each key, keys and items in order of appearance.

    Example:
        >>> grouped("abcd", [1, 2, 1, 3])
        [['a', 'c'], ['b'], ['d']]
    """
    groups: dict[Hashable, list[T]] = {}
    for item, key in zip(items, keys, strict=True):
        groups.setdefault(key, []).append(item)
    return list(groups.values())


def with_groups(examples: Sequence[Example], keys: Sequence[Hashable]) -> list[Example]:
    """The examples, each with its group; None for none."""
    return [dataclasses.replace(example, group=key) for example, key in zip(examples, keys, strict=True)]


def hold_out(groups: Sequence[Sequence[T]], num_train: int | None, num_validation: int, source: str) -> HeldOut[T]:
    """Training items from the front, validation items from the back, and no group on both sides.

    Validation takes whole groups, from the back, as they fit. What it still lacks then comes from the rearmost group
    that did not fit, whose other items are used nowhere. Where `num_train` is given, `num_validation` does not change
    which the training items are.

    Args:
        groups: the items in order, those that belong together as one group.
        num_train: how many to train on; None takes all that are left.
        num_validation: how many to hold out.
        source: what the items are of, for messages.

    Raises:
        DataError: there are too few.

    Example:
        >>> hold_out([["a", "a2"], ["b"], ["c", "c2"]], None, 2, "letters")
        HeldOut(train=['a', 'a2', 'b'], validation=['c', 'c2'], left_out=[])
        >>> hold_out([["a", "a2"], ["c", "c2"]], None, 1, "letters")
        HeldOut(train=['a', 'a2'], validation=['c2'], left_out=['c'])
    """
    everything = [item for group in groups for item in group]
    spare = len(everything) - num_validation
    if num_validation and spare < 1:
        raise DataError(
            f"{source}: expected more than {num_validation} items (data.num_validation); got {len(everything)}: "
            "lower the count"
        )
    train = take(everything[:spare], num_train, "data.num_train", source)
    first = 0 if num_train is None else _groups_of(groups, num_train)
    held, missing = _fitting(groups, first, num_validation)
    validation = [item for i in sorted(held) for item in groups[i]]
    left_out: list[T] = []
    if missing:
        cut = max(set(range(first, len(groups))) - held, default=None)
        if cut is None:
            raise _no_more_groups(source, num_validation, len(validation))
        held.add(cut)
        left_out, taken = list(groups[cut][:-missing]), list(groups[cut][-missing:])
        validation = [*taken, *validation]
    if num_train is not None:
        return HeldOut(train, validation, [])
    train = [item for i, group in enumerate(groups) if i not in held for item in group]
    return HeldOut(take(train, None, "data.num_train", source), validation, left_out)


def _groups_of(groups: Sequence[Sequence[T]], count: int) -> int:
    """How many groups the first `count` items are of."""
    ends = itertools.accumulate(map(len, groups))
    return 1 + sum(end < count for end in ends)


def _fitting(groups: Sequence[Sequence[T]], first: int, count: int) -> tuple[set[int], int]:
    """Groups from `first` on, taken from the back as they fit into `count` items, and how many items are missing."""
    taken = set[int]()
    for i in reversed(range(first, len(groups))):
        if len(groups[i]) <= count:
            taken.add(i)
            count -= len(groups[i])
    return taken, count


def _no_more_groups(source: str, num_validation: int, found: int) -> DataError:
    return DataError(
        f"{source}: expected {num_validation} items (data.num_validation) that share no group with a training item; "
        f"got {found}: lower the count"
    )
