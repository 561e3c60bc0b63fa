"""On a second device every model, likelihood and guide does what it does on the CPU, number for number."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import cases
import pyro
import pytest
import torch
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.optim import SGD

import blob_pyro as bp
from blob_pyro.errors import DataError

PLACE = "second:1"  # not the current one
STEPS = 2
LOW_RANK = 0.1  # what two steps make of the rounding of its ill-conditioned products
EXACT = {"attn_implementation": "eager"}  # one kernel on both; Adam makes a step of any rounding of a gradient near 0


def batch(likelihood: str = "MultipleChoice") -> bp.Batch:
    """Items on the CPU, as loaders give them."""
    found = cases.make_batch()
    if likelihood != "CausalLM":
        return found
    labels = found.input_ids.masked_fill(found.attention_mask == 0, -100)
    return bp.Batch(found.input_ids, found.attention_mask, labels=labels, index=found.index)


def agree(run: Callable[[str], Any], *, rounding: float = 1e-4) -> None:
    """What a run answers there is what it answers on the CPU, but for the rounding of another attention kernel."""
    torch.manual_seed(5)
    expected = run("cpu")
    pyro.clear_param_store()
    torch.manual_seed(5)
    found = run(PLACE)
    assert len(found) == len(expected) > 0
    for value, twin in zip(found, expected, strict=True):
        value, twin = (torch.as_tensor(one).detach().cpu().double() for one in (value, twin))
        torch.testing.assert_close(value, twin, rtol=rounding, atol=rounding * float(twin.abs().max()) + 1e-12)


def of(*modules: torch.nn.Module) -> list[torch.Tensor]:
    """Every trainable parameter; all of them lie where the model is."""
    found = list(cases.trainable(*modules).values())
    assert len({parameter.device for parameter in found}) == 1
    return found


@pytest.mark.parametrize("name", cases.MODELS)
def test_a_models_logits_and_gradients(name):
    def run(place: str) -> list[torch.Tensor]:
        model = cases.MODELS[name]().to(place)
        draws = {site: value.to(place).requires_grad_() for site, value in cases.draw_all(model, 3).items()}
        logits = model.logits(cases.make_batch(), draws)
        assert str(logits.device) == place
        logits.float().square().sum().backward()
        return [logits, *[p.grad for p in [*draws.values(), *cases.trainable(model).values()] if p.grad is not None]]

    agree(run, rounding=0.05 if name == "llama_bfloat16" else 1e-4)


@pytest.mark.parametrize("likelihood", cases.LIKELIHOODS)
@pytest.mark.parametrize("flipout", [False, True])
def test_a_likelihoods_steps_and_answers(likelihood, flipout):
    def run(place: str) -> list[Any]:
        if likelihood == "SequenceClassification":
            model = cases.MODELS["bert"](**EXACT).to(place)
        else:
            model = cases.causal("LlamaForCausalLM", cases.LLAMA, *cases.Q_V, likelihood=likelihood)(**EXACT).to(place)
        guide = bp.guides.BLoBGuide(model)
        svi = bp.BLoBSVI(model, guide, num_steps=STEPS, lr=1e-2)
        with bp.flipout() if flipout else contextlib.nullcontext():
            steps = [svi.step(batch(likelihood)) for _ in range(STEPS)]
        if likelihood == "CausalLM":
            answers = bp.TokenPredictive(model, guide, num_samples=3)([batch(likelihood)])
            answers = [answers.index, answers.nll] if hasattr(answers, "nll") else [torch.tensor(0)]
        else:
            answers = [bp.PosteriorPredictive(model, guide, num_samples=3)([batch()]).probs]
        return [*[step.loss for step in steps], *of(model, guide), *answers]

    agree(run)


@pytest.mark.parametrize("recipe", ["blob", "decoupled", "elbo"])
@pytest.mark.parametrize("name", cases.TRAINED)
def test_a_guides_steps_and_answers(name, recipe):
    def run(place: str) -> list[Any]:
        model = cases.model_for(name, **EXACT).to(place)
        guide = cases.EVERY_GUIDE[name](model)
        svi = bp.BLoBSVI(model, guide, recipe=recipe, lr=1e-3, kl_lr=1e-3, gradient_accumulation_steps=2)
        steps = [svi.step(batch()) for _ in range(STEPS)]
        answers = bp.PosteriorPredictive(model, guide, num_samples=3)([batch()])
        return [
            *[number for step in steps for number in (step.loss, step.kl)],
            *of(model, guide),
            guide.kl(),
            answers.probs,
        ]

    agree(run, rounding=LOW_RANK if name == "low_rank" else 1e-4)


@pytest.mark.parametrize("name", [name for name in cases.EVERY_GUIDE if name not in cases.TRAINED])
def test_a_fitted_guides_answers(name):
    def run(place: str) -> list[Any]:
        model = cases.model_for(name, **EXACT).to(place)
        guide = cases.EVERY_GUIDE[name](model)
        laws = guide.posteriors()
        found = [part for law in laws.values() for part in (law.mean, law.variance)]
        if name.startswith("laplace"):  # its draws go along eigenvectors, of either sign
            assert bool(bp.PosteriorPredictive(model, guide, num_samples=3)([batch()]).probs.isfinite().all())
            return [*found, *bp.LinearisedPredictive(model, guide).logit_law(batch())]
        return [bp.PosteriorPredictive(model, guide, num_samples=3)([batch()]).probs, *found]

    agree(run)


@pytest.mark.parametrize("kind", ["blob", "AutoNormal", "AutoLowRankMultivariateNormal", "AutoDelta"])
def test_pyros_own_svi_and_predictive(kind):
    def run(place: str) -> list[Any]:
        model = cases.MODELS["llama"](**EXACT).to(place)
        guide: Any = bp.guides.BLoBGuide(model) if kind == "blob" else getattr(pyro.infer.autoguide, kind)(model)
        svi = SVI(model, guide, SGD({"lr": 1e-4}), Trace_ELBO())
        items = batch().to(place)
        losses = [svi.step(items) for _ in range(STEPS)]
        found = Predictive(model, guide=guide, num_samples=2, return_sites=("_RETURN",))(items)
        return [*losses, *found.values()]

    agree(run, rounding=LOW_RANK if "LowRank" in kind else 1e-4)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
@pytest.mark.parametrize("name", ["llama", "bert", "gpt2"])
def test_mixed_precision_computes_in_it_and_keeps_the_parameters(name, precision):
    model = cases.MODELS[name]().to(PLACE)
    guide = bp.guides.BLoBGuide(model)
    svi = bp.BLoBSVI(model, guide, num_steps=STEPS, lr=1e-2, mixed_precision=precision)
    exact = bp.BLoBSVI(other := cases.MODELS[name]().to(PLACE), bp.guides.BLoBGuide(other), num_steps=STEPS, lr=1e-2)
    torch.manual_seed(5)
    step = svi.step(batch())
    torch.manual_seed(5)
    twin = exact.step(batch())
    assert step.nll == pytest.approx(twin.nll, rel=0.05) and step.nll != twin.nll
    assert all(p.dtype == torch.float32 for p in of(model, guide))
    with torch.autocast("second", {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]):
        assert bp.PosteriorPredictive(model, guide, num_samples=2)([batch()]).probs.dtype == torch.float32


ANSWERERS: dict[str, Callable[[Any, Any], Any]] = {
    "a step": lambda model, guide: bp.BLoBSVI(model, guide, num_steps=STEPS).step,
    "draws": lambda model, guide: bp.PosteriorPredictive(model, guide, num_samples=2),
    "the mean": lambda model, guide: bp.PosteriorPredictive(model, guide, num_samples=0),
    "plain Pyro": lambda model, guide: Predictive(model, guide=guide, num_samples=1),
}


@pytest.mark.parametrize("name", ANSWERERS)
def test_ids_beyond_the_embedding_are_told_before_they_go_there(name):
    """On a GPU they would end in an assertion of the device, behind which nothing works any more."""
    model = cases.MODELS["llama"]().to(PLACE)
    items = cases.make_batch()
    items.input_ids[1, 0] = cases.VOCAB
    with pytest.raises(DataError, match=f"input_ids: expected .* got {cases.VOCAB}"):
        ANSWERERS[name](model, bp.guides.BLoBGuide(model))(items)
