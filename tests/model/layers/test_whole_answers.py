"""Answers of several tokens: the tree of their beginnings, and their log-probabilities against one row an answer."""

from __future__ import annotations

import itertools
import random

import pytest
import torch
from cases import MODELS, PLAIN, QUANTISED, SHAPED, WHOLE_ANSWERS, draw_all, make_batch
from torch import Tensor

import blob_pyro as bp
from blob_pyro.errors import ConfigError
from blob_pyro.model.layers.drawn_linear import WeightDraw, hold
from blob_pyro.model.layers.flipped import flip
from blob_pyro.model.layers.whole_answers import AnswerTree
from blob_pyro.model.likelihoods import WholeAnswer

SETS: dict[str, tuple[tuple[int, ...], ...]] = {
    "apart": WHOLE_ANSWERS,
    "one token each": ((5,), (17,), (40,)),
    "alike until the last": ((5, 6, 7), (5, 6, 8), (5, 6, 9)),
    "a tree": ((5,), (6, 7), (6, 8, 9), (6, 8, 10), (11, 12, 13, 14)),
}
HEADS = PLAIN | SHAPED | QUANTISED | {name: MODELS[name] for name in ("llama_head", "llama_head_both", "llama_last")}


def naive(model: bp.BayesianLoRA, batch: bp.Batch, draws: dict[str, Tensor], answers: tuple[tuple[int, ...], ...]):
    """Each item with each answer behind it, alone and without padding."""
    found = torch.zeros(len(batch), len(answers))
    with torch.no_grad(), hold({model._layers[site]: WeightDraw(value) for site, value in draws.items()}):
        for row, (k, answer) in itertools.product(range(len(batch)), enumerate(answers)):
            prompt = batch.input_ids[row][batch.attention_mask[row].bool()]
            ids = torch.cat((prompt, torch.tensor(answer)))
            log_probs = model.network(input_ids=ids[None]).logits[0].float().log_softmax(-1)
            for j, token in enumerate(answer):
                found[row, k] += log_probs[len(prompt) - 1 + j, token]
    return found


@pytest.mark.parametrize("name", list(HEADS))
def test_log_probabilities_equal_one_row_an_answer(name: str) -> None:
    """Padded on the left, with draws held, on every architecture; they differ by nats, far above the tolerance."""
    model = HEADS[name]()
    model.likelihood = WholeAnswer(WHOLE_ANSWERS)
    batch, draws = make_batch(side="left"), draw_all(model)
    with torch.no_grad():
        ours = model.logits(batch, draws)
    twin = naive(model, batch, draws, WHOLE_ANSWERS)
    torch.testing.assert_close(ours, twin, rtol=1e-4, atol=1e-4)
    assert float(twin.std()) > 0.1
    assert ours.dtype == torch.float32


@pytest.mark.parametrize("answers", SETS.values(), ids=SETS)
def test_every_shape_of_tree(answers: tuple[tuple[int, ...], ...]) -> None:
    model = MODELS["llama"]()
    model.likelihood = WholeAnswer(answers)
    batch = make_batch()
    with torch.no_grad():
        torch.testing.assert_close(model.logits(batch), naive(model, batch, {}, answers), rtol=1e-4, atol=1e-4)


def test_answers_of_one_token_are_multiple_choice() -> None:
    """The same probabilities: what the whole vocabulary adds to all logits of an item cancels."""
    model, batch = MODELS["llama"](), make_batch()
    with torch.no_grad():
        choice = model.logits(batch).softmax(-1)
        model.likelihood = WholeAnswer([[token] for token in model.likelihood.token_ids])  # type: ignore[attr-defined]
        torch.testing.assert_close(model.logits(batch).softmax(-1), choice)


@pytest.mark.parametrize("name", ["llama", "llama_head_both"])
@pytest.mark.parametrize("answers", [SETS["apart"], SETS["a tree"]], ids=["apart", "a tree"])
def test_every_draw_and_every_flipped_row_equal_one_row_an_answer(name: str, answers) -> None:
    """An item's rows share its draw, also the one that flipout gives it alone."""
    model = MODELS[name]()
    model.likelihood = WholeAnswer(answers)
    batch, draws = make_batch(), draw_all(model, 3)
    locs = {site: model.location(site).detach() for site in model.sites}
    flipped = flip(draws, locs, len(batch))
    with torch.no_grad():
        shared, own = model.logits(batch, draws), model.logits(batch, flipped)
    for group, item in itertools.product(range(3), range(len(batch))):
        alone = batch.select([item])
        plain = {site: value[group] for site, value in draws.items()}
        by_hand = {site: draw.weights[group * len(batch) + item] for site, draw in flipped.items()}
        torch.testing.assert_close(shared[group, item], naive(model, alone, plain, answers)[0], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(own[group, item], naive(model, alone, by_hand, answers)[0], rtol=1e-4, atol=1e-4)
    assert float((shared - own).abs().max()) > 0.05


def test_rows_of_the_tree_are_few_and_enough() -> None:
    """Against all beginnings, over random sets of answers: each is in a row, and no row begins another."""
    generator = random.Random(0)
    for _ in range(200):
        drawn = {tuple(generator.choices(range(3), k=generator.randint(1, 4))) for _ in range(5)}
        answers = [a for a in sorted(drawn) if not any(a != b and b[: len(a)] == a for b in drawn)]
        tree = AnswerTree.of(answers)
        for answer in answers:
            for end in range(len(answer)):
                assert any(row[:end] == answer[:end] and len(row) >= end for row in tree.rows)
        for one, other in itertools.permutations(tree.rows, 2):
            assert other[: len(one)] != one
        assert len(tree.rows) <= max(1, len({answer[:-1] for answer in answers}))


@pytest.mark.parametrize("token_ids", [[], [[4]], [[4], []], [[4, 5], [4, 5]], [[4], [4, 5]], [[4, 5], [4]]])
def test_answers_that_cannot_be_told_apart_are_refused(token_ids: list[list[int]]) -> None:
    with pytest.raises(
        ConfigError, match="expected at least two answers, none of which begins another; got "
    ) as caught:
        WholeAnswer(token_ids)
    assert str(token_ids) in str(caught.value)


@pytest.mark.parametrize("seed", range(20))
def test_a_tree_is_that_of_loops(seed: int) -> None:
    rng = random.Random(seed)
    answers: set[tuple[int, ...]] = set()
    for _ in range(40):
        new = tuple(rng.randrange(3) for _ in range(rng.randrange(1, 6)))
        if not any(new[: len(one)] == one or one[: len(new)] == new for one in answers):
            answers.add(new)
    tree = AnswerTree.of(sorted(answers, key=hash))
    beginnings = {answer[:end] for answer in answers for end in range(len(answer))}
    longest = {one for one in beginnings if not any(len(one) < len(b) and b[: len(one)] == one for b in beginnings)}
    assert set(tree.beginnings) == beginnings and set(tree.rows) == longest
    for one in beginnings:
        assert tree.rows[tree.row_of(one)][: len(one)] == one
    known = sorted(answers)
    with pytest.raises(ConfigError, match="none of which begins another"):
        WholeAnswer([*known, (*known[seed % len(known)], 1)])
    with pytest.raises(ConfigError, match="none of which begins another"):
        WholeAnswer([known[-1], *known])
