"""A step in several forwards is the step in one; clipping, autocast, and steps that are skipped."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from cases import MODELS, make_batch, model_for, one_draw

import blob_pyro as bp
from blob_pyro.system.processes import Ranks
from blob_pyro.training.loss_scale import GROWTH_STEPS, LossScale
from blob_pyro.training.pieces import share_out
from blob_pyro.training.recipes import RECIPES

GUIDES = {
    "blob": bp.BLoBGuide,
    "mle": bp.guides.MLEGuide,
    "map": bp.guides.MAPGuide,
    "low_rank": bp.guides.LowRankGuide,
}


def trained(pieces: int, recipe: str = "blob", name: str = "blob", **settings: Any) -> tuple[list[Any], list[Any]]:
    """Three steps, with one draw: results, and the parameters afterwards."""
    model = MODELS["llama"]()
    torch.manual_seed(5)
    guide = one_draw(GUIDES[name](model))
    svi = bp.BLoBSVI(
        model, guide, recipe=recipe, lr=1e-2, kl_lr=1e-3, gradient_accumulation_steps=pieces,
        kl_schedule=lambda step: 0.5 / step, **settings,
    )  # fmt: skip
    results = [svi.step(make_batch()) for _ in range(3)]
    return results, [parameter.detach().clone() for parameter in svi.recipe.parameters()]


@pytest.mark.slow
@pytest.mark.parametrize("pieces", [2, 3, 4, 9])
@pytest.mark.parametrize("recipe", list(RECIPES))
@pytest.mark.parametrize("name", list(GUIDES))
def test_forwards_one_after_another_make_the_step_of_the_whole_batch(name: str, recipe: str, pieces: int) -> None:
    expected, parameters = trained(1, recipe, name)
    found, own = trained(pieces, recipe, name)
    for one, other in zip(expected, found, strict=True):
        assert (other.nll, other.kl, other.loss) == pytest.approx((one.nll, one.kl, one.loss), rel=1e-4)
        assert other.kl_weight == one.kl_weight
    assert all(torch.allclose(p, q, rtol=1e-3, atol=2e-5) for p, q in zip(parameters, own, strict=True))


@pytest.mark.parametrize("num_tokens", [None, 50])
def test_tokens_are_weighed_as_in_the_whole_batch(num_tokens: int | None) -> None:
    batch, results = make_batch(), []
    labels = torch.where(batch.attention_mask > 0, batch.input_ids, -100)
    texts = dataclasses.replace(batch, labels=labels)
    for pieces in (1, 2, 4):
        model = MODELS["llama"]()
        model.likelihood = bp.CausalLM(num_tokens)
        svi = bp.BLoBSVI(model, bp.guides.MLEGuide(model), gradient_accumulation_steps=pieces)
        results.append(svi.step(texts).nll)
    assert results[1:] == pytest.approx(results[:1] * 2, rel=1e-5)


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("num_pieces", [1, 2, 5])
def test_every_item_is_in_one_piece_and_every_process_has_as_many(num_ranks: int, num_pieces: int) -> None:
    batch, likelihood = make_batch(), MODELS["llama"]().likelihood
    shared = [share_out(batch, likelihood, Ranks(i, num_ranks), num_pieces) for i in range(num_ranks)]
    assert len({len(pieces) for pieces in shared}) == 1
    pieces = [piece for own in shared for piece in own]
    items = [i for piece in pieces if piece.weight for i in piece.batch.index.tolist()]  # type: ignore[union-attr]
    assert sorted(items) == [0, 1, 2, 3]
    assert sum(piece.weight for piece in pieces) == pytest.approx(1)
    assert all(len(piece.batch) >= 1 for piece in pieces)


def first_update(**settings: Any) -> tuple[bp.BLoBSVI, list[torch.Tensor], float]:
    """A BLoBSVI after its first step that updates, the gradients that this step descended, and its NLL."""
    model = MODELS["llama"]()
    torch.manual_seed(5)
    svi = bp.BLoBSVI(model, one_draw(bp.BLoBGuide(model)), **settings)
    update, gradients = svi.recipe.update, []

    def seen(*args: Any) -> None:
        gradients.extend(p.grad.clone() for p in svi.recipe.parameters() if p.grad is not None)
        update(*args)

    svi.recipe.update = seen  # type: ignore[method-assign]
    while (result := svi.step(make_batch())).skipped:
        assert svi.steps_done < 30
    return svi, gradients, result.nll


def test_gradients_are_clipped_together() -> None:
    total = torch.nn.utils.get_total_norm
    free, clipped, loose = (first_update(max_grad_norm=limit)[1] for limit in (None, 1e-3, 1e6))
    assert float(total(clipped)) == pytest.approx(1e-3, rel=1e-3) and float(total(free)) > 1e-2
    assert all(map(torch.equal, free, loose))
    assert all(torch.allclose(a / total(free), b / total(clipped)) for a, b in zip(free, clipped, strict=True))


@pytest.mark.parametrize("mixed_precision", ["bf16", "fp16"])
def test_autocast_computes_in_less_and_keeps_the_parameters(mixed_precision: str) -> None:
    _, plain, nll = first_update()
    svi, found, own_nll = first_update(mixed_precision=mixed_precision)
    assert all(p.dtype == torch.float32 for p in svi.recipe.parameters())
    assert own_nll != nll and own_nll == pytest.approx(nll, rel=0.02)
    apart = torch.nn.utils.get_total_norm([a - b for a, b in zip(plain, found, strict=True)])
    assert 0 < float(apart / torch.nn.utils.get_total_norm(plain)) < (0.05 if mixed_precision == "bf16" else 0.01)


def test_the_loss_scale_finds_a_value_that_does_not_overflow() -> None:
    """A factor so large that gradients overflow is halved until they do not; those steps are not counted as bad."""
    model = MODELS["llama"]()
    svi = bp.BLoBSVI(model, one_draw(bp.BLoBGuide(model)), mixed_precision="fp16")
    before = [p.detach().clone() for p in svi.recipe.parameters()]
    svi.loss_scale.value = 2.0**126
    results = [svi.step(make_batch()) for _ in range(3)]
    assert all(result.skipped for result in results) and svi.num_skipped == 0
    assert all(torch.equal(p, q) for p, q in zip(before, svi.recipe.parameters(), strict=True))
    while svi.step(make_batch()).skipped:
        assert svi.steps_done < 200
    assert 1 < svi.loss_scale.value < 2.0**126


def test_the_loss_scale_grows_again() -> None:
    scale = LossScale(4.0, dynamic=True)
    for _ in range(GROWTH_STEPS):
        scale.succeeded()
    assert (scale.value, scale.good_steps) == (8.0, 0)
    assert [scale.overflowed() for _ in range(4)] == [True, True, True, False] and scale.value == 1.0
    gradients = [torch.tensor([8.0])]
    LossScale(4.0, dynamic=True).unscale_(gradients)
    assert gradients[0].item() == 2.0
    assert not LossScale().overflowed()


def poisoned(batch: bp.Batch, model: bp.BayesianLoRA) -> None:
    """Make the network's answers to this batch NaN: an embedding that no other batch uses."""
    with torch.no_grad():
        model.network.get_input_embeddings().weight[int(batch.input_ids[0, 0])] = float("nan")


def test_bad_steps_are_skipped_and_counted_up_to_the_limit() -> None:
    model = MODELS["llama"]()
    guide = one_draw(bp.BLoBGuide(model))
    bad = make_batch()
    poisoned(bad, model)
    word = int(bad.input_ids[0, 0])
    ids = torch.where(make_batch().input_ids == word, word + 1, make_batch().input_ids)
    good = dataclasses.replace(make_batch(), input_ids=ids)
    svi = bp.BLoBSVI(model, guide, max_skipped_steps=2, lr=1e-2)
    results = [svi.step(batch) for batch in (good, bad, good, bad)]
    assert [result.skipped for result in results] == [False, True, False, True]
    assert svi.num_skipped == 2 and svi.steps_done == 4
    assert results[2].nll == results[0].nll  # the bad step put back what the first one had found finite
    with pytest.raises(bp.errors.NonFiniteLossError, match=r"step 5: .*\(the 2 such steps before were skipped\)"):
        svi.step(bad)


def test_precisions_that_there_are_not_are_refused() -> None:
    model = MODELS["llama"]()
    with pytest.raises(bp.errors.ConfigError, match="mixed_precision: expected one of no, bf16, fp16; got 'fp8'"):
        bp.BLoBSVI(model, bp.BLoBGuide(model), mixed_precision="fp8")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_kl_under_a_base_in_half_precision_is_that_of_float64(dtype: torch.dtype) -> None:
    model = model_for("blob", "llama")
    model.network.to(dtype)
    guide = bp.BLoBGuide(model)
    total = 0.0
    for site in model.sites:
        loc, scale = guide.loc(site).detach().double(), guide.scale(site).detach().double()
        prior = float(model.prior_scale)
        total += float((torch.log(prior / scale) + (scale**2 + loc**2) / (2 * prior**2) - 0.5).sum())
    kl = guide.kl().detach()
    assert kl.dtype == torch.float32 and float(kl) == pytest.approx(total, rel=1e-6)
