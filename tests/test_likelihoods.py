"""What each likelihood makes of a network's output, over the tables."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from cases import ANSWERS, LIKELIHOODS, MODELS, make_batch
from pyro.infer import TraceMeanField_ELBO

import blob_pyro as bp
from blob_pyro import likelihoods
from blob_pyro.errors import ConfigError, LabelError


def test_table_is_complete() -> None:
    assert LIKELIHOODS.keys() == likelihoods.LIKELIHOODS.keys()


@pytest.mark.parametrize("name", list(LIKELIHOODS))
def test_settings_make_it_again(name: str) -> None:
    likelihood = LIKELIHOODS[name]()
    settings = json.loads(json.dumps(likelihood.settings()))
    again = likelihoods.LIKELIHOODS[name](**settings)
    assert again.settings() == likelihood.settings()
    assert again.num_classes == likelihood.num_classes == 3


@pytest.mark.parametrize("name", list(LIKELIHOODS))
def test_label_law_is_softmax(name: str) -> None:
    logits = torch.randn(2, 5, 3)
    law = LIKELIHOODS[name]().label_law(logits)
    assert law.batch_shape == (2, 5)
    torch.testing.assert_close(law.probs, logits.softmax(-1))
    labels = torch.tensor([0, 2, 1, 1, 0])
    torch.testing.assert_close(law.log_prob(labels)[1, 1], logits[1, 1].log_softmax(-1)[2])


def test_class_order_is_that_of_the_tokens() -> None:
    model = MODELS["llama"]()
    batch = make_batch()
    logits = model.logits(batch)
    model.likelihood = likelihoods.MultipleChoice(torch.tensor(ANSWERS).flip(0))
    assert torch.equal(model.logits(batch), logits.flip(1))


@pytest.mark.parametrize("name", ["bert", "roberta", "llama_classifier"])
def test_classification_is_the_heads_output(name: str) -> None:
    """Item by item without padding."""
    model = MODELS[name]()
    batch = make_batch()
    with torch.no_grad():
        alone = [
            model.network(input_ids=ids[mask.bool()][None]).logits[0]
            for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)
        ]
        torch.testing.assert_close(model.logits(batch), torch.stack(alone), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("labels", [[0, 1, 2, 3], [0, -100, 1, 2]])
def test_labels_outside_the_classes_are_refused(labels: list[int]) -> None:
    model = MODELS["llama"]()
    batch = dataclasses.replace(make_batch(), labels=torch.tensor(labels))
    with pytest.raises(LabelError, match="expected labels from 0 to 2; got ") as caught:
        bp.BLoBSVI(model, bp.BLoBGuide(model)).step(batch)
    assert str(labels) in str(caught.value)
    with pytest.raises(LabelError, match="expected labels from 0 to 2; got "):
        TraceMeanField_ELBO().loss(model, bp.BLoBGuide(model), batch)


@pytest.mark.parametrize("token_ids", [[4], [4, 4], []])
def test_answers_must_differ(token_ids: list[int]) -> None:
    with pytest.raises(ConfigError, match="token_ids: expected at least two different token ids; got "):
        likelihoods.MultipleChoice(token_ids)


def test_one_class_is_refused() -> None:
    with pytest.raises(ConfigError, match="num_labels: expected at least 2; got 1"):
        likelihoods.SequenceClassification(1)
