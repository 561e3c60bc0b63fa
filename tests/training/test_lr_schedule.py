"""The learning-rate schedule is transformers' linear schedule with warm-up."""

from __future__ import annotations

import warnings

import pytest
import torch

from blob_pyro.training.lr_schedule import linear_warmup_decay


@pytest.mark.parametrize(
    ("num_steps", "num_warmup_steps"), [(100, 6), (10, 0), (7, 7), (5, 9), (1, 0), (20, 1.2), (9, 0.54)]
)
def test_equal_to_transformers(num_steps: int, num_warmup_steps: float) -> None:
    transformers = pytest.importorskip("transformers")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = transformers.get_linear_schedule_with_warmup(optimizer, num_warmup_steps, num_steps)
    for step in range(num_steps + 3):
        assert linear_warmup_decay(step, num_steps, num_warmup_steps) == scheduler.get_last_lr()[0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # no gradient was ever computed here
            optimizer.step()
            scheduler.step()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 10, 2), "expected a step of at least 0; got -1"),
        ((0, 0, 0), "expected num_steps of at least 1 and num_warmup_steps of at least 0; got 0 and 0"),
        ((0, 10, -2), "got 10 and -2"),
    ],
)
def test_counts_that_cannot_be_are_refused(arguments: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_warmup_decay(*arguments)
