"""Loaders: every item once, an order that the seed decides, less padding."""

from __future__ import annotations

import random

import pytest
import torch
from torch.utils.data import ConcatDataset, DataLoader, Subset, random_split

from blob_pyro.data import (
    Encoded,
    EncodedDataset,
    Example,
    LengthGroupedBatchSampler,
    ordered_loader,
    predict_loader,
    train_loader,
)
from blob_pyro.errors import DataError

GROUPED = pytest.mark.parametrize("grouped", [True, False])


def made(lengths: list[int]) -> EncodedDataset:
    """Item i has `lengths[i]` tokens i + 1 and label i."""
    items = tuple(Encoded((i + 1,) * length, i) for i, length in enumerate(lengths))
    return EncodedDataset(examples=(), items=items, truncated=0)


def varied(count: int) -> list[int]:
    """Lengths of 5 to 100 tokens, most of them short."""
    rng = random.Random(count)
    return [5 + int(95 * rng.random() ** 3) for _ in range(count)]


def batches_of(loader: DataLoader) -> list[list[int]]:
    """The positions in every batch of one epoch."""
    return [batch.index.tolist() for batch in loader]


def padded_tokens(loader: DataLoader) -> int:
    return sum(batch.input_ids.numel() for batch in loader)


@pytest.mark.parametrize("batch_size", [1, 4, 13, 50])
@pytest.mark.parametrize("count", [1, 13, 16, 203])
def test_loaders_give_every_item_exactly_once(batch_size, count):
    dataset = made(varied(count))
    loaders = [train_loader(dataset, batch_size, 0, seed=3, group_by_length=grouped) for grouped in (True, False)]
    for loader in (*loaders, predict_loader(dataset, batch_size, 0)):
        for _ in range(3):
            batches = list(loader)
            assert len(batches) == len(loader) == -(-count // batch_size)
            assert all(len(batch) == batch_size for batch in batches[:-1]), "only the last may be smaller"
            seen = {int(i): row[row > 0].tolist() for b in batches for i, row in zip(b.index, b.input_ids, strict=True)}
            assert sum(map(len, batches)) == count
            assert seen == {i: list(item.input_ids) for i, item in enumerate(dataset.items)}
            assert all(torch.equal(batch.labels, batch.index) for batch in batches)


@GROUPED
def test_the_training_order_depends_on_the_seed_alone_and_changes_from_epoch_to_epoch(grouped):
    dataset = made(varied(50))

    def epochs(seed: int) -> list[list[list[int]]]:
        loader = train_loader(dataset, 4, 0, seed, group_by_length=grouped)
        return [batches_of(loader) for _ in range(3)]

    torch.manual_seed(1)
    first = epochs(seed=5)
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert epochs(seed=5) == first
    assert torch.equal(torch.get_rng_state(), state), "a loader must not draw from the global generator"
    assert epochs(seed=6)[0] != first[0]
    assert len({str(epoch) for epoch in first}) == 3
    company = {str(sorted(map(sorted, epoch))) for epoch in first}
    assert len(company) == 3, "the same items must not share a batch at every epoch"


@GROUPED
def test_the_state_of_its_generator_at_the_start_of_an_epoch_decides_that_epoch(grouped):
    dataset = made(varied(50))
    loader = train_loader(dataset, 4, 0, seed=5, group_by_length=grouped)
    batches_of(loader)
    state = loader.generator.get_state()
    second = batches_of(loader)
    other = train_loader(dataset, 4, 0, seed=99, group_by_length=grouped)
    other.generator.set_state(state)
    assert batches_of(other) == second


@pytest.mark.parametrize("batch_size", [2, 4, 8])
def test_grouping_saves_padding_at_every_epoch(batch_size):
    """Counted on 400 items, 5 epochs: more than half of the padding goes."""
    dataset = made(varied(400))
    real = sum(varied(400))
    for seed in range(5):
        grouped = padded_tokens(train_loader(dataset, batch_size, 0, seed)) - real
        plain = padded_tokens(train_loader(dataset, batch_size, 0, seed, group_by_length=False)) - real
        assert 0 < grouped < plain / 2


def test_long_and_short_batches_come_in_random_order():
    """The mean place of the longest tenth over 200 epochs is within 5 standard errors of the middle."""
    lengths = varied(200)
    longest = set(sorted(range(200), key=lambda i: -lengths[i])[:20])
    sampler = LengthGroupedBatchSampler(lengths, 4, torch.Generator().manual_seed(0))
    places = torch.tensor(
        [sum(p for p, batch in enumerate(sampler) for i in batch if i in longest) / 20 for _ in range(200)]
    )
    error = float(places.std()) / 200**0.5
    assert abs(float(places.mean()) - 49 / 2) < 5 * error < 3


def test_the_smaller_last_batch_has_nothing_to_do_with_length():
    """Its items' mean length over 400 epochs is within 5 standard errors of that of all items."""
    lengths = varied(203)
    sampler = LengthGroupedBatchSampler(lengths, 4, torch.Generator().manual_seed(0))
    last = [list(sampler)[-1] for _ in range(400)]
    assert {len(batch) for batch in last} == {3}
    means = torch.tensor([sum(lengths[i] for i in batch) / 3 for batch in last])
    assert abs(float(means.mean()) - sum(lengths) / 203) < 5 * float(means.std()) / 400**0.5


def test_a_sampler_says_what_a_batch_sampler_says():
    sampler = LengthGroupedBatchSampler([3] * 10, 4, torch.Generator())
    assert (len(sampler), sampler.batch_size, sampler.drop_last) == (3, 4, False)


def test_without_grouping_the_order_is_torchs_own_shuffle():
    dataset = made(varied(30))
    found = batches_of(train_loader(dataset, 4, 0, seed=7, group_by_length=False))
    plain = DataLoader(range(30), 4, shuffle=True, generator=torch.Generator().manual_seed(7))
    assert found == [batch.tolist() for batch in plain]


def test_no_items():
    assert list(predict_loader(made([]), 4, 0)) == []
    with pytest.raises(DataError, match="expected at least one item to train on; got none"):
        train_loader(made([]), 4, 0, seed=0)


def test_prediction_batches_hold_items_of_similar_length_longest_first():
    lengths = [3, 9, 1, 7, 9, 2, 5]
    widths = [batch.attention_mask.sum(1).tolist() for batch in predict_loader(made(lengths), 3, 0)]
    assert [width for batch in widths for width in batch] == sorted(lengths, reverse=True)


# --- parts of a data set ---


def some_items(count: int) -> EncodedDataset:
    examples = tuple(Example(f"item {i}", i % 2, f"line {i}") for i in range(count))
    return EncodedDataset(examples, tuple(Encoded((5,) * (i + 1), i % 2) for i in range(count)), truncated=0)


def test_slices_subsets_and_joins_of_items_are_items():
    items = some_items(7)
    assert items[2:5] == items.select([2, 3, 4]) and items[::-2] == items.select([6, 4, 2, 0]) and items[-1][0] == 6
    assert len(items[9:]) == 0 and list(items[1:3]) == [(0, items.items[1]), (1, items.items[2])]
    subset = Subset(Subset(items, [6, 1, 4, 2]), [3, 0])
    joined = ConcatDataset([subset, items[:1]])
    for made, rows in ((items[1:4], [1, 2, 3]), (subset, [2, 6]), (joined, [2, 6, 0])):
        expected = items.select(rows)
        for load in (train_loader, predict_loader, ordered_loader):
            more = {"seed": 3} if load is train_loader else {}
            batches, twins = (list(load(part, 2, 0, **more)) for part in (made, expected))
            assert [batch.index.tolist() for batch in batches] == [batch.index.tolist() for batch in twins]
            for batch, twin in zip(batches, twins, strict=True):
                assert torch.equal(batch.input_ids, twin.input_ids) and torch.equal(batch.labels, twin.labels)
    assert EncodedDataset.of(joined).examples == tuple(items.examples[row] for row in (2, 6, 0))


def test_a_random_split_is_predicted_in_its_own_order():
    parts = random_split(some_items(9), [5, 4], generator=torch.Generator().manual_seed(0))
    for part in parts:
        batches = list(predict_loader(part, 2, 0))
        lengths = torch.cat([batch.lengths for batch in batches])[
            torch.cat([batch.index for batch in batches]).argsort()
        ]
        assert lengths.tolist() == [row + 1 for row in part.indices]


def test_what_is_no_data_set_of_items_is_said():
    with pytest.raises(TypeError, match="expected items as bp.encode makes them, .* got list: encode the texts first"):
        predict_loader([1, 2], 2, 0)
