"""What each likelihood makes of a network's output, over the tables."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from cases import ANSWERS, CLASS_LIKELIHOODS, LIKELIHOODS, MODELS, make_batch
from pyro.infer import TraceMeanField_ELBO

import blob_pyro as bp
from blob_pyro.errors import ConfigError, LabelError
from blob_pyro.model import likelihoods
from blob_pyro.training.elbo import negative_log_likelihood


def test_table_is_complete() -> None:
    assert LIKELIHOODS.keys() == likelihoods.LIKELIHOODS.keys()


@pytest.mark.parametrize("name", CLASS_LIKELIHOODS)
def test_settings_make_it_again(name: str) -> None:
    likelihood = LIKELIHOODS[name]()
    settings = json.loads(json.dumps(likelihood.settings()))
    again = likelihoods.LIKELIHOODS[name](**settings)
    assert again.settings() == likelihood.settings()
    assert again.num_classes == likelihood.num_classes == 3


@pytest.mark.parametrize("name", CLASS_LIKELIHOODS)
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


@pytest.mark.parametrize("name", CLASS_LIKELIHOODS)
def test_options_are_kept_checked_and_trained_with(name: str) -> None:
    """`negative_log_likelihood` is torch's cross-entropy under them, in the mean over items."""
    plain = LIKELIHOODS[name]()
    options: dict[str, Any] = {"label_smoothing": 0.2, "class_weights": [0.5, 1.0, 2.0]}
    build = likelihoods.LIKELIHOODS[name]
    assert build(**plain.settings(), **options).settings() == plain.settings() | options
    for wrong, message in (
        ({"label_smoothing": 1.0}, "label_smoothing: "),
        ({"class_weights": [1.0]}, "class_weights: "),
    ):
        with pytest.raises(ConfigError, match=message):
            build(**plain.settings(), **wrong)
    model = MODELS["bert" if name == "SequenceClassification" else "llama"]()
    model.likelihood, batch = build(**plain.settings(), **options), make_batch()
    weights = torch.tensor(options["class_weights"])
    losses = F.cross_entropy(model.logits(batch), batch.labels, weights, label_smoothing=0.2, reduction="none")
    found = negative_log_likelihood(model, bp.MLEGuide(model), batch)
    torch.testing.assert_close(found, losses.mean())


@pytest.mark.parametrize("guide", ["BLoBGuide", "MLEGuide"])
def test_shares_train_and_predict(guide: str) -> None:
    """Shares of one class are that class; other shares pull towards themselves; the largest one is scored."""
    model, batch = MODELS["llama"](), make_batch()
    q = getattr(bp.guides, guide)(model)
    hard = dataclasses.replace(batch, labels=F.one_hot(batch.labels, 3).float())
    torch.manual_seed(0)
    expected = negative_log_likelihood(model, q, batch)
    torch.manual_seed(0)
    torch.testing.assert_close(negative_log_likelihood(model, q, hard), expected)
    shares = torch.tensor([[0.6, 0.4, 0.0]]).repeat(len(batch), 1)
    soft = dataclasses.replace(batch, labels=shares)
    bp.fit(model, q, [soft], bp.TrainConfig(num_steps=60, lr=3e-2, kl_lr=1e-4), progress=False)
    found = bp.PosteriorPredictive(model, q, num_samples=0)(soft)
    torch.testing.assert_close(found.probs, shares, atol=0.1, rtol=0)
    assert found.labels is not None and found.labels.tolist() == [0] * len(batch)
    assert soft.select([1, 0]).labels.shape == (2, 3) and soft.repeat(2).labels.shape == (2 * len(batch), 3)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        (torch.ones(4, 2) / 2, r"expected shares of shape \(B, 3\); got \(4, 2\)"),
        (torch.ones(4, 3), r"expected shares of at least 0 that sum to 1; got \[1.0, 1.0, 1.0\] for item 0"),
        (torch.tensor([[0.5, 0.5, 0], [2, -1, 0], [1, 0, 0], [1, 0, 0]]), r"got \[2.0, -1.0, 0.0\] for item 1"),
        (torch.full((4, 3), float("nan")), "expected shares of at least 0 that sum to 1"),
    ],
)
def test_shares_that_are_none_are_refused(shares: torch.Tensor, message: str) -> None:
    model = MODELS["llama"]()
    with pytest.raises(LabelError, match=message):
        bp.BLoBSVI(model, bp.BLoBGuide(model)).step(dataclasses.replace(make_batch(), labels=shares))


def test_laplace_refuses_class_weights() -> None:
    model = MODELS["llama_both"]()
    model.likelihood = likelihoods.MultipleChoice(ANSWERS, class_weights=[1, 2, 1])
    with pytest.raises(ConfigError, match=r"without class weights.*got \[1.0, 2.0, 1.0\]: leave them out"):
        bp.guides.LaplaceGuide(model)
