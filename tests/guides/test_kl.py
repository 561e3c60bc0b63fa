"""The KL of every guide: formula = registry = Monte Carlo = full weight, and what Pyro's ELBOs make of it."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from cases import EVERY_GUIDE, GUIDES, MODELS, NUM_DATA, POINT_GUIDES, QUANTISED, RANDOM_GUIDES, make_batch, model_for
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.distributions.kl import kl_divergence

import blob_pyro as bp
from blob_pyro.distributions import FullWeightNormal, UnpenalisedDelta
from blob_pyro.training.elbo import negative_elbo

SIGMA = 0.2
UNPENALISED = ("dropout",)  # random guides without a KL, and so without a penalty


def formula(M: Tensor, G: Tensor) -> Tensor:
    """The paper's KL, entry by entry, in float64, total nats."""
    M, G = M.double(), G.double()
    return (math.log(SIGMA) - 2 * G.abs().log() + (G**4 + M**2) / (2 * SIGMA**2) - 0.5).sum()


def blob(name: str = "llama", eps: float = 0.4) -> tuple[bp.BayesianLoRA, bp.BLoBGuide]:
    model = MODELS[name]()
    return model, bp.BLoBGuide(model, eps=eps)


@pytest.mark.parametrize("eps", [0.05, 0.6])
@pytest.mark.parametrize("name", list(MODELS))
def test_blob_kl_is_the_formula(name: str, eps: float) -> None:
    model, guide = blob(name, eps)
    by_hand = torch.stack([formula(guide.loc(site), guide.root_scale(site)) for site in model.sites]).sum()
    torch.testing.assert_close(guide.kl().double(), by_hand, rtol=1e-5, atol=1e-3)
    assert guide.kl().dtype == torch.float32


@pytest.mark.parametrize("eps", [0.05, 0.6])
def test_blob_kl_gradients(eps: float) -> None:
    """dKL/dM = M / sigma_p^2 and dKL/dG = 2 G^3 / sigma_p^2 - 2 / G, also where G is negative."""
    model, guide = blob(eps=eps)
    guide.root_scales[0].data.neg_()
    guide.kl().backward()
    for site in model.sites:
        M, G = model.location(site), guide.root_scale(site)
        torch.testing.assert_close(M.grad, M.detach() / SIGMA**2, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(G.grad, 2 * G.detach() ** 3 / SIGMA**2 - 2 / G.detach(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("eps", [0.05, 0.6])
def test_softplus_kl_and_its_gradients(eps: float) -> None:
    """The same KL in sigma = log(1 + e^rho); dKL/drho = (sigma / sigma_p^2 - 1 / sigma) / (1 + e^-rho)."""
    model = MODELS["llama"]()
    guide = bp.BLoBGuide(model, eps=eps, scale="softplus")
    kl = guide.kl()
    kl.backward()
    by_hand = 0.0
    for site in model.sites:
        M, rho = model.location(site).detach().double(), guide.unconstrained_scale(site).detach().double()
        s = (1 + rho.exp()).log()
        by_hand += float((math.log(SIGMA) - s.log() + (s**2 + M**2) / (2 * SIGMA**2) - 0.5).sum())
        slope = (s / SIGMA**2 - 1 / s) / (1 + (-rho).exp())
        torch.testing.assert_close(guide.unconstrained_scale(site).grad.double(), slope, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.location(site).grad.double(), M / SIGMA**2, rtol=1e-5, atol=1e-6)
    assert float(kl.detach()) == pytest.approx(by_hand, rel=1e-5)


def test_softplus_starts_where_the_square_starts() -> None:
    """Under one seed, entry by entry; the parameter has a name of its own, and the other one's is refused."""
    model = MODELS["llama"]()
    guides = {}
    for scale in ("square", "softplus"):
        torch.manual_seed(5)
        guides[scale] = bp.BLoBGuide(model, eps=0.05, scale=scale)
    for site in model.sites:
        torch.testing.assert_close(guides["softplus"].scale(site), guides["square"].scale(site), rtol=1e-5, atol=0)
    site = next(iter(model.sites))
    assert f"{site}.root_scale" in guides["square"].scale_parameters()
    assert f"{site}.unconstrained_scale" in guides["softplus"].scale_parameters()
    with pytest.raises(bp.errors.ConfigError, match="root_scale: expected a guide .* take unconstrained_scale"):
        guides["softplus"].root_scale(site)
    with pytest.raises(bp.errors.ConfigError, match="root_scale: expected a guide .* take unconstrained_scale"):
        _ = guides["softplus"].root_scales
    with pytest.raises(bp.errors.ConfigError, match="unconstrained_scale: expected a guide .* take root_scale"):
        guides["square"].unconstrained_scale(site)
    with pytest.raises(bp.errors.ConfigError, match="scale: expected one of square, softplus; got 'exp'"):
        bp.BLoBGuide(model, scale="exp")


def test_blob_kl_does_not_depend_on_B() -> None:
    model, guide = blob()
    before = guide.kl()
    for parameter in model.point_parameters().values():
        parameter.data.mul_(3)
    assert torch.equal(guide.kl(), before)
    assert all(p.grad is None for p in model.point_parameters().values())


@pytest.mark.parametrize(("scale", "free"), [("square", math.sqrt(SIGMA)), ("softplus", math.log(math.expm1(SIGMA)))])
def test_kl_of_the_prior_is_zero(scale: str, free: float) -> None:
    """M = 0, and G^2 = sigma_p or log(1 + e^rho) = sigma_p."""
    model = MODELS["llama"]()
    guide = bp.BLoBGuide(model, scale=scale)
    for site in model.sites:
        model.location(site).data.zero_()
        guide.free_scale(site).data.fill_(free)
    assert abs(float(guide.kl().detach())) < 1e-3


@pytest.mark.parametrize("name", RANDOM_GUIDES)
def test_kl_is_the_monte_carlo_kl(name: str) -> None:
    """Mean of log q - log p over 2,000 draws of all sites against `kl()`.

    Within 5 standard errors of the mean; a normal error leaves them once in two million runs. The standard
    error is under 1 % of the KL, so a missing term would show. Where the prior is cancelled both are exactly zero.
    """
    model = MODELS["llama"]()
    guide = GUIDES[name](model)
    gaps = torch.zeros(2000)
    with torch.no_grad():
        for site in model.sites:
            q, p = guide.posterior(site), model.prior(site)
            draws = q.sample((2000,))
            gaps += q.log_prob(draws) - p.log_prob(draws)
        kl = float(guide.kl())
    error = float(gaps.std()) / math.sqrt(2000)
    assert (kl == 0) is (name in UNPENALISED)
    assert abs(float(gaps.mean()) - kl) <= 5 * error + 1e-5 * kl
    assert error <= 0.01 * kl


@pytest.mark.parametrize("name", RANDOM_GUIDES)
def test_kl_is_the_one_that_pyro_takes(name: str) -> None:
    """TraceMeanField_ELBO's loss is N * NLL + KL on the draw of the same seed."""
    model = MODELS["llama"]()
    guide = GUIDES[name](model)
    batch = make_batch()
    torch.manual_seed(3)
    loss = TraceMeanField_ELBO().loss(model, guide, batch)
    torch.manual_seed(3)
    with torch.no_grad():
        values = {site: guide.posterior(site).rsample() for site in model.sites}
        expected = negative_elbo(nll_of(model, values, batch), guide.kl(), NUM_DATA, kl_weight=1.0)
    assert loss == pytest.approx(float(expected), rel=1e-5)


def nll_of(model: bp.BayesianLoRA, values: dict[str, Tensor], batch: bp.Batch) -> Tensor:
    """Mean nats per item under given A, by a loop over items."""
    assert batch.labels is not None
    log_probs = model.logits(batch, values).log_softmax(-1)
    return -torch.stack([log_probs[row, label] for row, label in enumerate(batch.labels.tolist())]).mean()


@pytest.mark.parametrize("name", list(GUIDES))
def test_trace_elbo_samples_the_same_kl(name: str) -> None:
    """Trace_ELBO: N * NLL + log q(A) - log p(A) at its own draw."""
    model = MODELS["llama"]()
    guide = GUIDES[name](model)
    batch = make_batch()
    torch.manual_seed(3)
    loss = Trace_ELBO().loss(model, guide, batch)
    torch.manual_seed(3)
    with torch.no_grad():
        values = {site: guide.posterior(site).rsample() for site in model.sites}
        expected = NUM_DATA * nll_of(model, values, batch)
        for site, value in values.items():
            expected += guide.posterior(site).log_prob(value) - model.prior(site).log_prob(value)
    assert loss == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("name", POINT_GUIDES)
def test_points_under_pyros_elbos(name: str, elbo: type[Trace_ELBO]) -> None:
    """MLE: the likelihood alone. MAP: minus the log prior as well, written out entry by entry."""
    model = MODELS["llama"]()
    guide = GUIDES[name](model)
    batch = make_batch()
    A = torch.cat([model.location(site).detach().flatten() for site in model.sites]).double()
    minus_log_prior = (A**2 / (2 * SIGMA**2) + math.log(SIGMA) + 0.5 * math.log(2 * math.pi)).sum()
    penalty = {"mle": 0.0, "map": float(minus_log_prior)}[name]
    with torch.no_grad():
        nll = float(nll_of(model, {site: model.location(site) for site in model.sites}, batch))
        assert float(guide.kl()) == pytest.approx(penalty, rel=1e-5)
    assert elbo().loss(model, guide, batch) == pytest.approx(NUM_DATA * nll + penalty, rel=1e-5)


@pytest.mark.parametrize("name", ["mle"])
def test_mle_gradients_are_the_likelihoods(name: str) -> None:
    """Under Pyro's ELBO: plain LoRA's gradients, without the prior's pull on A."""
    model = MODELS["llama"]()
    guide = GUIDES[name](model)
    batch = make_batch()
    TraceMeanField_ELBO().differentiable_loss(model, guide, batch).backward()
    ours = {n: p.grad.clone() for n, p in model.network.named_parameters() if p.requires_grad}
    model.network.zero_grad()
    assert batch.labels is not None
    (NUM_DATA * torch.nn.functional.cross_entropy(model.logits(batch), batch.labels)).backward()
    for n, p in model.network.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(ours[n], p.grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_full_weight_kl_is_the_kl_on_A(name: str) -> None:
    """Theorem 3.2 on a guide's own sites: posterior and prior pushed to the whole weight by one B.

    `full_weight_posterior` builds its law from the layer; the prior's is built here, with R = s B.
    """
    model, guide = blob(name)
    for site, layer in model.sites.items():
        posterior = guide.full_weight_posterior(site)
        R = 2.0 * layer.lora_B[model.adapter].weight.detach()  # lora_alpha / r = 8 / 4
        zero, spread = torch.zeros_like(guide.loc(site)), torch.full_like(guide.loc(site), SIGMA)
        prior = FullWeightNormal(posterior.base_weight, R, zero, spread)
        on_A = kl_divergence(guide.posterior(site), model.prior(site))
        torch.testing.assert_close(kl_divergence(posterior, prior), on_A, rtol=1e-4, atol=1e-3)
        # and by the general formula, when p has another B that spans the same columns: R Q with Q orthogonal
        Q = torch.linalg.qr(torch.randn(4, 4)).Q
        turned = FullWeightNormal(posterior.base_weight, R @ Q, zero, spread)
        torch.testing.assert_close(kl_divergence(posterior, turned), on_A, rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "llama_head"])
def test_full_weight_mean_is_what_peft_merges(name: str) -> None:
    """(m, n) = (out, in) for every layer, GPT-2's transposed Conv1D too; the scaling is in it."""
    model, guide = blob(name)
    means = {site: guide.full_weight_posterior(site).mean.detach() for site in model.sites}
    model.network.merge_adapter()
    for site, layer in model.sites.items():
        merged = layer.get_base_layer().weight.detach()
        torch.testing.assert_close(means[site], merged.T if name == "gpt2" else merged, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["llama_B", "llama_head_both"])
def test_no_full_weight_law_with_a_random_B(name: str) -> None:
    model, guide = blob(name)
    for site in model.sites:
        with pytest.raises(bp.errors.ConfigError, match=f"site {site}: expected a random A and a point B for the law"):
            guide.full_weight_posterior(site)


@pytest.mark.parametrize("name", list(QUANTISED))
def test_full_weight_mean_of_quantised_layers(name: str) -> None:
    """The law's mean, applied as a matrix, is the layer's own output up to the quantised product's rounding."""
    model = QUANTISED[name]()
    guide = bp.BLoBGuide(model)
    site, layer = next(iter(model.sites.items()))
    x = torch.randn(16, 64)
    with torch.no_grad():
        out = layer(x).float()
        by_law = x @ guide.full_weight_posterior(site).mean.T
    assert float((out - by_law).norm() / out.norm()) < 0.03


def test_unpenalised_delta_is_free_against_anything() -> None:
    prior = pyro.distributions.Normal(torch.zeros(2, 3), torch.ones(2, 3)).to_event(2)
    point = UnpenalisedDelta(torch.ones(2, 3), prior)
    assert float(kl_divergence(point, prior)) == 0.0
    torch.testing.assert_close(point.log_prob(torch.ones(2, 3)), prior.log_prob(torch.ones(2, 3)))
    wide = point.expand(torch.Size([5]))
    assert kl_divergence(wide, prior.expand([5])).tolist() == [0.0] * 5
    assert poutine.trace(lambda: pyro.sample("x", wide)).get_trace().nodes["x"]["value"].shape == (5, 2, 3)


def test_initial_spread() -> None:
    """G ~ U(eps / sqrt 2, eps), float32, whatever the base's dtype; M is PEFT's own initial weight."""
    for name in ("llama", "llama_bfloat16"):
        model, guide = blob(name, eps=0.05)
        roots = torch.cat([root.detach().flatten() for root in guide.root_scales])
        assert roots.dtype == torch.float32
        assert 0.05 / math.sqrt(2) <= float(roots.min()) < 0.0358
        assert 0.0495 < float(roots.max()) <= 0.05
        for site in model.sites:
            torch.testing.assert_close(guide.scale(site), guide.root_scale(site) ** 2)
            assert torch.equal(guide.loc(site), model.location(site).float())


@pytest.mark.parametrize("name", list(EVERY_GUIDE))
def test_every_guide_has_the_same_names(name: str) -> None:
    model = model_for(name)
    guide = EVERY_GUIDE[name](model)
    again = EVERY_GUIDE[name](model, **guide.settings())
    assert again.settings() == guide.settings()
    locations = [id(p) for p in guide.location_parameters().values()]
    assert locations[: len(model.sites)] == [id(model.location(site)) for site in model.sites]
    assert name == "ensemble" or len(locations) == len(model.sites)  # an ensemble has those of every member
    owned = {id(p) for p in guide.parameters()}
    assert owned == {id(p) for p in guide.scale_parameters().values()}
    for site in model.sites:
        law, shape = guide.posterior(site), model.location(site).shape
        assert law.event_shape == shape and law.batch_shape == ()
        assert guide.loc(site).shape == guide.scale(site).shape == shape
        torch.testing.assert_close(law.mean, guide.loc(site))
        torch.testing.assert_close(law.variance.sqrt(), guide.scale(site))
        assert bool((guide.scale(site) > 0).all()) is guide.is_random
    assert guide().keys() == model.sites.keys()


def test_eps_must_be_positive() -> None:
    with pytest.raises(bp.errors.ConfigError, match="eps: expected a number above 0; got 0.0"):
        bp.BLoBGuide(MODELS["llama"](), eps=0.0)
