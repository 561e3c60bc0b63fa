"""The partition of a batch into forwards: exact, against a twin that tries every partition there is."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator

import pytest

from blob_pyro.data import partition
from blob_pyro.data.batches.partition import FORWARD_TOKENS, draws_per_forward


def every_partition(items: list[int]) -> Iterator[list[list[int]]]:
    """All ways to put items into groups."""
    if not items:
        yield []
        return
    first, *rest = items
    for groups in every_partition(rest):
        yield [[first], *groups]
        for i in range(len(groups)):
            yield [*groups[:i], [first, *groups[i]], *groups[i + 1 :]]


def forwards_of(lengths: list[int], groups: list[list[int]], max_tokens: int, num_draws: int) -> Iterator[int]:
    """Padded tokens of every forward, one draw added to a forward at a time."""
    for group in groups:
        tokens = len(group) * max(lengths[i] for i in group)
        filled = 0
        for _ in range(num_draws):
            if filled and filled + tokens > max_tokens:
                yield filled
                filled = 0
            filled += tokens
        yield filled


def cost(lengths: list[int], groups: list[list[int]], max_tokens: int, num_draws: int, forward_tokens: int) -> float:
    """Tokens and forwards; infinite where items that do not fit together share a forward."""
    for group in groups:
        if len(group) > 1 and len(group) * max(lengths[i] for i in group) > max_tokens:
            return math.inf
    return sum(forward_tokens + tokens for tokens in forwards_of(lengths, groups, max_tokens, num_draws))


@pytest.mark.parametrize("forward_tokens", [0, 5, FORWARD_TOKENS])
@pytest.mark.parametrize("num_draws", [1, 3, 10])
def test_no_partition_costs_less(num_draws: int, forward_tokens: int) -> None:
    rng = random.Random(num_draws + forward_tokens)
    for _ in range(30):
        lengths = [rng.randrange(1, rng.choice([4, 40, 200])) for _ in range(rng.randrange(1, 7))]
        max_tokens = rng.choice([1, 10, 60, 200, 1000, 10**6])
        found = partition(lengths, max_tokens, num_draws=num_draws, forward_tokens=forward_tokens)
        every = every_partition(list(range(len(lengths))))
        least = min(cost(lengths, groups, max_tokens, num_draws, forward_tokens) for groups in every)
        assert cost(lengths, found, max_tokens, num_draws, forward_tokens) == least


@pytest.mark.parametrize("max_tokens", [1, 50, 1536, 10**9])
def test_every_item_is_in_one_group_and_the_longest_come_first(max_tokens: int) -> None:
    rng = random.Random(max_tokens)
    lengths = [rng.randrange(0, 300) for _ in range(64)]
    groups = partition(lengths, max_tokens, num_draws=10)
    assert sorted(i for group in groups for i in group) == list(range(64))
    assert all(group == sorted(group) for group in groups)
    widths = [max(lengths[i] for i in group) for group in groups]
    assert widths == sorted(widths, reverse=True)
    assert all(len(group) == 1 or len(group) * width <= max_tokens for group, width in zip(groups, widths, strict=True))


def test_small_cases() -> None:
    assert partition([], 100) == []
    assert partition([7], 100) == [[0]]
    assert partition([7], 1) == [[0]]
    assert partition([0], 100) == [[0]]
    assert partition([9, 5, 7], 1, num_draws=4) == [[0], [2], [1]]
    assert [len(group) for group in partition([10] * 6, 20)] == [2, 2, 2]
    assert partition([10] * 6, 60, forward_tokens=0) == [[0, 1, 2, 3, 4, 5]]


def test_draws_fill_a_forward_and_at_least_one_runs() -> None:
    assert draws_per_forward(4, 7, max_tokens=112) == 4
    assert draws_per_forward(4, 7, max_tokens=111) == 3
    assert draws_per_forward(4, 7, max_tokens=1) == 1
