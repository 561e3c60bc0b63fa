"""`BLoBSVI.step` against steps written by hand in plain torch, for each recipe; non-finite losses."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyro
import pytest
import torch
import torch.nn.functional as F
from cases import (
    ANSWERS,
    EVERY_GUIDE,
    GUIDES,
    MODELS,
    NUM_DATA,
    POINT_GUIDES,
    TRAINED,
    held_draws,
    make_batch,
    model_for,
    snapshot,
    trainable,
)
from peft import get_peft_model
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.func import functional_call

import blob_pyro as bp
from blob_pyro.guides import AdapterGuide, MeanFieldGuide
from blob_pyro.guides.gaussian import FactorisedGaussianGuide
from blob_pyro.training.kl_schedule import cycle_length, kl_schedule, reweighted
from blob_pyro.training.recipes import RECIPES
from blob_pyro.training.svi import StepResult

LR, KL_LR, STEPS, SIGMA = 2e-3, 0.05, 6, 0.2
CYCLE = 3


def rate_factor(steps_done: int) -> float:
    """Linear warm-up over 2 of 10 steps, then linear decay; written out again."""
    return steps_done / 2 if steps_done < 2 else (10 - steps_done) / 8


@dataclass
class ByHand:
    """A twin that knows plain torch and plain PEFT only: M, G and B, one draw, the last position's logits.

    G are the free parameters and `omega` makes the standard deviations of them.
    """

    network: torch.nn.Module
    omega: Callable[[Tensor], Tensor]
    M: dict[str, Tensor]
    G: dict[str, Tensor]
    B: dict[str, Tensor]

    def nll(self, batch: bp.Batch) -> Tensor:
        """Mean nats per item under one draw, A = M + E * omega(G), made in the order of the layers."""
        A = {
            name: M + torch.normal(torch.zeros_like(M), torch.ones_like(M)) * self.omega(self.G[name])
            for name, M in self.M.items()
        }
        inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        logits = functional_call(self.network, A | self.B, kwargs=inputs).logits
        last = torch.stack([logits[row, int(batch.attention_mask[row].sum()) - 1] for row in range(len(batch))])
        return F.cross_entropy(last[:, list(ANSWERS)], batch.labels)

    def kl(self) -> Tensor:
        """KL on A, total nats."""
        scales = {name: self.omega(G) for name, G in self.G.items()}
        terms = [
            (math.log(SIGMA) - s.log() + (s**2 + self.M[name] ** 2) / (2 * SIGMA**2) - 0.5).sum()
            for name, s in scales.items()
        ]
        return torch.stack(terms).sum()


# name -> the guide, and its standard deviations written out again
GAUSSIANS: dict[str, tuple[Callable[..., FactorisedGaussianGuide], Callable[[Tensor], Tensor]]] = {
    "blob": (partial(bp.BLoBGuide, eps=0.6), lambda G: G * G),
    "blob_softplus": (partial(bp.BLoBGuide, eps=0.6, scale="softplus"), lambda rho: (1 + rho.exp()).log()),
    "mean_field": (partial(MeanFieldGuide, init_scale=0.3), lambda rho: (1 + rho.exp()).log()),
}


def twins(name: str = "blob") -> tuple[bp.BayesianLoRA, FactorisedGaussianGuide, ByHand]:
    """The library's model and guide, and a twin on a network of its own that starts at the same values."""
    model = MODELS["llama"]()
    build, omega = GAUSSIANS[name]
    guide = build(model)
    plain = get_peft_model(MODELS["llama"]().network.unload(), model.network.peft_config["default"]).eval()
    own = {name: p for name, p in model.network.named_parameters() if p.requires_grad}
    for name, p in plain.named_parameters():
        if name in own:
            p.data = own[name].detach().clone()
    parameters = {name: p for name, p in plain.named_parameters() if p.requires_grad}
    M = {name: p for name, p in parameters.items() if "lora_A" in name}
    free = dict(zip(M, guide.free_scales, strict=True))
    G = {name: value.detach().clone().requires_grad_() for name, value in free.items()}
    B = {name: p for name, p in parameters.items() if "lora_B" in name}
    return model, guide, ByHand(plain, omega, M, G, B)


def hand_step(recipe: str, twin: ByHand, adamw: torch.optim.Optimizer, batch: bp.Batch, done: int, pi: float) -> None:
    """One step, each recipe as in its table in the design."""
    M, G, B = list(twin.M.values()), list(twin.G.values()), list(twin.B.values())
    for p in M + G + B:
        p.grad = None
    for group in adamw.param_groups:
        group["lr"] = LR * rate_factor(done)
    kl_lr = KL_LR * rate_factor(done)
    if recipe == "elbo":
        (NUM_DATA * twin.nll(batch) + pi * twin.kl()).backward()
        adamw.step()
        return
    twin.nll(batch).backward()
    nll_gradients_of_G = [g.grad.clone() for g in G]
    adamw.step()  # M and B on the NLL, and G only where the recipe is "decoupled"
    kl_gradients = torch.autograd.grad(pi * twin.kl(), M + G)  # at the updated M
    with torch.no_grad():
        for p, gradient in zip(M + G, kl_gradients, strict=True):
            p -= kl_lr * gradient
        if recipe == "blob":
            for p, gradient in zip(G, nll_gradients_of_G, strict=True):
                p -= kl_lr * gradient


@pytest.mark.slow
@pytest.mark.parametrize("name", list(GAUSSIANS))
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_steps_equal_steps_by_hand(recipe: str, name: str) -> None:
    model, guide, twin = twins(name)
    schedule = kl_schedule("reweighted", CYCLE)
    weight = 0.02 if recipe == "elbo" else 1.0
    svi = bp.BLoBSVI(
        model,
        guide,
        recipe=recipe,
        num_steps=10,
        lr=LR,
        kl_lr=KL_LR,
        warmup_ratio=0.2,
        kl_schedule=schedule,
        kl_weight=weight,
        kl_step="explicit",
    )
    owned = list(twin.B.values()) + list(twin.M.values()) + ([] if recipe == "blob" else list(twin.G.values()))
    adamw = torch.optim.AdamW(owned, lr=LR, eps=1e-6, weight_decay=0.0)
    start = snapshot(model.network, guide)
    for done in range(STEPS):
        batch = make_batch(seed=10 + done)
        torch.manual_seed(done)
        result = svi.step(batch)
        pi = weight * 2 ** (done % CYCLE + 1) / (2 ** (CYCLE + 1) - 1)
        torch.manual_seed(done)
        nll, kl = twin.nll(batch), twin.kl()
        total = NUM_DATA * nll + pi * kl if recipe == "elbo" else nll + pi * kl
        seen = torch.tensor([result.nll, result.kl, result.kl_weight, result.loss])
        torch.testing.assert_close(seen, torch.tensor([nll.item(), kl.item(), pi, total.item()]), rtol=2e-5, atol=1e-5)
        torch.manual_seed(done)
        hand_step(recipe, twin, adamw, batch, done, pi)
    ours_by_name = {name: p for name, p in model.network.named_parameters() if p.requires_grad}
    for name, p in (twin.M | twin.B).items():
        torch.testing.assert_close(ours_by_name[name], p, rtol=1e-4, atol=2e-5)
    for free, p in zip(guide.free_scales, twin.G.values(), strict=True):
        torch.testing.assert_close(free, p, rtol=1e-4, atol=2e-5)
    # what was compared has moved, a hundred tolerances and more
    moved = {name: float((p.detach() - start[name]).abs().max()) for name, p in trainable(model.network, guide).items()}
    assert min(moved.values()) > 2e-3


def test_recipes_differ() -> None:
    """The comparison by hand can tell the recipes apart."""
    roots = {}
    for recipe in RECIPES:
        model, guide, _ = twins()
        svi = bp.BLoBSVI(model, guide, recipe=recipe, lr=LR, kl_lr=KL_LR, kl_schedule=kl_schedule("constant", 1))
        torch.manual_seed(0)
        svi.step(make_batch())
        roots[recipe] = torch.cat([root.detach().flatten() for root in guide.free_scales])
    for one, other in (("blob", "decoupled"), ("blob", "elbo"), ("decoupled", "elbo")):
        assert float((roots[one] - roots[other]).abs().max()) > 1e-3


@pytest.mark.parametrize(
    ("elbo", "name"),
    [(TraceMeanField_ELBO, name) for name in EVERY_GUIDE] + [(Trace_ELBO, name) for name in POINT_GUIDES],
)
def test_loss_of_elbo_recipe_is_pyros(elbo: type[Trace_ELBO], name: str) -> None:
    """num_data * NLL + KL on the same draw; `Trace_ELBO` samples the KL, so it agrees for points alone (test_kl.py)."""
    model = model_for(name)
    guide = EVERY_GUIDE[name](model)
    batch = make_batch()
    torch.manual_seed(5)
    expected = elbo().loss(model, guide, batch)
    torch.manual_seed(5)
    result = bp.BLoBSVI(model, guide, recipe="elbo").step(batch)
    assert result.loss == pytest.approx(expected, rel=1e-5)
    assert result.loss == pytest.approx(NUM_DATA * result.nll + result.kl, rel=1e-6)


def test_default_schedule_follows_cycle_length() -> None:
    model = MODELS["llama"]()
    svi = bp.BLoBSVI(model, bp.BLoBGuide(model))
    batch = make_batch()
    cycle = cycle_length(NUM_DATA, len(batch))
    assert svi.step(batch).kl_weight == reweighted(1, cycle)
    schedule = svi.kl_schedule(batch)
    assert [schedule(step) for step in (1, cycle, cycle + 1)] == [reweighted(s, cycle) for s in (1, cycle, 1)]
    assert svi.step(make_batch((3, 5))).kl_weight == reweighted(2, cycle)  # settled at the first batch


def test_elbo_recipe_weighs_the_whole_kl() -> None:
    model = MODELS["llama"]()
    assert bp.BLoBSVI(model, bp.BLoBGuide(model), recipe="elbo").step(make_batch()).kl_weight == 1.0


def test_global_param_store_stays_empty() -> None:
    for name, build in GUIDES.items():
        model = MODELS["llama"]()
        guide = build(model)
        for recipe in RECIPES:
            bp.BLoBSVI(model, guide, recipe=recipe).step(make_batch())
        assert not dict(pyro.get_param_store()), name


@pytest.mark.slow
@pytest.mark.parametrize("name", [*TRAINED, "ensemble"])
@pytest.mark.parametrize("recipe", list(RECIPES))
def test_every_guide_learns_under_every_recipe(name: str, recipe: str) -> None:
    """From an NLL near log 3 to less than half of it on one batch of four items."""
    model = model_for(name)
    guide = EVERY_GUIDE[name](model)
    svi = bp.BLoBSVI(
        model, guide, recipe=recipe, lr=2e-2, kl_schedule=kl_schedule("constant", 1), kl_weight=1e-4, kl_lr=1e-3
    )
    batch = make_batch()
    history = [svi.step(batch) for _ in range(25)]
    assert isinstance(history[0], StepResult)
    assert [result.step for result in history] == list(range(1, 26))
    assert sum(r.nll for r in history[-3:]) / 3 < 0.5 * history[0].nll
    assert not held_draws(model)


def poison_adapter(model: bp.BayesianLoRA, guide: bp.BLoBGuide) -> None:
    model.location(next(iter(model.sites))).data[0, 0] = math.nan


def poison_spread(model: bp.BayesianLoRA, guide: bp.BLoBGuide) -> None:
    guide.root_scales[1].data[0, 0] = math.nan


def poison_B(model: bp.BayesianLoRA, guide: bp.BLoBGuide) -> None:
    next(iter(model.point_parameters().values())).data[0, 0] = math.nan


def infinite_logits(model: bp.BayesianLoRA, guide: bp.BLoBGuide) -> None:
    model.network.get_output_embeddings().weight.data[ANSWERS[0]] = math.inf


def huge_spread(model: bp.BayesianLoRA, guide: bp.BLoBGuide) -> None:
    guide.root_scales[0].data[0, 0] = 1e15  # its fourth power overflows: the KL is infinite


@pytest.mark.parametrize("recipe", list(RECIPES))
@pytest.mark.usefixtures("validation")
@pytest.mark.parametrize("poison", [poison_adapter, poison_spread, poison_B, infinite_logits, huge_spread])
def test_non_finite_loss_keeps_the_last_parameters_with_a_finite_one(recipe: str, poison: Callable[..., None]) -> None:
    model = MODELS["llama"]()
    guide = bp.BLoBGuide(model)
    svi = bp.BLoBSVI(model, guide, recipe=recipe, num_steps=10)
    batch = make_batch()
    svi.step(batch)
    good = [parameter.detach().clone() for parameter in svi.recipe.parameters()]  # what step 2 finds finite
    svi.step(batch)
    assert not all(torch.equal(p, before) for p, before in zip(svi.recipe.parameters(), good, strict=True))
    poison(model, guide)
    message = r"step 3: expected a finite [^\n]*; got (nan|inf|-inf)[^\n]* on the batch of items 0, 1, 2, 3; "
    with pytest.raises(bp.errors.NonFiniteLossError, match=message) as caught:
        svi.step(batch)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(p, before) for p, before in zip(svi.recipe.parameters(), good, strict=True))
    assert svi.steps_done == 2
    assert all(p.grad is None for p in svi.recipe.parameters())
    assert not held_draws(model)


def test_a_first_step_that_is_not_finite_changes_nothing() -> None:
    model = MODELS["llama"]()
    infinite_logits(model, guide := bp.BLoBGuide(model))
    before = snapshot(model.network, guide)
    with pytest.raises(bp.errors.NonFiniteLossError, match="step 1: expected a finite NLL"):
        bp.BLoBSVI(model, guide).step(make_batch())
    assert all(torch.equal(p, before[name]) for name, p in snapshot(model.network, guide).items())


@pytest.mark.parametrize("recipe", ["blob", "decoupled", "elbo"])
def test_gradients_that_lie_there_are_no_part_of_a_step(recipe: str) -> None:
    """A backward of one's own before the first step or between two, as a notebook may call."""

    def trained(meddle: bool) -> dict[str, torch.Tensor]:
        model = model_for("blob")
        torch.manual_seed(0)
        guide = bp.BLoBGuide(model)
        svi = bp.BLoBSVI(model, guide, lr=1e-2, recipe=recipe)
        for _ in range(2):
            if meddle:
                (1e3 * guide.kl()).backward()
            svi.step(make_batch())
        return snapshot(model.network, guide)

    expected, found = trained(meddle=False), trained(meddle=True)
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_items_without_an_index_are_unnamed() -> None:
    model = MODELS["llama"]()
    infinite_logits(model, guide := bp.BLoBGuide(model))
    batch = make_batch()
    with pytest.raises(bp.errors.NonFiniteLossError, match="batch of items unnamed"):
        bp.BLoBSVI(model, guide).step(bp.Batch(batch.input_ids, batch.attention_mask, batch.labels))


def test_settings_that_cannot_work_are_refused() -> None:
    model = MODELS["llama"]()
    guide = bp.BLoBGuide(model)
    with pytest.raises(bp.errors.ConfigError, match="recipe: expected one of blob, decoupled, elbo; got 'bayes'"):
        bp.BLoBSVI(model, guide, recipe="bayes")
    with pytest.raises(bp.errors.ConfigError, match="expected one of bp.guides; got AutoNormal; train it with pyro"):
        bp.BLoBSVI(model, pyro.infer.autoguide.AutoNormal(model))
    with pytest.raises(bp.errors.DataError, match="expected a batch with labels to train on; got labels=None"):
        bp.BLoBSVI(model, guide).step(make_batch(labels=False))
    model.num_data = None
    with pytest.raises(bp.errors.ConfigError, match="kl_schedule: expected num_data on BayesianLoRA to set it"):
        bp.BLoBSVI(model, guide).step(make_batch())
    with pytest.raises(bp.errors.ConfigError, match="set num_data on BayesianLoRA"):
        bp.BLoBSVI(model, guide, recipe="elbo")


def test_trained_heads_are_in_adamw() -> None:
    """A classifier's head is a point parameter like B."""
    model = MODELS["bert"]()
    guide = bp.BLoBGuide(model)
    before = snapshot(model.network)
    assert any("classifier" in name for name in before)
    svi = bp.BLoBSVI(model, guide, lr=1e-2)
    svi.step(make_batch())
    assert all(not torch.equal(p, before[name]) for name, p in snapshot(model.network).items())


def site_by_site(guide: AdapterGuide) -> AdapterGuide:
    """The same guide with one draw and one registered KL for each site."""
    kind = type(guide)
    guide.__class__ = type(f"Slow{kind.__name__}", (kind,), {name: getattr(AdapterGuide, name) for name in FUSED})
    return guide


FUSED = ("posteriors", "kl")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:kl_width. the posterior begins at")  # wide, so that noise shows
@pytest.mark.parametrize("kind", list(GAUSSIANS))
@pytest.mark.parametrize("noise", [nullcontext, bp.flipout])
@pytest.mark.parametrize("recipe", list(RECIPES))
@pytest.mark.parametrize(("name", "rtol"), [("llama", 1e-5), ("llama_bfloat16", 2e-2)])
def test_the_fused_step_is_the_step_site_by_site(name: str, rtol: float, recipe: str, noise: Any, kind: str) -> None:
    """Five steps under one seed: joint draws, one KL, fused optimisers against separate draws, torch's registry, loops.

    A bfloat16 network rounds to 8 bits: the last bit of a draw can move a logit by 2^-8 of it.
    """
    found = []
    for fused in (True, False):
        model = MODELS[name]()
        torch.manual_seed(0)
        guide: AdapterGuide = GAUSSIANS[kind][0](model)
        guide = guide if fused else site_by_site(guide)
        svi = bp.BLoBSVI(model, guide, recipe=recipe, num_steps=20, kl_schedule=lambda step: 0.1)
        for group in (group for optimizer in svi.recipe.optimizers for group in optimizer.param_groups):
            assert group["fused"]
            group["fused"], group["foreach"] = fused, False
        torch.manual_seed(1)
        results = []
        for _ in range(5):
            with noise():
                results.append(svi.step(make_batch()))
        found.append(
            ([result.nll for result in results], [result.kl for result in results], snapshot(model.network, guide))
        )
    (nll, kl, ours), (slow_nll, slow_kl, theirs) = found
    assert nll == pytest.approx(slow_nll, rel=10 * rtol)
    assert kl == pytest.approx(slow_kl, rel=1e-4)
    assert ours.keys() == theirs.keys()
    for key, value in ours.items():
        torch.testing.assert_close(value, theirs[key], rtol=rtol, atol=rtol)
