"""`generate`: equal to a loop over draws with plain transformers, one draw held for each text; nothing left changed."""

from __future__ import annotations

import copy
import importlib.util
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyro
import pytest
import tiny
import torch
import transformers as tf
from cases import (
    EVERY_GUIDE,
    LLAMA,
    MODELS,
    PLAIN,
    Q_V,
    QUANTISED,
    SHAPED,
    causal,
    held_draws,
    make_batch,
    model_for,
    pretrained,
)
from pyro.infer.autoguide import AutoNormal
from torch import Tensor

import blob_pyro as bp
from blob_pyro.errors import ConfigError, DataError
from blob_pyro.evaluation.scores import mutual_information, predictive_entropy
from blob_pyro.model.layers.drawn_linear import WeightDraw, hold
from blob_pyro.model.layers.inject import drawn_linear
from blob_pyro.prediction.generation import writing
from blob_pyro.prediction.generation.choice import Choice
from blob_pyro.prediction.generation.prompts import text_behind, token_texts

S, T = 3, 8
# A window shorter than the prompts, and one that is reached while the text is written.
WINDOWED = {
    "mistral_window": causal("MistralForCausalLM", LLAMA | {"head_dim": 8, "sliding_window": 5}, *Q_V),
    "gemma2_window": causal("Gemma2ForCausalLM", LLAMA | {"head_dim": 8, "sliding_window": 9}, *Q_V),
}
RANDOM_B = {
    name: MODELS[name] for name in ("llama_head", "llama_B", "llama_head_both", "llama_last", "llama_last_both")
}
NETWORKS = PLAIN | SHAPED | WINDOWED | RANDOM_B | {"llama_bfloat16": MODELS["llama_bfloat16"]}


def endless(model: bp.BayesianLoRA) -> bp.BayesianLoRA:
    """The model without a token that ends a text, so that every text has T tokens."""
    model.network.generation_config.eos_token_id = None
    if model.tokenizer is not None:
        model.tokenizer.eos_token = None
    return model


def wide(model: bp.BayesianLoRA) -> Any:
    """A guide whose draws differ enough to write different texts."""
    return EVERY_GUIDE["mean_field"](model, init_scale=0.3) if model.bayesian != "A" else bp.BLoBGuide(model, eps=0.6)


def generated(model: bp.BayesianLoRA, guide: Any, prompts: Any, seed: int = 1, **settings: Any) -> bp.Generations:
    pyro.set_rng_seed(seed)
    return bp.generate(model, guide, prompts, **({"num_draws": S, "max_new_tokens": T} | settings))


def draws_of(model: bp.BayesianLoRA, guide: Any, seed: int = 1, num_draws: int = S) -> list[Any]:
    """The draws that `generated` makes under that seed."""
    pyro.set_rng_seed(seed)
    return bp.PosteriorPredictive(model, guide, num_draws).sample_draws(make_batch())


def holding(model: bp.BayesianLoRA, draw: Any) -> hold:
    """One draw, without a draw dimension."""
    layers = {drawn_linear(layer, site, model.adapter): site for site, layer in model.sites.items()}
    return hold({} if draw is None else {layer: WeightDraw(draw[site]) for layer, site in layers.items()})


def plain_generate(model: bp.BayesianLoRA, draw: Any, batch: bp.Batch, max_new_tokens: int = T) -> Tensor:
    """transformers' own greedy `generate` with one draw held: (P, T'), without the prompts."""
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    with holding(model, draw):
        found = model.network.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    return found[:, batch.input_ids.shape[1] :]


@torch.no_grad()
def plain_laws(model: bp.BayesianLoRA, draw: Any, prompt: Sequence[int], text: Sequence[int]) -> Tensor:
    """(T, V) logits of each token of a text from one forward over all, without cache, padding or other rows."""
    with holding(model, draw):
        logits = model.network(input_ids=torch.tensor([[*prompt, *text]]), use_cache=False).logits
    return logits[0, len(prompt) - 1 : -1].double()


def texts_of(found: bp.Generations) -> Iterator[tuple[int, int, list[int]]]:
    for p, rows in enumerate(found.tokens):
        for c, row in enumerate(rows):
            yield p, c, row[found.mask[p, c]].tolist()


# --- each draw's own text ---


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_texts_are_those_of_plain_generate_under_each_draw(name: str) -> None:
    model = endless(NETWORKS[name]())
    guide, batch = wide(model), make_batch(side="left")
    found = generated(model, guide, batch)
    for s, draw in enumerate(draws_of(model, guide)):
        assert torch.equal(found.tokens[:, s], plain_generate(model, draw, batch)), f"draw {s}"
    assert found.tokens.shape == (4, S, T) and bool(found.mask.all())
    assert not torch.equal(found.tokens[:, 0], found.tokens[:, 1]), "the draws write the same: the test sees nothing"


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_bases(kind: str) -> None:
    model = endless(QUANTISED[kind]())
    guide, batch = wide(model), make_batch(side="left")
    found = generated(model, guide, batch)
    for s, draw in enumerate(draws_of(model, guide)):
        assert torch.equal(found.tokens[:, s], plain_generate(model, draw, batch)), f"draw {s}"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["llama", "gpt2", "opt", "qwen2", "mistral_window", "gemma2_window", "llama_head_both"]
)
@pytest.mark.parametrize("mode", ["per_draw", "average"])
def test_figures_are_those_of_plain_forwards(name: str, mode: str) -> None:
    """Every text under every draw, by forwards over the whole of it; entropies of the whole vocabulary."""
    model = endless(NETWORKS[name]())
    guide, batch = wide(model), make_batch(side="left")
    found = generated(model, guide, batch, mode=mode)
    draws = draws_of(model, guide)
    for p, c, text in texts_of(found):
        logits = torch.stack([plain_laws(model, draw, found.prompts[p], text) for draw in draws])
        laws = logits.softmax(-1)
        expected = logits.log_softmax(-1)[:, range(T), text]
        torch.testing.assert_close(found.log_probs[:, p, c].double(), expected, atol=2e-5, rtol=1e-5)
        close = {"atol": 1e-5, "rtol": 1e-5}
        torch.testing.assert_close(found.entropy[p, c].double(), predictive_entropy(laws.mean(0)), **close)
        torch.testing.assert_close(found.mutual_information[p, c].double(), mutual_information(laws), **close)
    assert float(found.mutual_information.mean()) > 0.01


def test_texts_that_do_not_fit_one_forward_are_read_in_several(monkeypatch: pytest.MonkeyPatch) -> None:
    model = endless(MODELS["llama"]())
    guide, batch = wide(model), make_batch()
    whole = generated(model, guide, batch)
    monkeypatch.setattr(writing, "SCORED_TOKENS", 2 * S * T + 1)
    rows: list[int] = []
    model.network.get_input_embeddings().register_forward_hook(lambda _, inputs, out: rows.append(len(out)))
    parts = generated(model, guide, batch)
    assert rows == [4 * S] * T + [2 * S, S] * 4
    for name in ("log_probs", "entropy", "mutual_information"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), atol=1e-5, rtol=1e-5)


# --- one text by the averaged law ---


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "gemma2_window", "cohere", "llama_last"])
def test_the_average_writes_as_a_loop_over_tokens_and_draws(name: str) -> None:
    model = endless(NETWORKS[name]())
    guide, batch = wide(model), make_batch()
    found = generated(model, guide, batch, mode="average")
    draws = draws_of(model, guide)
    for p, prompt in enumerate(found.prompts):
        text: list[int] = []
        for _ in range(T):
            laws = [plain_laws(model, draw, [*prompt, *text], [0])[0].softmax(-1) for draw in draws]
            text.append(int(torch.stack(laws).mean(0).argmax()))
        assert found.tokens[p, 0].tolist() == text
    assert found.tokens.shape == (4, 1, T) and found.log_probs.shape == (S, 4, 1, T)


def test_the_average_is_of_probabilities_and_not_of_logits_or_of_weights() -> None:
    model = endless(MODELS["llama"]())
    guide = wide(model)
    batch = make_batch((5,) * 12)
    averaged = generated(model, guide, batch, mode="average").tokens
    mean = generated(model, guide, batch, num_draws=0).tokens
    assert not torch.equal(averaged, mean)


# --- sampling ---


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7, "top_k": 20, "top_p": 0.8}], ids=["plain", "cut"])
@pytest.mark.parametrize("mode", ["per_draw", "average"])
def test_sampled_tokens_are_those_of_a_loop_with_the_same_numbers(mode: str, settings: dict[str, Any]) -> None:
    """A text's numbers do not depend on the other rows: its loop is over its own."""
    model = endless(MODELS["llama"]())
    guide, batch = wide(model), make_batch()
    found = generated(model, guide, batch, mode=mode, do_sample=True, **settings)
    draws = draws_of(model, guide)
    num_texts = S if mode == "per_draw" else 1
    numbers = torch.stack([torch.rand(T, num_texts, dtype=torch.float64) for _ in range(len(batch))], -1)
    for p, c, text in texts_of(found):
        for step, token in enumerate(text):
            context = [*found.prompts[p], *text[:step]]
            writers = [draws[c]] if mode == "per_draw" else draws
            laws = torch.stack([plain_laws(model, draw, context, [0])[0].softmax(-1) for draw in writers])
            law = cut(laws.mean(0), **settings)
            below = float(law[:token].sum())
            assert below - 1e-6 <= float(numbers[step, c, p]) <= below + float(law[token]) + 1e-6


def cut(law: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """The law that is drawn from, token by token in the order of their probability."""
    law = law ** (1 / temperature)
    kept, total = torch.zeros_like(law), 0.0
    order = law.argsort(descending=True)[:top_k]
    for token in order:
        if top_p is None or total < top_p:
            kept[token] = law[token]
            total += float(law[token] / law[order].sum())
    return kept / kept.sum()


def test_tokens_are_drawn_as_often_as_their_probability_says() -> None:
    """Numbers on a grid: exact up to one of 10,000."""
    law = torch.tensor([0.0, 0.1, 0.55, 0.05, 0.3, 0.0])
    uniforms = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    tokens = Choice(do_sample=True)(law.log().expand(10_000, -1), uniforms)
    counts = torch.bincount(tokens, minlength=6)
    assert (counts - 10_000 * law).abs().max() <= 1
    assert counts[0] == counts[5] == 0
    edges = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    assert Choice(do_sample=True)(law.log().expand(2, -1), edges).tolist() == [1, 4]


def test_a_seed_repeats_a_call_and_greedy_takes_no_number_but_the_draws() -> None:
    model = endless(MODELS["llama"]())
    guide, batch = wide(model), make_batch()
    first, same = (generated(model, guide, batch, do_sample=True) for _ in range(2))
    other = generated(model, guide, batch, do_sample=True, seed=2)
    assert torch.equal(first.tokens, same.tokens) and not torch.equal(first.tokens, other.tokens)
    draws_of(model, guide)
    state = torch.get_rng_state()
    for mode in ("per_draw", "average"):
        generated(model, guide, batch, mode=mode)
        assert torch.equal(torch.get_rng_state(), state)


# --- prompts ---


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "gpt2", "opt", "phi", "mistral_window"])
@pytest.mark.parametrize("mode", ["per_draw", "average"])
def test_neither_padding_nor_other_prompts_change_a_text(name: str, mode: str) -> None:
    model = endless(NETWORKS[name]())
    guide, batch = wide(model), make_batch(width=11)
    together = generated(model, guide, batch, mode=mode)
    left = generated(model, guide, make_batch(side="left"), mode=mode)
    assert torch.equal(together.tokens, left.tokens)
    for p in range(len(batch)):
        alone = generated(model, guide, batch.select([p]), mode=mode)
        assert alone.prompts == together.prompts[p : p + 1]
        assert torch.equal(alone.tokens[0], together.tokens[p])
        torch.testing.assert_close(alone.entropy[0], together.entropy[p], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(alone.log_probs[:, 0], together.log_probs[:, p], atol=2e-5, rtol=1e-5)


def test_texts_are_read_and_written_by_the_tokenizer() -> None:
    model = endless(pretrained())
    guide = bp.BLoBGuide(model, eps=0.6)
    found = generated(model, guide, ["w5 w9 w30", "w7"])
    assert found.prompts == ((5, 9, 30), (7,))
    ids = torch.tensor([[5, 9, 30], [0, 0, 7]])
    assert torch.equal(generated(model, guide, bp.Batch(ids, (ids > 0).long())).tokens, found.tokens)
    assert found.texts is not None
    for p, c, text in texts_of(found):
        assert found.texts[p][c].split() == [f"w{token}" for token in text if token > 2]  # the others are special
    one = generated(model, guide, "w5 w9 w30")
    assert one.prompts == ((5, 9, 30),) and one.texts == found.texts[:1]


def test_a_batch_of_ids_needs_no_tokenizer() -> None:
    model = endless(MODELS["llama"]())
    assert generated(model, bp.MLEGuide(model), make_batch()).texts is None


@pytest.mark.parametrize("tokens", [[40, 41, 300, 5, 2], list("aä€𝄞 b".encode())])
def test_what_each_token_adds_joins_to_the_text(tokens: list[int]) -> None:
    """Bytes of a character in several tokens stand with its last one; special tokens by name."""
    tokenizer = tf.AutoTokenizer.from_pretrained(tiny.llama(), local_files_only=True)
    tokens = tokenizer("aä€𝄞 b positive")["input_ids"] if 300 not in tokens else tokens
    prompt = tokenizer("Tweet: ä")["input_ids"]
    found = token_texts(tokenizer, prompt, tokens)
    names = [tokenizer.convert_ids_to_tokens(token) if token in tokenizer.all_special_ids else "" for token in tokens]
    assert len(found) == len(tokens)
    assert "".join(text.removesuffix(name) for text, name in zip(found, names, strict=True)) == text_behind(
        tokenizer, prompt, tokens
    )
    assert all(text.endswith(name) for text, name in zip(found, names, strict=True))


# --- where texts end ---


@pytest.mark.parametrize("mode", ["per_draw", "average"])
def test_a_text_ends_behind_its_ending_and_counts_nothing_after_it(mode: str) -> None:
    model = endless(MODELS["llama"]())
    guide, batch = wide(model), make_batch(side="left")
    free = generated(model, guide, batch, mode=mode)
    ends = [int(free.tokens[0, 0, 2]), int(free.tokens[1, -1, 4])]
    model.network.generation_config.eos_token_id = ends
    model.network.generation_config.pad_token_id = 0
    found = generated(model, guide, batch, mode=mode)
    for p, c, text in texts_of(found):
        whole = free.tokens[p, c].tolist()
        length = next((t + 1 for t, token in enumerate(whole) if token in ends), T)
        assert text == whole[:length] and found.lengths[p, c] == length
        assert not found.tokens[p, c, length:].any() and found.mask[p, c].tolist() == [t < length for t in range(T)]
        for name in ("entropy", "mutual_information", "log_probs"):
            after = getattr(found, name)[..., p, c, length:]
            assert not after.any(), name
            torch.testing.assert_close(
                getattr(found, name)[..., p, c, :length], getattr(free, name)[..., p, c, :length], atol=2e-5, rtol=1e-5
            )
    assert 3 == found.lengths[0, 0] < T and (found.lengths == T).any()
    if mode == "per_draw":
        for s, draw in enumerate(draws_of(model, guide)):
            plain = plain_generate(model, draw, batch)
            assert torch.equal(found.tokens[:, s, : plain.shape[1]], plain)


@pytest.mark.parametrize("mode", ["per_draw", "average"])
def test_a_text_ends_at_the_tokenizers_end_of_text_too(mode: str) -> None:
    """Training puts that behind a completion, whatever the network's generation_config has."""
    model = endless(pretrained())
    guide, prompts = bp.BLoBGuide(model, eps=0.6), ["w5 w9 w30", "w7"]
    free = generated(model, guide, prompts, mode=mode)
    ends = [int(free.tokens[0, 0, 2]), int(free.tokens[1, -1, 4])]
    model.network.generation_config.eos_token_id = ends[0]
    model.tokenizer.eos_token = model.tokenizer.convert_ids_to_tokens(ends[1])
    found = generated(model, guide, prompts, mode=mode)
    assert found.lengths[0, 0] <= 3 and found.lengths[1, -1] <= 5
    for p, c, text in texts_of(found):
        whole = free.tokens[p, c].tolist()
        assert text == whole[: next((t + 1 for t, token in enumerate(whole) if token in ends), T)]


@pytest.mark.parametrize("mode", ["per_draw", "average"])
@pytest.mark.parametrize("several", [False, True])
def test_a_text_ends_behind_a_stop_string(mode: str, several: bool) -> None:
    """That may have several tokens, and begin or end within one; what the prompt holds does not count."""
    model = endless(pretrained())
    guide = bp.BLoBGuide(model, eps=0.6)
    free = generated(model, guide, ["w5 w9 w30", "w7"], mode=mode)
    assert free.texts is not None
    words = free.texts[0][0].split()
    stops = [f"{words[1][-1]} {words[2][:2]}", "w5 w9"] if several else f"{words[1][-1]} {words[2]}"
    found = generated(model, guide, ["w5 w9 w30", "w7"], mode=mode, stop_strings=stops)
    assert found.texts is not None and found.lengths[0, 0] <= 3
    listed = stops if isinstance(stops, list) else [stops]
    for p, c, text in texts_of(found):
        whole = free.tokens[p, c].tolist()
        texts = [text_behind(model.tokenizer, found.prompts[p], whole[:length]) for length in range(1, T + 1)]
        length = next((t + 1 for t, one in enumerate(texts) if any(stop in one for stop in listed)), T)
        assert text == whole[:length] and found.texts[p][c] == texts[length - 1]
        assert not found.entropy[p, c, length:].any()


def test_stop_strings_that_cannot_be() -> None:
    model = pretrained()
    with pytest.raises(ConfigError, match=r"stop_strings: expected texts of at least one character; got \[''\]"):
        generated(model, bp.MLEGuide(model), "w5", stop_strings=[""])
    bare = endless(MODELS["llama"]())
    with pytest.raises(ConfigError, match="stop_strings: expected a model with a tokenizer, .*; got one without"):
        generated(bare, bp.MLEGuide(bare), make_batch(), stop_strings="x")


@pytest.mark.parametrize("mode", ["per_draw", "average"])
def test_a_sampled_text_does_not_depend_on_the_prompts_that_follow(mode: str) -> None:
    model = endless(MODELS["llama"]())
    guide, batch = wide(model), make_batch(side="left")
    found = [
        generated(model, guide, batch.select(range(count)), mode=mode, do_sample=True).tokens for count in (1, 2, 4)
    ]
    assert torch.equal(found[0], found[2][:1]) and torch.equal(found[1], found[2][:2])
    assert not torch.equal(found[2][0], found[2][1])


def test_nothing_is_read_once_every_text_has_ended() -> None:
    model = endless(MODELS["llama"]())
    guide, batch = bp.MLEGuide(model), make_batch((5,))
    free = generated(model, guide, batch, mode="average")
    model.network.generation_config.eos_token_id = int(free.tokens[0, 0, 2])
    forwards: list[int] = []
    model.network.get_input_embeddings().register_forward_hook(lambda _, inputs, out: forwards.append(out.shape[1]))
    assert generated(model, guide, batch, mode="average").tokens.shape == (1, 1, 3)
    assert forwards == [5, 1, 1]


# --- guides ---


@pytest.mark.slow
@pytest.mark.parametrize("guide", EVERY_GUIDE)
def test_every_guide(guide: str) -> None:
    model = endless(model_for(guide))
    posterior, batch = EVERY_GUIDE[guide](model), make_batch(side="left")
    found = generated(model, posterior, batch, max_new_tokens=4)
    for s, draw in enumerate(draws_of(model, posterior)):
        assert torch.equal(found.tokens[:, s], plain_generate(model, draw, batch, 4)), f"draw {s}"
    pyro.set_rng_seed(1)
    state = torch.get_rng_state()
    mean = generated(model, posterior, batch, num_draws=0, max_new_tokens=4)
    assert torch.equal(torch.get_rng_state(), state)
    draw = bp.PosteriorPredictive(model, posterior, 0).sample_draws()[0]
    assert torch.equal(mean.tokens[:, 0], plain_generate(model, draw, batch, 4))
    assert mean.num_draws == 1 and not mean.mutual_information.any()


def test_an_autoguide() -> None:
    model = endless(MODELS["llama"]())
    guide = AutoNormal(model, init_loc_fn=bp.guides.init_to_adapter(model), init_scale=0.2)
    guide(make_batch())  # sets itself up
    batch = make_batch(side="left")
    found = generated(model, guide, batch)
    for s, draw in enumerate(draws_of(model, guide)):
        assert torch.equal(found.tokens[:, s], plain_generate(model, draw, batch))


def test_a_point_has_no_mutual_information() -> None:
    model = endless(MODELS["llama"]())
    found = generated(model, bp.MLEGuide(model), make_batch())
    assert float(found.mutual_information.max()) < 1e-5 and float(found.entropy.min()) > 0
    assert torch.equal(found.tokens[:, 0], found.tokens[:, 2])


# --- nothing is left changed ---


@pytest.mark.parametrize("fails", [False, True], ids=["ends", "fails"])
@pytest.mark.parametrize("mode", ["per_draw", "average"])
def test_model_and_settings_are_as_they_were(mode: str, fails: bool) -> None:
    model = endless(MODELS["llama"]())
    guide, batch = wide(model), make_batch()
    model.network.train()
    next(iter(model.network.modules())).training = False  # a mixed state
    modes = [module.training for module in model.network.modules()]
    config = copy.deepcopy(model.network.generation_config)
    ids = batch.input_ids.clone()
    seen: list[bool] = []

    def look(module: Any, inputs: Any, output: Tensor) -> None:
        seen.append(module.training)
        if fails and len(seen) == 3:
            raise RuntimeError("in the middle")

    model.network.get_input_embeddings().register_forward_hook(look)
    if fails:
        with pytest.raises(RuntimeError, match="in the middle"):
            generated(model, guide, batch, mode=mode)
    else:
        assert not generated(model, guide, batch, mode=mode).entropy.requires_grad
    assert seen and not any(seen)
    assert [module.training for module in model.network.modules()] == modes
    assert not held_draws(model)
    assert model.network.generation_config.to_dict() == config.to_dict()
    assert torch.equal(batch.input_ids, ids) and torch.is_grad_enabled()


def test_penalties_of_the_generation_config_are_not_used() -> None:
    model = endless(MODELS["llama"]())
    guide, batch = wide(model), make_batch()
    expected = generated(model, guide, batch)
    model.network.generation_config.update(repetition_penalty=5.0, do_sample=True, temperature=3.0)
    assert torch.equal(generated(model, guide, batch).tokens, expected.tokens)


# --- the measurement in docs/generation.md ---


def test_the_script_that_measures_finds_the_same_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    script = Path(__file__).parents[2] / "examples" / "generation_speed.py"
    spec = importlib.util.spec_from_file_location("generation_speed", script)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "generation_speed", module)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "PROMPTS", ("Tweet: ä", "b"))
    found = module.measure(*module.make(str(tiny.llama()), "float32", None), num_draws=3, length=4)
    assert (found.equal, found.texts) == (6, 6) and found.distinct > 2
    assert "6 of 6 texts equal token for token" in str(found)


# --- the record ---


def test_figures_of_texts() -> None:
    """Two draws, one prompt, two texts, of two tokens and of one."""
    log_probs = torch.tensor([[[[-1.0, -2.0], [-0.5, 0.0]]], [[[-3.0, -4.0], [-0.7, 0.0]]]])
    values = torch.tensor([[[0.2, 0.4], [0.5, 0.0]]])
    mask = torch.tensor([[[True, True], [True, False]]])
    found = bp.Generations(((1, 2),), torch.ones(1, 2, 2, dtype=torch.long), mask, log_probs, values, values / 10)
    assert found.num_draws == 2 and found.lengths.tolist() == [[2, 1]]
    assert found.sequence_log_probs.tolist() == [[[-3.0, -0.5]], [[-7.0, pytest.approx(-0.7)]]]
    expected = [math.log((math.exp(-3) + math.exp(-7)) / 2), math.log((math.exp(-0.5) + math.exp(-0.7)) / 2)]
    assert found.log_prob[0].tolist() == pytest.approx(expected)
    assert found.total_entropy[0].tolist() == pytest.approx([0.6, 0.5])
    assert found.mean_entropy[0].tolist() == pytest.approx([0.3, 0.5])
    assert found.total_mutual_information[0].tolist() == pytest.approx([0.06, 0.05])
    assert found.mean_mutual_information[0].tolist() == pytest.approx([0.03, 0.05])


def test_shapes_that_do_not_fit_are_refused() -> None:
    tokens, figures = torch.ones(1, 2, 3, dtype=torch.long), torch.zeros(1, 2, 3)
    parts: dict[str, Any] = {"prompts": ((1,),), "tokens": tokens, "mask": tokens.bool(), "log_probs": figures[None]}
    parts |= {"entropy": figures, "mutual_information": figures}
    bp.Generations(**parts)
    for name, value, message in (
        ("tokens", tokens[0], "expected tokens of shape (1, C, T); got (2, 3)"),
        ("prompts", ((1,), (2,)), "expected tokens of shape (2, C, T); got (1, 2, 3)"),
        ("entropy", figures[0], "expected entropy of shape (1, 2, 3); got (2, 3)"),
        ("mask", tokens[..., :1], "expected mask of shape (1, 2, 3); got (1, 2, 1)"),
        ("log_probs", figures, "expected log_probs of shape (S, 1, 2, 3); got (1, 2, 3)"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            bp.Generations(**parts | {name: value})


# --- what is refused ---


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "mean"}, "mode: expected one of per_draw, average; got 'mean'"),
        ({"max_new_tokens": 0}, "max_new_tokens: expected at least 1; got 0"),
        ({"num_draws": -1}, "num_samples: expected at least 0 draws; got -1"),
        ({"temperature": 0.0, "do_sample": True}, "temperature: expected a number above 0, or None; got 0.0"),
        ({"top_k": 0, "do_sample": True}, "top_k: expected at least 1, or None; got 0"),
        ({"top_p": 1.5, "do_sample": True}, "top_p: expected a number above 0, at most 1, or None; got 1.5"),
        ({"top_p": 0.5}, "top_p: expected do_sample=True beside it; got do_sample=False: set it, or leave it out"),
        ({"max_new_tokens": 58}, "max_new_tokens: expected at most 57 behind a prompt of 7 tokens in a context of 64;"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be(settings: dict[str, Any], message: str) -> None:
    model = endless(MODELS["llama"]())
    with pytest.raises(ConfigError, match=re.escape(message)):
        generated(model, bp.BLoBGuide(model), make_batch(), **settings)


def test_the_whole_context_can_be_used() -> None:
    for name in ("llama", "gpt2", "opt"):
        model = endless(MODELS[name]())
        assert generated(model, bp.MLEGuide(model), make_batch((7,)), max_new_tokens=57).tokens.shape[-1] == 57


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "expected at least one prompt; got none"),
        (["w5", ""], "prompt 1: expected text; got '', which has no token"),
        ("", "prompt 0: expected text; got '', which has no token"),
        ("w5 " * 64, "prompt 0: expected fewer tokens than the context's 64; got 64: shorten it"),
        (make_batch((3, 0)), "prompt 1: expected at least one token; got none"),
        (make_batch((70,)), "prompt 0: expected fewer tokens than the context's 64; got 70: shorten it"),
    ],
)
def test_prompts_that_cannot_be(prompts: Any, message: str) -> None:
    model = pretrained()
    with pytest.raises(DataError, match=re.escape(message)):
        generated(model, bp.BLoBGuide(model), prompts)


def test_networks_that_write_no_text_are_refused() -> None:
    model = MODELS["llama_classifier"]()
    message = "generate: expected a causal language model (likelihood MultipleChoice); got a model with the likelihood "
    with pytest.raises(ConfigError, match=re.escape(message + "SequenceClassification, whose network writes no text")):
        generated(model, bp.BLoBGuide(model), make_batch())


def test_text_for_a_model_without_a_tokenizer_is_refused() -> None:
    model = endless(MODELS["llama"]())
    message = "prompts: expected a Batch of token ids for a model without a tokenizer; got text"
    with pytest.raises(ConfigError, match=message):
        generated(model, bp.BLoBGuide(model), "w5")


def test_draws_with_points_of_their_own_are_refused() -> None:
    """Members of an ensemble whose first block is no site: of its adapter the network holds one at a time."""
    model = MODELS["llama_last_both"]()
    guide = bp.guides.EnsembleGuide(model, num_members=2)
    with pytest.raises(
        ConfigError, match="generate: expected draws of the sites alone, which share a forward; got values of"
    ):
        generated(model, guide, make_batch())
    assert not held_draws(model)


@pytest.mark.parametrize("mode", ["per_draw", "average"])
def test_a_network_without_a_cache_writes_the_same(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """It reads each text from its beginning, at every token."""
    model = endless(MODELS["llama"]())
    guide = wide(model)
    expected = generated(model, guide, make_batch(), mode=mode)
    base = model.network.get_base_model()
    whole = type(base).forward

    def forward(input_ids: Tensor, attention_mask: Tensor, cache_params: Any = None, use_cache: bool = True) -> Any:
        assert not use_cache
        return whole(base, input_ids=input_ids, attention_mask=attention_mask, use_cache=False)

    monkeypatch.setattr(base, "forward", forward)
    found = generated(model, guide, make_batch(), mode=mode)
    assert torch.equal(found.tokens, expected.tokens)
    for name in ("log_probs", "entropy", "mutual_information"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=2e-5)


def test_a_guide_without_a_mean_cannot_give_it() -> None:
    model = endless(MODELS["llama"]())
    guide: Callable[..., Any] = lambda batch=None: bp.BLoBGuide(model)(batch)  # noqa: E731
    with pytest.raises(
        ConfigError, match="expected at least 1 with a guide of type function, which has no mean; got 0"
    ):
        generated(model, guide, make_batch(), num_draws=0)
