"""In which order predictions come: of an index where there is one; a loader that shuffles without one is told."""

from __future__ import annotations

import functools
import random
import warnings
from typing import Any

import pytest
import torch
from cases import MODELS, make_batch
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

import blob_pyro as bp

WHOLE = make_batch((5, 7, 3, 6, 4, 7, 2, 5))


def picked(rows: list[int], with_index: bool) -> bp.Batch:
    at = torch.tensor(rows)
    return bp.Batch(WHOLE.input_ids[at], WHOLE.attention_mask[at], WHOLE.labels[at], index=at if with_index else None)


def loader(with_index: bool, **settings: Any) -> DataLoader:
    return DataLoader(list(range(8)), collate_fn=functools.partial(picked, with_index=with_index), **settings)


def in_file_order() -> tuple[bp.PosteriorPredictive, bp.Predictions]:
    predictive = bp.PosteriorPredictive(*_blob(), num_samples=0)
    return predictive, predictive(WHOLE)


@functools.cache
def _blob() -> tuple[bp.BayesianLoRA, bp.BLoBGuide]:
    model = MODELS["llama"]()
    return model, bp.BLoBGuide(model)


SHUFFLING = {
    "shuffle": lambda: {"shuffle": True, "batch_size": 3},
    "one at a time": lambda: {"shuffle": True},
    "random": lambda: {"sampler": RandomSampler(range(8)), "batch_size": 3},
    "subset": lambda: {"sampler": SubsetRandomSampler(range(8)), "batch_size": 3},
    "weighted": lambda: {"sampler": WeightedRandomSampler([1.0] * 8, 8), "batch_size": 3},
    "a list": lambda: {"sampler": [3, 1, 2, 0, 7, 6, 5, 4], "batch_size": 3},
    "a tensor": lambda: {"sampler": torch.tensor([3, 1, 2, 0, 7, 6, 5, 4]), "batch_size": 3},
    "a list, one at a time": lambda: {"sampler": [3, 1, 2, 0, 7, 6, 5, 4]},
    "a list of batches": lambda: {"batch_sampler": [[3, 1, 0, 2], [4, 5, 6, 7]]},
    "batches of a list": lambda: {"batch_sampler": BatchSampler([0, 1, 2, 3, 5, 4, 6, 7], 3, False)},
    "of several processes": lambda: {"sampler": DistributedSampler(range(8), 1, 0), "batch_size": 3},
    "own batches": lambda: {"batch_sampler": bp.data.LengthGroupedBatchSampler([1] * 8, 3, torch.Generator())},
}


@pytest.mark.parametrize("kind", SHUFFLING)
def test_a_shuffling_loader_is_put_in_order_by_an_index_and_told_without_one(kind):
    predictive, expected = in_file_order()
    found = predictive(loader(True, **SHUFFLING[kind]()))
    rows = found.index
    assert torch.equal(rows, rows.sort().values) and (kind == "weighted" or rows.tolist() == list(range(8)))
    torch.testing.assert_close(found.probs, expected.probs[rows])
    assert torch.equal(found.labels, expected.labels[rows])
    torch.manual_seed(3)
    with pytest.warns(UserWarning, match="the loader shuffles and its batches have no index: the predictions come in"):
        assert predictive(loader(False, **SHUFFLING[kind]())).index is None


def test_nothing_is_told_of_loaders_in_order():
    predictive, expected = in_file_order()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for data in (
            loader(False, batch_size=3),
            loader(False, batch_sampler=[[0, 1, 2], [3, 4, 5, 6, 7]]),
            loader(False, sampler=list(range(8)), batch_size=3),
            loader(False, sampler=DistributedSampler(range(8), 1, 0, shuffle=False), batch_size=3),
            [picked([0, 1, 2, 3, 4], False), picked([5, 6, 7], False)],
        ):
            found = predictive(data)
            torch.testing.assert_close(found.probs, expected.probs)
            assert found.index is None


@pytest.mark.parametrize("form", [list, torch.tensor])
def test_the_index_of_a_mapping_is_one(form):
    predictive, expected = in_file_order()
    names = ("input_ids", "attention_mask", "labels")
    batches = [
        {name: getattr(WHOLE, name)[rows] for name in names} | {"index": form(rows)} for rows in ([6, 0, 3], [5, 2])
    ]
    found = predictive(batches)
    assert found.index.tolist() == [0, 2, 3, 5, 6]
    assert torch.equal(found.labels, WHOLE.labels[found.index])
    torch.testing.assert_close(found.probs, expected.probs[found.index])


def test_an_index_stays_with_its_predictions():
    predictive, _ = in_file_order()
    found = predictive([picked([6, 1], True), picked([4], True)])
    assert found.index.tolist() == [1, 4, 6]
    assert bp.fit_temperature(found)(found).index.tolist() == found.first_draws(1).index.tolist() == [1, 4, 6]
    with pytest.raises(ValueError, match=r"expected index of shape \(3,\); got \(2,\)"):
        bp.Predictions(found.probs, found.draws, index=torch.tensor([0, 1]))


def test_tokens_of_some_items_of_a_data_set_are_theirs_in_order():
    """Items 2 and 7 alone, the latter first: as many texts as there are."""
    model = MODELS["llama"]()
    model = bp.BayesianLoRA(model.network, bp.CausalLM(), num_data=8)
    predictive = bp.TokenPredictive(model, bp.BLoBGuide(model), num_samples=0)

    def tokens(rows: list[int], with_index: bool) -> bp.Batch:
        batch = picked(rows, with_index)
        return bp.Batch(batch.input_ids, batch.attention_mask, index=batch.index)

    whole = predictive(tokens(list(range(8)), True)).sequence_log_probs()
    some = predictive([tokens([7], True), tokens([2], True)])
    assert some.num_items == 2
    torch.testing.assert_close(some.sequence_log_probs(), whole[:, [2, 7]])
    random.seed(1)
    shuffled = DataLoader(list(range(8)), shuffle=True, batch_size=3, collate_fn=lambda rows: tokens(rows, False))
    with pytest.warns(UserWarning, match="the loader shuffles"):
        predictive(shuffled)
