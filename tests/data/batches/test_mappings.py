"""Batches as tokenizers and collators of transformers make them: the same answers and steps as a `bp.Batch`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyro
import pytest
import torch
from cases import MODELS, make_batch, model_for, snapshot
from pyro.infer import SVI, Trace_ELBO
from transformers import BatchEncoding

import blob_pyro as bp
from blob_pyro.config.sections import TrainConfig
from blob_pyro.errors import DataError
from blob_pyro.guides import LaplaceGuide, TFBGuide

FORMS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "dict": dict,
    "BatchEncoding": BatchEncoding,
    "more in it": lambda fields: {**fields, "token_type_ids": torch.zeros(1), "text": ["a"]},
}


def as_mapping(form: str) -> Any:
    batch = make_batch()
    return FORMS[form]({"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels})


def fit(model: bp.BayesianLoRA, guide: Any, batch: Any) -> None:
    bp.fit(model, guide, [batch] * 3, TrainConfig(num_steps=3, batch_size=4, lr=1e-2), progress=False)


def svi(model: bp.BayesianLoRA, guide: Any, batch: Any) -> None:
    pyro.clear_param_store()
    SVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), Trace_ELBO()).step(batch)


STEPS: dict[str, Callable[[bp.BayesianLoRA, Any, Any], Any]] = {
    "step": lambda model, guide, batch: bp.BLoBSVI(model, guide, lr=1e-2, kl_lr=1e-3).step(batch),
    "fit": fit,
    "SVI": svi,
}
ANSWERS: dict[str, Callable[[bp.BayesianLoRA, Any, Any], torch.Tensor]] = {
    "predictive": lambda model, guide, batch: bp.PosteriorPredictive(model, guide, 2)(batch).probs,
    "in a list": lambda model, guide, batch: bp.PosteriorPredictive(model, guide, 2)([batch]).probs,
    "linearised": lambda model, guide, batch: bp.LinearisedPredictive(model, guide, 5)(batch).probs,
    "logits": lambda model, guide, batch: model.logits(batch).detach(),
}


def made() -> tuple[bp.BayesianLoRA, Any]:
    model = MODELS["llama"]()
    torch.manual_seed(0)
    return model, bp.BLoBGuide(model)


@pytest.mark.filterwarnings("ignore:kl_")
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("form", FORMS)
def test_they_train_alike(form: str, step: str) -> None:
    ends = []
    for batch in (make_batch(), as_mapping(form)):
        model, guide = made()
        torch.manual_seed(1)
        STEPS[step](model, guide, batch)
        ends.append(snapshot(model, guide))
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


@pytest.mark.parametrize("entry", ANSWERS)
@pytest.mark.parametrize("form", FORMS)
def test_they_are_answered_alike(form: str, entry: str) -> None:
    found = []
    for batch in (make_batch(), as_mapping(form)):
        model, guide = made()
        torch.manual_seed(1)
        found.append(ANSWERS[entry](model, guide, batch))
    assert torch.equal(*found)


@pytest.mark.parametrize("build", [LaplaceGuide, TFBGuide])
def test_they_fit_alike(build: type[Any]) -> None:
    found = []
    for batch in (make_batch(), as_mapping("BatchEncoding")):
        model = model_for("laplace" if build is LaplaceGuide else "tfb")
        guide = build(model).fit([batch])
        found.append([guide.scale(site) for site in model.sites])
    assert all(torch.equal(*scales) for scales in zip(*found, strict=True))


def test_a_mapping_without_a_mask_has_no_padding() -> None:
    model, _ = made()
    ids = torch.tensor([[5, 6, 7]])
    assert torch.equal(model.logits({"input_ids": ids}), model.logits(bp.Batch(ids, torch.ones_like(ids))))  # type: ignore[arg-type]


NONE_OF_THEM: dict[str, Any] = {
    "a text": "What a day",
    "texts": ["What a day"],
    "a tensor": torch.tensor([[5, 6]]),
    "lists of ids": {"input_ids": [[5, 6]], "attention_mask": [[1, 1]]},
    "one row": {"input_ids": torch.tensor([5, 6])},
    "no ids": {"labels": torch.tensor([1])},
    "a mask of another shape": {"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.tensor([[1]])},
    "a mask that is a list": {"input_ids": torch.tensor([[5, 6]]), "attention_mask": [[1, 1]]},
    "floats for ids": {"input_ids": torch.tensor([[5.0, 6.0]])},
    "small integers for ids": {"input_ids": torch.tensor([[5, 6]], dtype=torch.int16)},
    "a mask of floats": {"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.ones(1, 2)},
    "an index of floats": {"input_ids": torch.tensor([[5, 6]]), "index": torch.tensor([1.0])},
    "an index of words": {"input_ids": torch.tensor([[5, 6]]), "index": ["a"]},
    "an index of another size": {"input_ids": torch.tensor([[5, 6]]), "index": [1, 2]},
    "labels as lists": {"input_ids": torch.tensor([[5, 6]]), "labels": [1]},
    "None": None,
    "a number": 3,
}


@pytest.mark.parametrize("kind", NONE_OF_THEM)
@pytest.mark.parametrize("entry", [*STEPS, "predictive"])
def test_anything_else_is_one_line(entry: str, kind: str) -> None:
    model, guide = made()
    before = snapshot(model, guide)
    with pytest.raises(DataError, match="^batch: expected [^\n]*(\nTrace Shapes:|$)"):  # which Pyro writes below
        (STEPS | ANSWERS)[entry](model, guide, NONE_OF_THEM[kind])
    assert all(torch.equal(before[key], value) for key, value in snapshot(model, guide).items())


@pytest.mark.parametrize("entry", [*STEPS, *ANSWERS])
def test_an_item_without_a_token_is_one_line(entry: str) -> None:
    model, guide = made()
    before, batch = snapshot(model, guide), make_batch((4, 0, 3))
    with pytest.raises(DataError, match="attention_mask: expected a token in each item; got none in item 1"):
        (STEPS | ANSWERS)[entry](model, guide, batch)
    assert all(torch.equal(before[key], value) for key, value in snapshot(model, guide).items())


def test_a_mask_of_truths_is_one_of_numbers() -> None:
    model, _ = made()
    batch = make_batch()
    truths = bp.Batch(batch.input_ids, batch.attention_mask.bool())
    assert torch.equal(model.logits(truths), model.logits(batch))
