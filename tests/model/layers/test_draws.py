"""Held draws: S draws in one forward = S forwards, for every kind of base layer; nothing stays held."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from cases import FLOAT32, MODELS, QUANTISED, draw_all, held_draws, make_batch, pretrained, trainable
from laws import assert_equal_draws
from torch import Tensor, nn

import blob_pyro as bp
from blob_pyro.model.layers.drawn_linear import DrawnLinear, WeightDraw, grouped_linear, hold
from blob_pyro.model.layers.inject import base_weight

ALL = MODELS | QUANTISED


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Several threads share out the rows of a product, and round a row otherwise where there are others beside it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def draws_and_loop(name: str, batch: bp.Batch) -> tuple[Tensor, Tensor]:
    """Logits under five draws, in one forward and in five."""
    model = ALL[name]()
    draws = draw_all(model, 5)
    with torch.no_grad():
        together = model.logits(batch, draws)
        loop = [model.logits(batch, {site: value[s] for site, value in draws.items()}) for s in range(5)]
    assert together.shape == (5, len(batch), 3)
    assert float((together[0] - together[1]).abs().max()) > 0.1
    assert not held_draws(model)
    return together, torch.stack(loop)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", list(ALL))
def test_draws_in_one_forward_equal_a_loop(name: str) -> None:
    """Bit for bit where rows stand alone: Linear, Conv1D, 4-bit, 8-bit at threshold 0, in float32 and bfloat16."""
    rounding = 2e-2 if "bfloat16" in name else 1e-5
    assert_equal_draws(*draws_and_loop(name, make_batch()), rounding=rounding)


@pytest.mark.parametrize("name", FLOAT32)
def test_draws_in_one_forward_equal_a_loop_in_any_number_of_threads(name: str) -> None:
    """Up to rounding in float32: eight items of nine tokens are a number of rows that two threads round otherwise."""
    together, loop = draws_and_loop(name, make_batch((9,) * 8))
    torch.testing.assert_close(together, loop, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", list(ALL))
def test_a_draw_equals_writing_it_into_the_adapter(name: str) -> None:
    """The naive twin: put the values into lora_A and run plain PEFT."""
    model = ALL[name]()
    batch = make_batch()
    draws = draw_all(model)
    with torch.no_grad():
        held = model.logits(batch, draws)
        mean = model.logits(batch)
        for site, value in draws.items():
            model.location(site).copy_(value)
        assert torch.equal(model.logits(batch), held)
    assert float((held - mean).abs().max()) > 0.1


@pytest.mark.parametrize("name", list(ALL))
def test_the_held_mean_is_the_plain_network(name: str) -> None:
    model = ALL[name]()
    batch = make_batch()
    mean = {site: model.location(site).detach() for site in model.sites}
    with torch.no_grad():
        assert torch.equal(model.logits(batch, mean), model.logits(batch))


@pytest.mark.parametrize("name", list(QUANTISED))
def test_gradients_through_quantised_layers_survive_a_prediction(name: str) -> None:
    """bitsandbytes repacks 4-bit weights at the first evaluation forward on some CPUs; gradients then stop there."""
    model = QUANTISED[name]()
    guide = bp.BLoBGuide(model, eps=0.5)
    batch = make_batch()
    weights = {site: base_weight(layer) for site, layer in model.sites.items()}
    found = []
    for _ in range(2):
        model.network.train()
        torch.manual_seed(0)
        model.zero_grad()
        guide.zero_grad()
        bp.training.elbo.negative_log_likelihood(model, guide, batch).backward()
        found.append({key: p.grad.clone() for key, p in trainable(model.network, guide).items() if p.grad is not None})
        bp.PosteriorPredictive(model, guide, num_samples=2)(batch)
    assert found[0].keys() == trainable(model.network, guide).keys()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    assert all(torch.equal(base_weight(layer), weights[site]) for site, layer in model.sites.items())


def test_int8_threshold_makes_rows_depend_on_each_other(capsys: pytest.CaptureFixture[str]) -> None:
    """A measurement: at bitsandbytes' 6.0 an item with an outlier changes the logits of the other items.

    Which columns are outliers is decided over the whole batch. At 0.0 there are none.
    """
    gaps = {}
    for threshold in (6.0, 0.0):
        model = pretrained(quantization="8bit", llm_int8_threshold=threshold)
        batch = make_batch((6, 6, 6))
        batch.input_ids.clamp_(max=80)
        batch.input_ids[2, 2] = 90
        with torch.no_grad():
            model.network.get_input_embeddings().weight[90, 3] = 60.0
            alone = model.logits(bp.Batch(batch.input_ids[:2], batch.attention_mask[:2]))
            gaps[threshold] = float((model.logits(batch)[:2] - alone).abs().max())
    with capsys.disabled():
        print(
            f"\n8-bit: a neighbour moves an item's logits by {gaps[6.0]:.3f} at threshold 6.0, {gaps[0.0]:.0e} at 0.0"
        )
    assert gaps[6.0] > 0.01
    assert gaps[0.0] < 1e-5


def test_grouped_linear_equals_a_loop() -> None:
    x, weight = torch.randn(6, 4, 5), torch.randn(3, 2, 5)
    by_hand = torch.stack([x[row] @ weight[row // 2].T for row in range(6)])
    torch.testing.assert_close(grouped_linear(x, weight), by_hand)
    assert grouped_linear(x.bfloat16(), weight).dtype == torch.bfloat16


def test_drawn_linear_shares_its_weight() -> None:
    linear = nn.Linear(5, 2, bias=False)
    drawn = DrawnLinear.sharing(linear)
    assert drawn.weight is linear.weight
    assert DrawnLinear.sharing(drawn) is drawn
    x = torch.randn(3, 5)
    assert torch.equal(drawn(x), linear(x))


def test_hold_undoes_itself() -> None:
    """Nested, entered again, and left by an error."""
    layer = DrawnLinear.sharing(nn.Linear(5, 2, bias=False))
    x = torch.randn(3, 5)
    one, two = WeightDraw(torch.randn(2, 5)), WeightDraw(torch.randn(2, 5))
    outer = hold({layer: one})

    def now() -> Tensor:
        out: Tensor = layer(x).detach()
        return out

    with outer:
        assert torch.equal(now(), x @ one.value.T)
        with hold({layer: two}):
            assert torch.equal(now(), x @ two.value.T)
            with outer:
                assert torch.equal(now(), x @ one.value.T)
            assert torch.equal(now(), x @ two.value.T)
        assert torch.equal(now(), x @ one.value.T)
    with pytest.raises(KeyError), outer:
        raise KeyError
    assert layer.draw is None
    assert torch.equal(now(), nn.functional.linear(x, layer.weight).detach())


def test_sites_must_agree_on_the_number_of_draws() -> None:
    model = MODELS["llama"]()
    draws: dict[str, Any] = draw_all(model, 3)
    first = next(iter(draws))
    draws[first] = draws[first][:2]
    with pytest.raises(ValueError, match=r"expected the same number of draws at every site; got \[2, 3\]"):
        model.logits(make_batch(), draws)
