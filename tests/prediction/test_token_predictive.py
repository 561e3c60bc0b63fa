"""`CausalLM` and `TokenPredictive`: tokens of texts against one text, one draw at a time."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from typing import Any

import pyro
import pytest
import torch
from cases import MODELS, PLAIN, SHAPED, draw_all, make_batch
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor

import blob_pyro as bp
from blob_pyro.errors import ConfigError, DataError, LabelError
from blob_pyro.evaluation import evaluate_tokens
from blob_pyro.model.layers.drawn_linear import WeightDraw, hold
from blob_pyro.model.likelihoods.causal_lm import Targets
from blob_pyro.training.elbo import negative_log_likelihood

IGNORED = -100


def text_batch(side: str = "right", given: tuple[int, ...] = (3, 1, 6, 0)) -> bp.Batch:
    """Four texts of 7, 4, 6 and 3 tokens, of which the first `given` are not predicted."""
    batch = make_batch(side=side, labels=False)
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, IGNORED)
    for row, count in enumerate(given):
        real = batch.attention_mask[row].nonzero()[:count, 0]
        labels[row, real] = IGNORED
    return dataclasses.replace(batch, labels=labels)


def language_model(name: str = "llama", **options: Any) -> bp.BayesianLoRA:
    model = (MODELS | PLAIN | SHAPED)[name]()
    model.likelihood = bp.CausalLM(**options)
    return model


def naive(model: bp.BayesianLoRA, batch: bp.Batch, draws: dict[str, Tensor]) -> list[tuple[int, Tensor]]:
    """(item, (V,) next-token log-probabilities) of each predicted token, each text alone and without padding."""
    found = []
    with torch.no_grad(), hold({model._layers[site]: WeightDraw(value) for site, value in draws.items()}):
        for row in range(len(batch)):
            real = batch.attention_mask[row].bool()
            logits = model.network(input_ids=batch.input_ids[row][real][None]).logits[0].float()
            for place, label in enumerate(batch.labels[row][real].tolist()):  # type: ignore[index]
                if place and label != IGNORED:
                    found.append((row, logits[place - 1].log_softmax(-1)))
    return found


def labels_of(batch: bp.Batch) -> list[int]:
    """The predicted tokens in order."""
    found = []
    for row in range(len(batch)):
        real = batch.labels[row][batch.attention_mask[row].bool()].tolist()  # type: ignore[index]
        found += [label for label in real[1:] if label != IGNORED]
    return found


@pytest.mark.slow
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", [*PLAIN, *SHAPED, "llama_head"])
def test_the_nll_is_the_sum_over_a_texts_tokens(name: str, side: str) -> None:
    """In mean nats per text, and per token where tokens are counted; on every architecture."""
    batch, model = text_batch(side), language_model(name)
    tokens, twin = labels_of(batch), naive(model, batch, {})
    total = -sum(float(log_probs[token]) for (_, log_probs), token in zip(twin, tokens, strict=True))
    point = bp.MLEGuide(model)
    with torch.no_grad():
        per_text = negative_log_likelihood(model, point, batch)
        model.likelihood = bp.CausalLM(num_tokens=100)
        per_token = negative_log_likelihood(model, point, batch)
    assert float(per_text) == pytest.approx(total / len(batch), rel=1e-4)
    assert float(per_token) == pytest.approx(total / len(tokens), rel=1e-4)
    found = bp.TokenPredictive(model, point, num_samples=0)(batch)
    assert -float(found.log_probs.sum()) == pytest.approx(total, rel=1e-4)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.6])
@pytest.mark.parametrize("num_tokens", [None, 100])
def test_smoothing_is_that_of_torchs_cross_entropy(smoothing: float, num_tokens: int | None, side: str) -> None:
    """Summed over the predicted tokens, of which transformers' labels of -100 are none; and the gradient of B."""
    batch, model = text_batch(side), language_model(num_tokens=num_tokens, label_smoothing=smoothing)
    point = bp.MLEGuide(model)
    for name, parameter in model.point_parameters().items():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    nll = negative_log_likelihood(model, point, batch)
    right = batch.right_padded()
    logits = model.network(input_ids=right.input_ids, attention_mask=right.attention_mask).logits[:, :-1].float()
    loss = torch.nn.CrossEntropyLoss(label_smoothing=smoothing, reduction="sum", ignore_index=IGNORED)
    twin = loss(logits.flatten(0, 1), right.labels[:, 1:].flatten()) / (4 if num_tokens is None else 9)  # type: ignore[index]
    torch.testing.assert_close(nll, twin, rtol=1e-5, atol=1e-5)
    wanted = [p for name, p in model.point_parameters().items() if "lora_B" in name]
    for found, naive_one in zip(torch.autograd.grad(nll, wanted), torch.autograd.grad(twin, wanted), strict=True):
        torch.testing.assert_close(found, naive_one, rtol=1e-4, atol=1e-5)


def test_smoothing_leaves_predictions_as_they_are() -> None:
    model, batch = language_model(label_smoothing=0.5), text_batch()
    guide = bp.BLoBGuide(model)
    pyro.set_rng_seed(1)
    smoothed = bp.TokenPredictive(model, guide, 3)(batch)
    model.likelihood = bp.CausalLM()
    pyro.set_rng_seed(1)
    assert torch.equal(bp.TokenPredictive(model, guide, 3)(batch).log_probs, smoothed.log_probs)


def test_targets_are_the_tokens_that_are_predicted() -> None:
    """The first one of a text never is; texts with fewer are filled up."""
    batch = text_batch()
    targets = Targets.of(batch)
    assert targets.mask.sum(1).tolist() == [4, 3, 0, 2]
    assert targets.tokens[targets.mask].tolist() == labels_of(batch)
    assert targets.positions[0].tolist() == [2, 3, 4, 5]
    whole = Targets.of(make_batch(labels=False))
    assert whole.mask.sum(1).tolist() == [6, 3, 5, 2]


@pytest.mark.parametrize("side", ["right", "left"])
def test_a_batch_that_goes_to_a_device_knows_how_many_tokens_it_predicts(side: str) -> None:
    """The first token of a text is none of them. What is made of the batch with other labels is counted anew."""
    batch = text_batch(side)
    counts = [4, 3, 0, 2]
    there = batch.to("meta")  # on which nothing can be counted
    assert batch.num_predicted == there.num_predicted == there.to("meta").num_predicted == counts
    assert there.right_padded().repeat(3).num_predicted == 3 * counts
    assert batch.to("cpu").select([3, 0]).num_predicted == [2, 4]
    assert bp.CausalLM(num_tokens=9).count(there) == 9 == bp.CausalLM(num_tokens=9).count(batch)
    assert Targets.of(there).tokens.shape == (4, 4) and Targets.of(there).counts == counts
    assert dataclasses.replace(batch.to("cpu"), labels=None).num_predicted == [6, 3, 5, 2]
    assert make_batch(side=side, labels=False).to("meta").num_predicted == [6, 3, 5, 2]


@pytest.mark.parametrize("num_draws", [0, 1, 5])
@pytest.mark.parametrize("max_tokens", [None, 1])
def test_predictions_equal_a_loop_over_draws_and_texts(num_draws: int, max_tokens: int | None) -> None:
    model, batch = language_model(), text_batch("left")
    guide = bp.BLoBGuide(model, eps=0.6)
    predictive = bp.TokenPredictive(model, guide, num_draws, max_tokens=max_tokens)
    torch.manual_seed(1)
    draws = predictive._posterior.sample_draws()
    torch.manual_seed(1)
    found = predictive([batch.select([1, 3]), batch.select([2, 0])])
    loop = [naive(model, batch, draw or {}) for draw in draws]
    log_probs = torch.stack([torch.stack([row for _, row in one]) for one in loop])  # (S, M, V)
    assert found.items.tolist() == [item for item, _ in loop[0]]
    picked = log_probs[:, torch.arange(len(found)), torch.tensor(labels_of(batch))]
    torch.testing.assert_close(found.log_probs, picked, rtol=1e-4, atol=1e-4)
    mean = log_probs.exp().mean(0)
    entropy = -(mean * mean.log()).sum(-1)
    torch.testing.assert_close(found.entropy, entropy, rtol=1e-4, atol=1e-4)
    information = entropy + (log_probs.exp() * log_probs).sum(-1).mean(0)
    torch.testing.assert_close(found.mutual_information, information, rtol=1e-3, atol=1e-4)
    assert bool((found.mutual_information > 0).all()) == (num_draws > 1)
    for draw, item in itertools.product(range(len(draws)), range(4)):
        own = [float(row[token]) for (i, row), token in zip(loop[draw], labels_of(batch), strict=True) if i == item]
        assert float(found.sequence_log_probs()[draw, item]) == pytest.approx(sum(own), rel=1e-4, abs=1e-6)


def test_scores_against_a_loop() -> None:
    """Per token with the draws averaged at each, per text with whole texts averaged; errors by the jackknife's idea."""
    torch.manual_seed(0)
    log_probs, items = -3 * torch.rand(4, 9), torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2])
    found = evaluate_tokens(bp.TokenPredictions(log_probs, torch.rand(9), torch.rand(9), items, num_items=3))
    nlls = [-math.log(sum(math.exp(log_probs[s, t]) for s in range(4)) / 4) for t in range(9)]
    assert found.nll == pytest.approx(sum(nlls) / 9)
    assert found.perplexity == pytest.approx(math.exp(found.nll))
    texts = [[float(log_probs[s, items == i].sum()) for s in range(4)] for i in range(3)]
    assert found.sequence_nll == pytest.approx(-sum(math.log(sum(map(math.exp, one)) / 4) for one in texts) / 3)
    whole = [math.log(sum(map(math.exp, one)) / 4) for one in texts]
    assert found.sequence_nll_se == pytest.approx(statistics.stdev(whole) / math.sqrt(3))
    assert found.perplexity_se == pytest.approx(found.perplexity * found.nll_se)
    sums = [sum(nlls[t] - found.nll for t in range(9) if items[t] == i) for i in range(3)]
    assert found.nll_se == pytest.approx(math.sqrt(3 / 2 * sum(s * s for s in sums)) / 9)
    assert (found.num_tokens, found.num_items, found.num_samples) == (9, 3, 4)


@pytest.mark.parametrize(("num_tokens", "weight"), [(None, 40 / 4), (90, 90 / 9)])
def test_pyros_elbo_weighs_a_batch_as_stated(num_tokens: int | None, weight: float) -> None:
    """N / B of a text's nats, or num_tokens over the batch's 9 tokens; the KL counts once."""
    model, batch = language_model(num_tokens=num_tokens), text_batch()
    guide = bp.BLoBGuide(model)
    pyro.set_rng_seed(3)
    loss = TraceMeanField_ELBO().loss(model, guide, batch)
    pyro.set_rng_seed(3)
    with torch.no_grad():
        mean = float(negative_log_likelihood(model, guide, batch))
    count = 4 if num_tokens is None else 9
    assert loss == pytest.approx(weight * count * mean + float(guide.kl().detach()), rel=1e-5)
    svi = bp.BLoBSVI(model, guide, recipe="elbo")
    pyro.set_rng_seed(3)
    assert svi.step(batch).loss == pytest.approx(loss, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("num_tokens", [None, 9])
def test_training_learns_the_texts(num_tokens: int | None) -> None:
    """Flipout and all: the perplexity of the four texts falls to less than half of what it was."""
    model, batch = language_model(num_tokens=num_tokens), text_batch()
    guide = bp.BLoBGuide(model)
    before = bp.evaluate_tokens(bp.TokenPredictive(model, guide, 0)(batch))
    bp.fit(model, guide, [batch], bp.TrainConfig(num_steps=40, lr=2e-2, kl_lr=1e-4), progress=False)
    after = bp.evaluate_tokens(bp.TokenPredictive(model, guide, 4)(batch))
    assert after.perplexity < 0.5 * before.perplexity
    SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), TraceMeanField_ELBO()).step(batch)


def test_what_needs_classes_is_refused() -> None:
    model = language_model()
    guide = bp.BLoBGuide(model)
    with pytest.raises(ConfigError, match="PosteriorPredictive: expected a likelihood over classes, .*; got CausalLM"):
        bp.PosteriorPredictive(model, guide)(text_batch())
    with pytest.raises(ConfigError, match="LinearisedPredictive: expected a likelihood over classes"):
        bp.LinearisedPredictive(model, guide)(text_batch())
    with pytest.raises(ConfigError, match="guide tfb: expected a likelihood over classes"):
        bp.guides.TFBGuide(model)
    both = MODELS["llama_both"]()
    both.likelihood = bp.CausalLM()
    with pytest.raises(ConfigError, match="guide laplace: expected a likelihood over classes"):
        bp.guides.LaplaceGuide(both)
    classes = MODELS["llama"]()
    with pytest.raises(ConfigError, match="expected the likelihood CausalLM; got MultipleChoice; use PosteriorPred"):
        bp.TokenPredictive(classes, bp.BLoBGuide(classes))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(4, dtype=torch.long), r"expected token labels of shape \(B, T\), -100 where none; got \(4,\)"),
        (torch.full((4, 7), -7), "expected token ids, or -100 where a token is given; got -7"),
        (torch.full((4, 7), IGNORED), "expected a token to predict; got labels of -100 alone"),
        (torch.full((4, 7), 96), "expected token ids below 96; got 96"),
    ],
)
def test_labels_that_are_no_tokens_are_refused(labels: Tensor, message: str) -> None:
    model = language_model()
    with pytest.raises(LabelError, match=message):
        bp.BLoBSVI(model, bp.BLoBGuide(model)).step(dataclasses.replace(make_batch(), labels=labels))


def test_texts_without_a_token_to_predict_are_refused() -> None:
    model = language_model()
    with pytest.raises(DataError, match="expected at least one token to predict; got none"):
        bp.TokenPredictive(model, bp.BLoBGuide(model))(text_batch(given=(7, 4, 6, 3)))
    with pytest.raises(ConfigError, match="num_tokens: expected at least 1, or None; got 0"):
        bp.CausalLM(num_tokens=0)
    with pytest.raises(ConfigError, match=r"label_smoothing: expected a share in \[0, 1\); got 1"):
        bp.CausalLM(label_smoothing=1.0)


@pytest.mark.parametrize("options", [{}, {"num_tokens": 12}, {"label_smoothing": 0.2}])
def test_a_run_comes_back_with_its_likelihood(tmp_path, options) -> None:
    """Saved and loaded, a language model answers as before."""
    from cases import pretrained

    model = pretrained()
    model.likelihood = bp.CausalLM(**options)
    guide, batch = bp.BLoBGuide(model), text_batch()
    bp.save(tmp_path, model, guide)
    run = bp.load(tmp_path)
    assert isinstance(run.model.likelihood, bp.CausalLM)
    assert run.model.likelihood.settings() == {"num_tokens": None} | options
    found = [bp.TokenPredictive(m, g, 0)(batch).log_probs for m, g in ((model, guide), (run.model, run.guide))]
    assert torch.equal(*found)


def test_draws_beside_one_another_equal_one_at_a_time() -> None:
    """(S, B, L, V) logits of one forward."""
    model, batch = language_model(), text_batch()
    draws = draw_all(model, 3)
    with torch.no_grad():
        together = model.logits(batch, draws)
        alone = [model.logits(batch, {site: value[s] for site, value in draws.items()}) for s in range(3)]
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-5, atol=1e-5)
