"""`LaplaceGuide`: its law and evidence, the rules of the prior precision, what fitting leaves alone and refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import MODELS, QUANTISED, draw_all, held_draws, make_batch, snapshot
from pyro.infer import Predictive
from torch import Tensor

import blob_pyro as bp
from blob_pyro.errors import ConfigError, DataError, LabelError, UnsupportedPosteriorError
from blob_pyro.guides.curvature import evidence_precision
from blob_pyro.guides.laplace import HELD_OUT_PRECISIONS
from blob_pyro.model.layers.checkpointing import enable_checkpointing
from blob_pyro.prediction.linearised import LinearisedPredictive

LaplaceGuide = bp.guides.LaplaceGuide
STRUCTURES = ("kron", "diag")


def fitted(name: str = "llama_both", **settings: Any) -> tuple[bp.BayesianLoRA, Any]:
    model = MODELS[name]()
    guide = LaplaceGuide(model, **settings)
    guide.fit([make_batch()])
    return model, guide


def dense_precision(guide: Any, site: str) -> Tensor:
    """H + lambda I of a site, rows laid end to end, float64."""
    curvature = guide.curvature(site)
    if guide.structure == "diag":
        H = curvature.diagonal.double().flatten().diag()
    else:
        out, inside = (
            (vectors.double() * values.double()) @ vectors.double().T
            for values, vectors in (
                (curvature.out_values, curvature.out_vectors),
                (curvature.in_values, curvature.in_vectors),
            )
        )
        H = torch.kron(out, inside)
    return H + float(guide.prior_precision) * torch.eye(len(H), dtype=torch.float64)


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("name", ["llama", "llama_B", "llama_both", "llama_head_both", "llama_last", "bert_both"])
def test_posterior_is_the_inverse_of_curvature_plus_prior(name: str, structure: str) -> None:
    """At every site: mean, marginal scales, density, against dense matrices."""
    model, guide = fitted(name, structure=structure, rank=3)
    for site in model.sites:
        precision = dense_precision(guide, site)
        law = guide.posterior(site)
        dense = torch.distributions.MultivariateNormal(
            guide.loc(site).detach().double().flatten(), precision_matrix=precision
        )
        assert torch.equal(law.mean, model.location(site).float())
        scale = dense.variance.sqrt().reshape(law.event_shape).float()
        torch.testing.assert_close(guide.scale(site), scale, rtol=1e-3, atol=1e-6)
        value = law.sample()
        torch.testing.assert_close(
            law.log_prob(value).double(), dense.log_prob(value.double().flatten()), rtol=1e-3, atol=0.05
        )


@pytest.mark.parametrize("structure", STRUCTURES)
def test_evidence_against_dense_matrices_and_its_maximum(structure: str) -> None:
    """log p(D | M) - lambda/2 |M|^2 + 1/2 log det lambda I - 1/2 log det (H + lambda I), by slogdet; in nats, total."""
    model, guide = fitted(structure=structure)
    batch, precision = make_batch(), float(guide.prior_precision)
    assert batch.labels is not None
    expected = -float(torch.nn.functional.cross_entropy(model.logits(batch), batch.labels, reduction="sum").detach())
    assert float(guide.log_likelihood) == pytest.approx(expected, rel=1e-5)
    for site in model.sites:
        P = dense_precision(guide, site)
        expected -= 0.5 * precision * float(model.location(site).detach().double().square().sum())
        expected += 0.5 * (len(P) * math.log(precision) - float(torch.linalg.slogdet(P).logabsdet))
    assert guide.log_evidence() == pytest.approx(expected, rel=1e-5)
    assert all(guide.log_evidence(precision * factor) < guide.log_evidence() for factor in (0.5, 0.98, 1.02, 2, 1e3))
    assert precision == evidence_precision(guide.loc_square(), guide.eigenvalues())


def test_held_out_rule_takes_the_least_nll_of_the_linearised_predictive() -> None:
    """The tabulated NLLs are those of `LinearisedPredictive` at each precision, up to the noise of its own draws."""
    model = MODELS["llama_both"]()
    guide = LaplaceGuide(model, prior_precision="held_out")
    held_out = [make_batch((5, 3, 6), seed=8), make_batch((4, 4), seed=9)]
    guide.fit([make_batch()], held_out)
    nll = guide.held_out_nll(held_out, HELD_OUT_PRECISIONS)
    assert float(guide.prior_precision) == float(HELD_OUT_PRECISIONS[nll.argmin()])
    assert float(nll.max() - nll.min()) > 0.05
    unindexed = [bp.Batch(b.input_ids, b.attention_mask, b.labels) for b in held_out]
    for index in (4, 16, 30):
        guide.prior_precision.fill_(float(HELD_OUT_PRECISIONS[index]))
        found = LinearisedPredictive(model, guide, 20_000)(unindexed)
        assert found.labels is not None
        picked = found.draws[:, torch.arange(5), found.labels].double()
        # 512 draws give each item's probability; the error of the mean NLL is at most the items' mean of it
        error = (picked.std(0) / picked.mean(0)).mean() / math.sqrt(512)
        assert abs(float(nll[index] + picked.mean(0).log().mean())) < 5 * float(error) + 1e-5
    assert guide.log_evidence() < guide.log_evidence(evidence_precision(guide.loc_square(), guide.eigenvalues()))


@pytest.mark.parametrize("structure", STRUCTURES)
def test_kl_is_the_monte_carlo_kl(structure: str) -> None:
    """Against the model's own prior: mean of log q - log p over 2,000 draws of all sites, within 5 standard errors.

    A normal error leaves them once in two million runs; the standard error is under 1 % of the KL.
    """
    model, guide = fitted(structure=structure)
    gaps = torch.zeros(2000)
    with torch.no_grad():
        for site in model.sites:
            draws = guide.posterior(site).sample((2000,))
            gaps += guide.posterior(site).log_prob(draws) - model.prior(site).log_prob(draws)
        kl = float(guide.kl())
    error = float(gaps.std()) / math.sqrt(2000)
    assert abs(float(gaps.mean()) - kl) < 5 * error + 1e-5 * kl
    assert error < 0.01 * kl


@pytest.mark.parametrize("structure", STRUCTURES)
def test_weight_draws_are_a_naive_loop(structure: str) -> None:
    """`PosteriorPredictive` and Pyro's on the same draws; each draw is the law's own."""
    model, guide = fitted(structure=structure)
    batch = make_batch(labels=False)
    predictive = bp.PosteriorPredictive(model, guide, 4)
    torch.manual_seed(1)
    found = predictive(batch)
    torch.manual_seed(1)
    with torch.no_grad():
        draws = [{site: guide.posterior(site).sample() for site in model.sites} for _ in range(4)]
        expected = torch.stack([model.logits(batch, draw).softmax(-1) for draw in draws])
    torch.testing.assert_close(found.draws, expected, rtol=1e-4, atol=1e-5)
    samples = {site: torch.stack([draw[site] for draw in draws]) for site in model.sites}
    pyros = Predictive(model, posterior_samples=samples, return_sites=("_RETURN",))(batch)["_RETURN"]
    torch.testing.assert_close(found.draws, pyros.softmax(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("settings", [{}, {"rank": 2}, {"structure": "diag"}, {"prior_precision": "held_out"}])
def test_save_and_load_bit_for_bit(settings: dict[str, Any], tmp_path: Path) -> None:
    model = MODELS["llama_both"]()
    guide = LaplaceGuide(model, **settings)
    shapes = {name: value.shape for name, value in guide.tensors().items()}
    guide.fit([make_batch()], [make_batch(seed=8)])
    assert {name: value.shape for name, value in guide.tensors().items()} == shapes
    bp.save(tmp_path, model, guide)
    base = MODELS["llama_both"]().network.unload()
    run = bp.load(tmp_path, base=base)
    assert isinstance(run.guide, LaplaceGuide) and run.guide.settings() == guide.settings()
    assert all(torch.equal(value, guide.tensors()[name]) for name, value in run.guide.tensors().items())
    assert run.guide.log_evidence() == guide.log_evidence()
    batch = make_batch()
    for predict in (bp.PosteriorPredictive, LinearisedPredictive):
        answers = []
        for m, g in ((model, guide), (run.model, run.guide)):
            torch.manual_seed(1)
            answers.append(predict(m, g, 3)(batch).draws)  # type: ignore[arg-type]
        assert torch.equal(*answers)


def test_fitting_changes_nothing_else() -> None:
    """Not the adapter, gradients, modes, held draws or the global random state; again it gives the same."""
    model, guide = fitted("gpt2")
    first = {name: value.clone() for name, value in guide.tensors().items()}
    for position, module in enumerate(model.network.modules()):
        module.training = position % 3 == 0
    modes = [module.training for module in model.network.modules()]
    before, state = snapshot(model.network), torch.get_rng_state()
    guide.fit(iter([make_batch()]))
    assert all(torch.equal(value, before[name]) for name, value in snapshot(model.network).items())
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.network.modules()] == modes
    assert all(p.grad is None for p in model.network.parameters())
    assert not held_draws(model)
    assert not any(value.requires_grad for value in guide.tensors().values())
    assert all(torch.equal(value, first[name]) for name, value in guide.tensors().items())


def test_dropout_is_off_while_fitting() -> None:
    model = MODELS["gpt2"](resid_pdrop=0.5)
    guides = [LaplaceGuide(model) for _ in range(2)]
    model.network.train()
    for guide in guides:
        guide.fit([make_batch()])
    assert float(guides[0].log_likelihood) == float(guides[1].log_likelihood)


def test_gradient_checkpointing_does_not_matter() -> None:
    """The network is in evaluation mode while it is measured, where nothing is recomputed; reentrant mode too."""
    plain, checkpointed = MODELS["llama_both"](), MODELS["llama_both"]()
    network = checkpointed.network
    enable_checkpointing(network, use_reentrant=True)
    network.train()
    guides = [LaplaceGuide(model) for model in (plain, checkpointed)]
    for guide in guides:
        guide.fit([make_batch()])
    assert all(torch.equal(value, guides[1].tensors()[name]) for name, value in guides[0].tensors().items())


@pytest.mark.parametrize("name", list(QUANTISED))
def test_quantised_bases(name: str) -> None:
    model = QUANTISED[name]()
    guide = LaplaceGuide(model)
    guide.fit([make_batch()])
    assert math.isfinite(guide.log_evidence())
    assert all(bool((guide.scale(site) > 0).all()) for site in model.sites)


def test_last_layer_is_a_model_with_fewer_sites() -> None:
    """Its curvature is that of the same sites among all, at the same weights."""
    last, whole = fitted("llama_last")[1], fitted("llama")[1]
    assert 0 < len(last.model.sites) < len(whole.model.sites)
    for site in last.model.sites:
        for name, value in last.curvature(site).named_buffers():
            torch.testing.assert_close(value, dict(whole.curvature(site).named_buffers())[name], rtol=1e-3, atol=1e-4)
    assert float(last.prior_precision) != float(whole.prior_precision)


def test_an_unfitted_guide_has_no_law() -> None:
    model = MODELS["llama"]()
    guide = LaplaceGuide(model)
    for ask in (lambda: guide.posterior(next(iter(model.sites))), guide, guide.kl, guide.log_evidence):
        with pytest.raises(UnsupportedPosteriorError, match="guide laplace: expected a curvature; got none; call fit"):
            ask()


def test_flipout_refuses_the_kronecker_law() -> None:
    model, guide = fitted("llama")
    svi = bp.BLoBSVI(model, guide, recipe="elbo", lr=1e-9)
    with bp.flipout(), pytest.raises(UnsupportedPosteriorError, match="expects a Normal posterior"):
        svi.step(make_batch())


def test_what_fit_refuses() -> None:
    model = MODELS["llama"]()
    guide = LaplaceGuide(model)
    with pytest.raises(DataError, match="guide laplace: expected items to measure on; got none"):
        guide.fit([])
    with pytest.raises(DataError, match="guide laplace: expected batches with labels; got labels=None"):
        guide.fit([make_batch(labels=False)])
    batch = make_batch()
    with pytest.raises(LabelError, match="expected labels from 0 to 2; got"):
        guide.fit([bp.Batch(batch.input_ids, batch.attention_mask, torch.full((4,), 3))])
    with pytest.raises(ConfigError, match="expected held-out items for prior_precision='held_out'; got none"):
        LaplaceGuide(model, prior_precision="held_out").fit([batch])
    for layer in model.sites.values():
        layer.lora_B[model.adapter].weight.data.zero_()
    with pytest.raises(ConfigError, match="a largest eigenvalue of 0; train the adapter first"):
        guide.fit([batch])
    with pytest.raises(UnsupportedPosteriorError, match="call fit"):
        guide.kl()


def test_bad_settings() -> None:
    model = MODELS["llama"]()
    with pytest.raises(ConfigError, match="structure: expected one of kron, diag; got 'full'"):
        LaplaceGuide(model, structure="full")
    with pytest.raises(ConfigError, match="prior_precision: expected one of evidence, held_out; got 'mean'"):
        LaplaceGuide(model, prior_precision="mean")
    with pytest.raises(ConfigError, match="rank: expected at least 1 eigenpair; got 0"):
        LaplaceGuide(model, rank=0)


def test_curvature_is_at_the_adapters_weights() -> None:
    """Other weights, another curvature: nothing is remembered from the constructor."""
    model, guide = fitted("llama")
    before = guide.eigenvalues().clone()
    for site, value in draw_all(model).items():
        model.location(site).data.copy_(value)
    guide.fit([make_batch()])
    assert float((guide.eigenvalues() - before).abs().max()) > 0.01 * float(before.max())


@pytest.mark.parametrize("structure", STRUCTURES)
def test_an_autocast_around_the_fit_changes_nothing(structure: str) -> None:
    _, guide = fitted("llama", structure=structure)
    with torch.autocast("cpu", torch.bfloat16):
        _, other = fitted("llama", structure=structure)
    expected, found = guide.tensors(), other.tensors()
    assert expected.keys() == found.keys()
    assert all(torch.equal(value, found[name]) for name, value in expected.items())
