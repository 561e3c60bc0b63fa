"""`PosteriorPredictive`: exactly N draws, no more forwards than needed, agreement with Pyro, nothing left changed."""

from __future__ import annotations

import math
from typing import Any

import pyro
import pytest
import torch
from cases import EVERY_GUIDE, KINDS, MODELS, held_draws, make_batch, model_for, snapshot
from laws import assert_equal_draws
from pyro.infer import Predictive

import blob_pyro as bp
from blob_pyro.data import Encoded, EncodedDataset
from blob_pyro.data.batches.partition import partition
from blob_pyro.errors import ConfigError, DataError
from blob_pyro.prediction.predictive import CPU_TOKENS


class Counted:
    """A guide that counts its calls; a plain Pyro guide as far as anyone can tell."""

    def __init__(self, guide: Any) -> None:
        self.guide, self.calls = guide, 0

    def __call__(self, batch: bp.Batch | None = None) -> Any:
        self.calls += 1
        return self.guide(batch)


def counted(model: bp.BayesianLoRA) -> list[int]:
    """Rows of every forward of the network from now on."""
    rows: list[int] = []
    backbone = model.network.get_input_embeddings()
    backbone.register_forward_hook(lambda module, inputs, output: rows.append(output.shape[0]))
    return rows


def blob(name: str = "llama", eps: float = 0.6) -> tuple[bp.BayesianLoRA, bp.BLoBGuide]:
    model = MODELS[name]()
    return model, bp.BLoBGuide(model, eps=eps)


@pytest.mark.parametrize(
    ("num_samples", "max_tokens", "rows"),
    [
        (10, None, [40]),
        (10, 280, [40]),
        (10, 112, [16, 16, 8]),
        (10, 7, [1] * 40),
        (10, 1, [1] * 40),
        (1, None, [4]),
        (3, 62, [8, 4]),
    ],
)
def test_number_of_draws_and_forwards(num_samples: int, max_tokens: int | None, rows: list[int]) -> None:
    """Four items of 7 tokens: as many draws of all of them as fit, or one draw of one item."""
    model, guide = blob()
    counting, forwards = Counted(guide), counted(model)
    found = bp.PosteriorPredictive(model, counting, num_samples, max_tokens=max_tokens)(make_batch((7,) * 4))
    assert counting.calls == num_samples
    assert forwards == rows
    assert found.draws.shape == (num_samples, 4, 3)
    torch.testing.assert_close(found.probs, found.draws.mean(0))
    torch.testing.assert_close(found.probs.sum(-1), torch.ones(4))


def test_no_forward_is_over_the_budget_or_wider_than_its_longest_item() -> None:
    model, guide = blob()
    shapes: list[torch.Size] = []
    hook = lambda module, inputs, output: shapes.append(inputs[0].shape)  # noqa: E731
    model.network.get_input_embeddings().register_forward_hook(hook)
    lengths = (40, 5, 38, 6, 60, 4)
    bp.PosteriorPredictive(model, guide, 4, max_tokens=170)(make_batch(lengths))
    assert all(shape.numel() <= 170 for shape in shapes)
    assert {shape[1] for shape in shapes} == {60, 40, 38, 6}
    assert sum(shape.numel() for shape in shapes) == 4 * (60 + 40 + 38 + 3 * 6)


def test_draws_are_made_once_for_a_loader() -> None:
    model, guide = blob()
    counting, forwards = Counted(guide), counted(model)
    bp.PosteriorPredictive(model, counting, 5)([make_batch(), make_batch((5, 2))])
    assert counting.calls == 5
    assert forwards == [20, 10]


def one_at_a_time(model: bp.BayesianLoRA, predictive: bp.PosteriorPredictive, batch: bp.Batch) -> torch.Tensor:
    """(N, B, K) probabilities under the draws of seed 1: one draw a forward, the batch at its own padding."""
    torch.manual_seed(1)
    draws = predictive.sample_draws()
    with torch.no_grad():
        return torch.stack([model.logits(batch, draw).softmax(-1) for draw in draws])


@pytest.mark.parametrize("max_tokens", [28, 56, 448])
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_grouping_draws_does_not_matter(name: str, max_tokens: int) -> None:
    """Bit-equal: items of one length have the same width however they are grouped."""
    model, guide = blob(name)
    batch = make_batch((7,) * 4)
    predictive = bp.PosteriorPredictive(model, guide, 5, max_tokens=max_tokens)
    expected = one_at_a_time(model, predictive, batch)
    torch.manual_seed(1)
    assert_equal_draws(predictive(batch).draws, expected)


def test_draws_have_the_law_of_the_posterior() -> None:
    """400 draws of every entry, standardised: mean and standard deviation within 5 standard errors of 0 and 1."""
    model, guide = blob()
    draws = bp.PosteriorPredictive(model, guide, 400).sample_draws()
    scores = [
        (torch.stack([draw[site] for draw in draws if draw is not None]) - guide.loc(site)) / guide.scale(site)
        for site in model.sites
    ]
    standard = torch.cat([score.flatten() for score in scores]).detach()
    assert standard.numel() == 400 * sum(model.location(site).numel() for site in model.sites)
    assert abs(float(standard.mean())) < 5 / standard.numel() ** 0.5
    assert abs(float(standard.std()) - 1) < 5 / (2 * standard.numel()) ** 0.5


TOLERANCE = {
    # Another width sums the attention in another order: a few units in the last place of float32.
    "float32": {"rtol": 1e-5, "atol": 1e-6},
    # bfloat16 keeps 8 bits, 0.4 % of a hidden state, and rounds them anew at each width; over ten batches the largest
    # change of a probability was 0.004. Draws differ by 0.6.
    "bfloat16": {"rtol": 0.0, "atol": 0.01},
}


@pytest.mark.slow
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", list(MODELS))
def test_cut_batches_answer_as_one_item_and_one_draw_at_a_time(name: str, side: str) -> None:
    """The slow twin: each item alone and unpadded under each draw alone."""
    model, guide = blob(name)
    lengths = (7, 30, 4, 12, 29, 3, 12)
    batch = make_batch(lengths, side=side, width=33)
    alone = [batch.select([row]) for row in range(len(batch))]
    assert [item.input_ids.shape[1] for item in alone] == list(lengths)
    predictive = bp.PosteriorPredictive(model, guide, 3)
    expected = torch.cat([one_at_a_time(model, predictive, item) for item in alone], dim=1)
    with torch.no_grad():
        means = torch.cat([model.logits(item).softmax(-1) for item in alone])
    tolerance = TOLERANCE["bfloat16" if name == "llama_bfloat16" else "float32"]
    for max_tokens in (1, 20, 150, 10**9):
        torch.manual_seed(1)
        found = bp.PosteriorPredictive(model, guide, 3, max_tokens=max_tokens)(batch)
        torch.testing.assert_close(found.draws, expected, **tolerance)
        assert float((found.draws[0] - found.draws[1]).abs().max()) > 0.05
        mean = bp.PosteriorPredictive(model, guide, 0, max_tokens=max_tokens)(batch)
        torch.testing.assert_close(mean.probs, means, **tolerance)


def test_a_group_answers_bit_for_bit_as_its_items_do_one_draw_at_a_time() -> None:
    """The same items at the same width: what the cut leaves is the same arithmetic, in float32."""
    model, guide = blob()
    batch = make_batch((7, 60, 4, 58, 3), side="left")
    groups = partition(batch.lengths.tolist(), CPU_TOKENS, num_draws=6)
    assert sorted(map(sorted, groups)) == [[0, 2, 4], [1, 3]]
    predictive = bp.PosteriorPredictive(model, guide, 6)
    expected = [one_at_a_time(model, predictive, batch.select(rows)) for rows in groups]
    torch.manual_seed(1)
    found = predictive(batch)
    for rows, group in zip(groups, expected, strict=True):
        assert_equal_draws(found.draws[:, rows], group)


@pytest.mark.parametrize("parallel", [False, True])
@pytest.mark.parametrize("name", ["llama", "llama_head", "gpt2", "bert"])
def test_agrees_with_pyros_predictive(name: str, parallel: bool) -> None:
    """The same draws of A through both, draw by draw."""
    model, guide = blob(name)
    batch = make_batch(labels=False)
    predictive = bp.PosteriorPredictive(model, guide, 6)
    torch.manual_seed(1)
    ours = predictive(batch)
    torch.manual_seed(1)
    samples: dict[str, torch.Tensor] = {}
    draws = predictive.sample_draws()
    for site in model.sites:
        samples[site] = torch.stack([draw[site] for draw in draws if draw is not None])
        samples[site] = samples[site].unsqueeze(1) if parallel else samples[site]
    pyros = Predictive(model, posterior_samples=samples, parallel=parallel, return_sites=("_RETURN",))(batch)
    torch.testing.assert_close(ours.draws, pyros["_RETURN"].softmax(-1), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.probs, pyros["_RETURN"].softmax(-1).mean(0), rtol=1e-5, atol=1e-6)
    assert float((ours.draws[0] - ours.draws[1]).abs().max()) > 0.05


@pytest.mark.parametrize("name", list(EVERY_GUIDE))
def test_no_draws_is_the_mean(name: str) -> None:
    model = model_for(name)
    guide = EVERY_GUIDE[name](model)
    batch = make_batch()
    state = torch.get_rng_state()
    found = bp.PosteriorPredictive(model, guide, num_samples=0)(batch)
    assert torch.equal(torch.get_rng_state(), state)
    mean = {site: guide.loc(site) for site in model.sites}
    assert torch.equal(found.probs, model.logits(batch, mean).softmax(-1).detach())
    assert torch.equal(found.probs, model.logits(batch).softmax(-1).detach()) is (name != "ensemble")
    assert found.draws.shape == (1, 4, 3)
    drawn = bp.PosteriorPredictive(model, guide, num_samples=1)(batch)
    assert torch.equal(drawn.probs, found.probs) is not KINDS[name].is_random


def test_a_loaders_order_comes_from_its_index() -> None:
    """Shuffled batches of unequal size come back in the data set's order, with labels and one set of draws."""
    model, guide = blob()
    whole = make_batch((7, 4, 6, 3, 5, 5, 2))
    order = torch.tensor([5, 2, 6, 0, 3, 1, 4])
    assert whole.labels is not None
    shuffled = [
        bp.Batch(whole.input_ids[rows], whole.attention_mask[rows], whole.labels[rows], index=rows)
        for rows in order.split(3)
    ]
    torch.manual_seed(1)
    expected = bp.PosteriorPredictive(model, guide, 4)(whole)
    torch.manual_seed(1)
    found = bp.PosteriorPredictive(model, guide, 4)(iter(shuffled))
    torch.testing.assert_close(found.draws, expected.draws, rtol=0, atol=1e-5)
    assert found.labels is not None and torch.equal(found.labels, whole.labels)
    unindexed = [bp.Batch(b.input_ids, b.attention_mask, b.labels) for b in shuffled]
    torch.manual_seed(1)
    in_turn = bp.PosteriorPredictive(model, guide, 4)(unindexed)
    torch.testing.assert_close(in_turn.draws, expected.draws[:, order], rtol=0, atol=1e-5)
    assert in_turn.labels is not None and torch.equal(in_turn.labels, whole.labels[order])


@pytest.mark.parametrize("kind", ["batch", "list", "loader", "generator"])
def test_the_bar_counts_items(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    model, guide = blob()
    items = EncodedDataset((), tuple(Encoded((5,) * length, 0) for length in (3, 9, 4, 6, 2)), 0)
    loader = bp.predict_loader(items, 2, 0)
    batches = list(loader)
    data = {"batch": make_batch((3, 9, 4, 6, 2)), "list": batches, "loader": loader, "generator": iter(batches)}[kind]
    bp.PosteriorPredictive(model, guide, 2)(data, progress=True, description="answering")
    shown = capsys.readouterr().err
    assert "answering" in shown
    assert ("answering 5 items" if kind == "generator" else "5/5") in shown


def test_labels_are_those_of_every_batch_or_none() -> None:
    model, guide = blob()
    some = [make_batch(), make_batch(labels=False)]
    unindexed = [bp.Batch(b.input_ids, b.attention_mask, b.labels) for b in some]
    assert bp.PosteriorPredictive(model, guide, 1)(unindexed).labels is None
    assert bp.PosteriorPredictive(model, guide, 1)(make_batch(labels=False)).labels is None


def test_dropout_is_off_inside_only() -> None:
    """With dropout on, two runs of N = 0 would differ."""
    model = MODELS["gpt2"](resid_pdrop=0.5)
    guide = bp.BLoBGuide(model)
    model.network.train()
    batch = make_batch()
    assert not torch.equal(model.logits(batch), model.logits(batch))
    found = [bp.PosteriorPredictive(model, guide, 0)(batch).probs for _ in range(2)]
    assert torch.equal(*found)
    assert not torch.equal(model.logits(batch), model.logits(batch))


@pytest.mark.parametrize("fails", [False, True])
def test_modes_are_given_back_module_by_module(fails: bool) -> None:
    model, guide = blob()
    modules = list(model.network.modules())
    for position, module in enumerate(modules):
        module.training = position % 3 == 0
    modes = [module.training for module in modules]
    inside: list[bool] = []

    def look(*_: Any) -> None:
        inside.extend(module.training for module in modules)
        if fails:
            raise KeyboardInterrupt

    model.network.get_input_embeddings().register_forward_hook(look)
    predictive = bp.PosteriorPredictive(model, guide, 2)
    if fails:
        with pytest.raises(KeyboardInterrupt):
            predictive(make_batch())
    else:
        predictive(make_batch())
    assert inside and not any(inside)
    assert [module.training for module in modules] == modes
    assert not held_draws(model)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("num_samples", [0, 3])
def test_an_autocast_around_the_call_changes_nothing(num_samples: int, dtype: torch.dtype) -> None:
    """The linearised one, the tokens' and generation go through the same mode (`BayesianLoRA.evaluating`)."""
    model, guide = blob()
    predictive = bp.PosteriorPredictive(model, guide, num_samples)

    def answers() -> torch.Tensor:
        pyro.set_rng_seed(1)
        return predictive(make_batch()).draws

    expected = answers()
    with torch.autocast("cpu", dtype):
        found = answers()
        assert model.logits(make_batch()).dtype == torch.float32
    assert torch.equal(found, expected)
    assert bp.evaluate(predictive(make_batch())).num_items == 4


def test_nothing_else_is_changed() -> None:
    model, guide = blob()
    before = snapshot(model.network, guide)
    found = bp.PosteriorPredictive(model, guide, 3)(make_batch())
    assert all(torch.equal(value, before[key]) for key, value in snapshot(model.network, guide).items())
    assert not dict(pyro.get_param_store())
    assert not found.draws.requires_grad
    assert all(p.grad is None for p in model.network.parameters())


def test_mean_over_draws_converges() -> None:
    """400 and 400 other draws agree within 5 standard errors of their difference, which are below 0.03."""
    model, guide = blob(eps=0.4)
    batch = make_batch()
    one, two = (bp.PosteriorPredictive(model, guide, 400)(batch) for _ in range(2))
    error = ((one.draws.var(0) + two.draws.var(0)) / 400).sqrt()
    assert float(error.max()) < 0.03
    assert bool(((one.probs - two.probs).abs() < 5 * error + 1e-6).all())
    assert float((one.probs - bp.PosteriorPredictive(model, guide, 0)(batch).probs).abs().max()) > 3 * float(
        error.max()
    )
    assert math.isfinite(float(one.probs.sum()))


def test_bad_arguments() -> None:
    model, guide = blob()
    with pytest.raises(ConfigError, match="num_samples: expected at least 0 draws; got -1"):
        bp.PosteriorPredictive(model, guide, -1)
    with pytest.raises(ConfigError, match="max_tokens: expected at least 1, or None; got 0"):
        bp.PosteriorPredictive(model, guide, max_tokens=0)
    with pytest.raises(DataError, match="expected at least one batch to predict; got an empty loader"):
        bp.PosteriorPredictive(model, guide)([])
    nothing = torch.zeros(0, 3, dtype=torch.long)
    with pytest.raises(DataError, match="expected at least one batch to predict"):
        bp.PosteriorPredictive(model, guide)(bp.Batch(nothing, nothing))
    with pytest.raises(ConfigError, match="expected at least 1 with a guide of type Counted, which has no mean; got 0"):
        bp.PosteriorPredictive(model, Counted(guide), 0)(make_batch())
