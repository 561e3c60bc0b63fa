"""Training and validation items: counts met, groups kept together, nothing lost."""

import itertools
import random

import pytest

from blob_pyro.data.tasks.splitting import grouped, hold_out, shuffled
from blob_pyro.errors import DataError


def random_groups(seed: int) -> list[list[int]]:
    """40 to 60 items in groups of 1 to 4."""
    rng = random.Random(seed)
    ends = [0, *sorted(rng.sample(range(1, 40), 20)), rng.randrange(40, 61)]
    return [list(range(start, end)) for start, end in itertools.pairwise(ends)]


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("num_train", [None, 1, 12])
def test_every_item_is_in_one_part_and_no_group_is_on_both_sides(seed, num_train):
    groups = random_groups(seed)
    total = sum(map(len, groups))
    for num_validation in range(16):
        held = hold_out(groups, num_train, num_validation, "numbers")
        assert len(held.validation) == num_validation
        sides = [
            (not set(group).isdisjoint(held.train), not set(group).isdisjoint(held.validation)) for group in groups
        ]
        assert (True, True) not in sides
        parts = held.train + held.validation + held.left_out
        assert len(parts) == len(set(parts))
        if num_train is None:
            assert sorted(parts) == list(range(total))
            assert len(held.left_out) < max(map(len, groups))
        else:
            assert held.train == list(range(num_train)), "num_validation must not change the training items"


def test_items_without_groups_are_cut_from_both_ends():
    held = hold_out([[i] for i in range(10)], 3, 2, "numbers")
    assert (held.train, held.validation, held.left_out) == ([0, 1, 2], [8, 9], [])
    assert hold_out([[i] for i in range(10)], None, 2, "numbers").train == list(range(8))


def test_a_group_that_fits_is_preferred_to_one_that_must_be_cut():
    held = hold_out([[0], [1, 2], [3], [4, 5]], None, 1, "numbers")
    assert (held.train, held.validation, held.left_out) == ([0, 1, 2, 4, 5], [3], [])


@pytest.mark.parametrize(
    ("num_train", "num_validation", "message"),
    [
        (None, 6, "pairs: expected more than 6 items .data.num_validation.; got 6: lower the count"),
        (4, 3, "pairs: expected at least 4 items .data.num_train.; got 3: lower the count"),
        (3, 3, "pairs: expected 3 items .data.num_validation. that share no group with a training item; got 2: lower"),
        (None, 5, "pairs: expected at least 1 items .data.num_train.; got 0"),
    ],
)
def test_too_few_items_are_an_error(num_train, num_validation, message):
    with pytest.raises(DataError, match=message):
        hold_out([[0, 1], [2, 3], [4, 5]], num_train, num_validation, "pairs")


def test_the_seed_alone_decides_an_order():
    assert shuffled(range(50), 3) == shuffled(range(50), 3) != shuffled(range(50), 4)
    assert sorted(shuffled(range(50), 3)) == list(range(50))


def test_groups_keep_the_order_of_appearance():
    assert grouped([5, 3, 4, 1], ["x", "y", "x", "y"]) == [[5, 4], [3, 1]]
