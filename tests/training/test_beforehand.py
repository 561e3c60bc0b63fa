"""What a model cannot learn is told before the first step where the loader can be looked at: nothing has moved."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from cases import MODELS, make_batch, snapshot

import blob_pyro as bp
from blob_pyro.config.sections import TrainConfig
from blob_pyro.data import Encoded, EncodedDataset
from blob_pyro.errors import BlobPyroError, DataError, LabelError

GOOD = make_batch()
STRANGE = GOOD.input_ids.clone().index_fill_(0, torch.tensor([1]), 200)
ODD: dict[str, tuple[dict[str, Any], type[BlobPyroError], str]] = {
    "an id": ({"input_ids": STRANGE}, DataError, "expected token ids from 0 to 95"),
    "a label": ({"labels": torch.tensor([0, 1, 3, 0])}, LabelError, "3"),
    "an empty item": (
        {"attention_mask": GOOD.attention_mask * torch.tensor([[1], [0], [1], [1]])},
        DataError,
        "item 1",
    ),
}


def fit(loader: Any, num_steps: int) -> tuple[Any, bool]:
    """What was raised, and whether anything has moved."""
    model = MODELS["llama"]()
    guide = bp.BLoBGuide(model)
    before, raised = snapshot(model, guide), None
    try:
        bp.fit(model, guide, loader, TrainConfig(num_steps=num_steps, batch_size=4, lr=1e-2), progress=False)
    except BlobPyroError as error:
        raised = error
    return raised, not all(torch.equal(before[key], value) for key, value in snapshot(model, guide).items())


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("form", [list, tuple])
def test_the_third_of_a_list_of_batches(form: Any, kind: str) -> None:
    changes, error, message = ODD[kind]
    odd = dataclasses.replace(GOOD, **changes)
    raised, moved = fit(form([GOOD, vars(GOOD), odd]), 6)
    assert isinstance(raised, error) and message in str(raised) and not moved
    assert fit(form([GOOD, GOOD, odd]), 2) == (None, True)  # which never comes to it


def test_an_item_of_an_encoded_data_set() -> None:
    items = [Encoded((5, 6, 7), 0)] * 39 + [Encoded((5, 200), 1)]
    raised, moved = fit(bp.train_loader(EncodedDataset((), tuple(items), 0), 4, 0, seed=0), 20)
    assert isinstance(raised, DataError) and "got 200" in str(raised) and not moved
