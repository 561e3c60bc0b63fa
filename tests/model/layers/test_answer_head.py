"""The K rows of the head give what the whole head gives, for each architecture."""

from __future__ import annotations

import pytest
import torch
from cases import ANSWERS, MODELS, PLAIN, QUANTISED, SHAPED, draw_all, make_batch
from torch import Tensor, nn

import blob_pyro as bp
from blob_pyro.model.layers.answer_head import PLAIN_HEADS, answer_logits
from blob_pyro.model.layers.drawn_linear import WeightDraw, hold
from blob_pyro.model.layers.flipped import flip

HEADS = PLAIN | SHAPED | QUANTISED | {name: MODELS[name] for name in ("llama_head", "llama_head_both", "llama_both")}


def full_logits(model: bp.BayesianLoRA, batch: bp.Batch, draws: dict[str, Tensor]) -> Tensor:
    """The naive twin: the network's own logits, item by item, at the last real token."""
    found = []
    with torch.no_grad(), hold({model._layers[site]: WeightDraw(value) for site, value in draws.items()}):
        for row in range(len(batch)):
            real = batch.attention_mask[row].bool()
            logits = model.network(input_ids=batch.input_ids[row][real][None]).logits
            found.append(logits[0, -1, list(ANSWERS)])
    return torch.stack(found)


def test_table_holds_every_plain_head() -> None:
    assert PLAIN.keys() == PLAIN_HEADS
    assert not SHAPED.keys() & PLAIN_HEADS
    for name, build in HEADS.items():
        if name in PLAIN or name in SHAPED:
            assert build().network.config.model_type == name


@pytest.mark.parametrize("name", list(HEADS))
def test_answer_rows_equal_the_whole_head(name: str) -> None:
    """With draws held; logits are of size 1 to 10, far above the tolerance of 1e-4."""
    model = HEADS[name]()
    batch = make_batch()
    draws = draw_all(model)
    with torch.no_grad():
        ours = model.logits(batch, draws)
    twin = full_logits(model, batch, draws)
    torch.testing.assert_close(ours, twin.float(), rtol=1e-4, atol=1e-4)
    assert float(twin.std()) > 0.1
    assert ours.dtype == torch.float32


@pytest.mark.parametrize("num_draws", [None, 3])
@pytest.mark.parametrize("name", ["llama_head", "llama_head_both", "llama_last_both"])
def test_every_row_of_every_draw_equals_the_whole_head(name: str, num_draws: int | None) -> None:
    """Shared draws, and flipout's, whose every row has an A and a B of its own."""
    model = MODELS[name]()
    batch = make_batch()
    draws = draw_all(model, num_draws)
    locs = {site: model.location(site).detach() for site in model.sites}
    flipped = flip(draws, locs, len(batch))
    with torch.no_grad():
        shared, own = model.logits(batch, draws), model.logits(batch, flipped)
    shared, own = shared.reshape(-1, 3), own.reshape(-1, 3)
    assert len(own) == (num_draws or 1) * len(batch)
    for row in range(len(own)):
        group, item = divmod(row, len(batch))
        alone = batch.select([item])
        plain = {site: value if num_draws is None else value[group] for site, value in draws.items()}
        by_hand = {site: draw.weights[row] for site, draw in flipped.items()}
        torch.testing.assert_close(shared[row : row + 1], full_logits(model, alone, plain), rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(own[row : row + 1], full_logits(model, alone, by_hand), rtol=1e-4, atol=1e-4)
    assert float((shared - own).abs().max()) > 0.05


@pytest.mark.parametrize("name", ["gemma2", "cohere", "granite"])
def test_caps_and_scales_would_show(name: str) -> None:
    """Treated as a plain head, these three would be wrong."""
    model = SHAPED[name]()
    batch = make_batch()
    hidden = getattr(model.network.get_base_model(), "model")(batch.input_ids, batch.attention_mask)[0]  # noqa: B009
    last = hidden[torch.arange(len(batch)), batch.attention_mask.sum(1) - 1]
    plain = (last @ model.network.get_output_embeddings().weight.T)[:, list(ANSWERS)]
    assert float((plain - model.logits(batch)).detach().abs().max()) > 0.1


@pytest.mark.parametrize("name", ["llama", "llama_head", "gpt2"])
def test_disabled_adapter_gives_the_base(name: str) -> None:
    model = MODELS[name]()
    batch = make_batch()
    ids = torch.tensor(ANSWERS)
    with torch.no_grad(), model.network.disable_adapter():
        disabled = answer_logits(model.network, batch, ids)
    with torch.no_grad():
        enabled = answer_logits(model.network, batch, ids)
        base = model.network.unload()
        last = base(batch.input_ids, attention_mask=batch.attention_mask).logits
        rows = torch.arange(len(batch))
        expected = last[rows, batch.attention_mask.sum(1) - 1][:, ids]
    torch.testing.assert_close(disabled, expected, rtol=1e-5, atol=1e-5)
    assert float((enabled - expected).abs().max()) > 0.1


@pytest.mark.parametrize("name", ["llama", "llama_head"])
def test_merged_adapter_is_not_counted_twice(name: str) -> None:
    """Merging rounds the weights, hence a tolerance."""
    model = MODELS[name]()
    batch = make_batch()
    with torch.no_grad():
        before = model.logits(batch)
        model.network.merge_adapter()
        merged = model.likelihood.logits(model.network, batch)  # the model itself refuses a merged adapter
        torch.testing.assert_close(merged, before, rtol=1e-4, atol=1e-4)


def test_head_with_a_bias() -> None:
    """phi's head has one; it is not zero here."""
    model = PLAIN["phi"]()
    nn.init.normal_(model.network.get_output_embeddings().bias)
    batch = make_batch()
    with torch.no_grad():
        torch.testing.assert_close(model.logits(batch, draws := draw_all(model)), full_logits(model, batch, draws))


def test_bfloat16_answers_are_multiplied_in_float32() -> None:
    """Logits near 20 in bfloat16 lie 0.125 apart; ours resolve what lies between."""
    model = MODELS["llama_bfloat16"]()
    model.network.get_output_embeddings().weight.data.mul_(20)
    logits = model.logits(make_batch()).detach()
    assert float(logits.abs().max()) > 20
    assert not torch.equal(logits, logits.bfloat16().float())
