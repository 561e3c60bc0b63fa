"""A law of the prior scale: one more Pyro site, answered by a learned point; densities and optimum by hand."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import (
    ANSWERS,
    GUIDES,
    KINDS,
    LLAMA,
    MODELS,
    NUM_DATA,
    POINT_GUIDES,
    Q_V,
    adapt,
    causal_base,
    make_batch,
    pretrained,
)
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor
from torch.distributions import Distribution

import blob_pyro as bp
from blob_pyro.guides import AdapterGuide, MeanFieldGuide, empirical_prior_scale, init_to_adapter
from blob_pyro.guides.gaussian import FactorisedGaussianGuide
from blob_pyro.model.likelihoods import MultipleChoice
from blob_pyro.model.prior import PRIOR_SCALE, Hyperprior
from blob_pyro.training.kl_schedule import constant
from blob_pyro.training.recipes import RECIPES, PriorScaleStep

LOG_NORMAL = dist.LogNormal(math.log(0.2), 1.0)
FLAT = dist.HalfNormal(1e6)

# law -> log density at x and centre, written out
LAWS: dict[str, tuple[Distribution, Callable[[float], float], float]] = {
    "LogNormal": (
        dist.LogNormal(math.log(0.3), 0.5),
        lambda x: -math.log(x * 0.5 * math.sqrt(2 * math.pi)) - (math.log(x / 0.3) / 0.5) ** 2 / 2,
        0.3,
    ),
    "HalfNormal": (
        dist.HalfNormal(0.4),
        lambda x: math.log(2 / (0.4 * math.sqrt(2 * math.pi))) - (x / 0.4) ** 2 / 2,
        0.4 * 0.6744897501960817,
    ),
    "HalfCauchy": (dist.HalfCauchy(0.25), lambda x: math.log(2 / (math.pi * 0.25)) - math.log1p((x / 0.25) ** 2), 0.25),
    "Gamma": (dist.Gamma(2.0, 8.0), lambda x: 2 * math.log(8) + math.log(x) - 8 * x, 0.25),
}
LEARNING = [name for name, kind in KINDS.items() if kind.learns_prior_scale]
FACTORISED = [name for name in LEARNING if issubclass(KINDS[name], FactorisedGaussianGuide)]
HOLDING = [name for name in GUIDES if name not in LEARNING]


def model_with(law: Any = LOG_NORMAL, **settings: Any) -> bp.BayesianLoRA:
    """The tiny Llama of `cases`, with another prior scale."""
    likelihood = MultipleChoice(ANSWERS)
    network = adapt(causal_base("LlamaForCausalLM", LLAMA), Q_V, likelihood)
    return bp.BayesianLoRA(network, likelihood, prior_scale=law, num_data=NUM_DATA, **settings)


def moments(guide: AdapterGuide) -> tuple[int, float, float]:
    """Number of entries, sum of log scale, sum of scale^2 + loc^2, in float64."""
    with torch.no_grad():
        loc = torch.cat([guide.loc(site).flatten() for site in guide.model.sites]).double()
        scale = torch.cat([guide.scale(site).flatten() for site in guide.model.sites]).double()
    return loc.numel(), float(scale.log().sum()), float((scale.square() + loc.square()).sum())


def kl_by_hand(guide: AdapterGuide, prior_scale: float) -> float:
    count, log_scale, squares = moments(guide)
    return count * (math.log(prior_scale) - 0.5) - log_scale + squares / (2 * prior_scale**2)


def learned(guide: AdapterGuide) -> float:
    assert isinstance(guide.prior_scale, Tensor)
    return float(guide.prior_scale.detach())


def set_prior_scale(guide: AdapterGuide, value: float) -> None:
    assert guide.log_prior_scale is not None
    guide.log_prior_scale.data.fill_(math.log(value))


def test_which_guides_learn_it() -> None:
    assert {"blob", "blob_softplus", "mean_field"} <= set(LEARNING)
    assert set(POINT_GUIDES) <= set(HOLDING)


@pytest.mark.parametrize("name", FACTORISED)
@pytest.mark.parametrize("law", list(LAWS))
def test_kl_is_the_formula_minus_the_log_density(law: str, name: str) -> None:
    """At the centre of the law, where it starts, and elsewhere."""
    hyperprior, log_density, centre = LAWS[law]
    model = model_with(hyperprior)
    guide = GUIDES[name](model)
    assert model.prior_scale == pytest.approx(centre, rel=1e-5)
    assert learned(guide) == pytest.approx(centre, rel=1e-5)
    for value in (centre, 0.11):
        set_prior_scale(guide, value)
        expected = kl_by_hand(guide, value) - log_density(value)
        assert float(guide.kl().detach()) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", FACTORISED)
def test_kl_slopes(name: str) -> None:
    """With respect to log sigma_p: n - sum(scale^2 + loc^2) / sigma_p^2, and (log sigma_p - mu) / tau^2 + 1."""
    guide = GUIDES[name](model_with(dist.LogNormal(math.log(0.1), 0.05)))
    set_prior_scale(guide, 0.07)
    guide.kl().backward()
    count, _, squares = moments(guide)
    by_hand = count - squares / 0.07**2 + math.log(0.07 / 0.1) / 0.05**2 + 1
    assert float(guide.log_prior_scale.grad) == pytest.approx(by_hand, rel=1e-4)
    for site in guide.model.sites:
        M = guide.model.location(site)
        torch.testing.assert_close(M.grad, M.detach() / 0.07**2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LEARNING)
def test_fused_kl_is_the_kl_site_by_site(name: str) -> None:
    guide = GUIDES[name](model_with())
    set_prior_scale(guide, 0.13)
    found = []
    for kl in (guide.kl(), AdapterGuide.kl(guide)):
        guide.zero_grad()
        kl.backward()
        found.append([kl.detach()] + [parameter.grad for parameter in guide.parameters()])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4)


def nll_of(model: bp.BayesianLoRA, values: dict[str, Tensor], batch: bp.Batch) -> Tensor:
    assert batch.labels is not None
    return torch.nn.functional.cross_entropy(model.logits(batch, values), batch.labels)


@pytest.mark.parametrize("name", list(GUIDES))
def test_loss_of_trace_mean_field_elbo(name: str) -> None:
    """num_data * NLL + guide.kl() on the draw of the same seed, at a prior scale away from its start."""
    model = model_with(LAWS["Gamma"][0])
    guide = GUIDES[name](model)
    if name in LEARNING:
        set_prior_scale(guide, 0.12)
    batch = make_batch()
    torch.manual_seed(3)
    loss = TraceMeanField_ELBO().loss(model, guide, batch)
    torch.manual_seed(3)
    with torch.no_grad():
        values = {site: law.rsample() for site, law in guide.posteriors().items()}
        expected = NUM_DATA * nll_of(model, values, batch) + guide.kl()
    assert loss == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", list(GUIDES))
def test_loss_of_trace_elbo(name: str) -> None:
    """num_data * NLL + log q(A) - log p(A | sigma_p) - log p(sigma_p) on that draw."""
    hyperprior, log_density, _ = LAWS["Gamma"]
    model = model_with(hyperprior)
    guide = GUIDES[name](model)
    if name in LEARNING:
        set_prior_scale(guide, 0.12)
    batch = make_batch()
    torch.manual_seed(3)
    loss = Trace_ELBO().loss(model, guide, batch)
    torch.manual_seed(3)
    with torch.no_grad():
        laws = guide.posteriors()
        values = {site: law.rsample() for site, law in laws.items()}
        expected = NUM_DATA * nll_of(model, values, batch)
        for site, value in values.items():
            plain = dist.Normal(0.0, float(guide.prior_scale)).expand(value.shape).to_event(2)
            expected += laws[site].log_prob(value) - plain.log_prob(value)
    penalty = log_density(0.12) if name in LEARNING else 0.0
    assert loss == pytest.approx(float(expected) - penalty, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", HOLDING)
def test_other_guides_hold_it_at_the_centre(name: str) -> None:
    """The same KL as under that number, and nothing more to train."""
    with_law, plain = GUIDES[name](model_with(LOG_NORMAL)), GUIDES[name](model_with(0.2))
    assert with_law.log_prior_scale is None and with_law.prior_scale == pytest.approx(0.2)
    assert with_law.tensors().keys() == plain.tensors().keys()
    assert not with_law.prior_parameters()
    torch.manual_seed(0)
    with_law = GUIDES[name](model_with(LOG_NORMAL))
    torch.manual_seed(0)
    plain = GUIDES[name](model_with(0.2))
    assert float(with_law.kl().detach()) == pytest.approx(float(plain.kl().detach()), rel=1e-5)


@pytest.mark.parametrize("name", LEARNING)
def test_optimum_under_a_flat_law(name: str) -> None:
    """sigma_p^2 = mean of scale^2 + loc^2: no slope there, and a larger KL on either side.

    (Of ScalaBL, whose KL counts a number for each row, the sum over the number of rows.)
    """
    guide = GUIDES[name](model_with(FLAT))
    count, _, squares = moments(guide)
    best = empirical_prior_scale(guide)
    if name == "scalabl":
        count = 4 * len(guide.model.sites)  # r = 4
    assert best == pytest.approx(math.sqrt(squares / count), rel=1e-6)
    values = {}
    for factor in (0.99, 1.0, 1.01):
        set_prior_scale(guide, factor * best)
        guide.zero_grad()
        kl = guide.kl()
        kl.backward()
        values[factor] = float(kl.detach()), float(guide.log_prior_scale.grad) / count
    assert values[0.99][0] > values[1.0][0] < values[1.01][0]
    assert values[0.99][1] < -0.015 and abs(values[1.0][1]) < 1e-4 and values[1.01][1] > 0.015


@pytest.mark.parametrize("start", [1e-3, 0.02, 5.0])
@pytest.mark.parametrize("share", [0.25, 1.0])
def test_prior_scale_step(share: float, start: float) -> None:
    """sigma_p^2 moves by the share of its way to the optimum, from above or below; downwards ten times at most."""
    guide = MeanFieldGuide(model_with(FLAT), init_scale=0.05)
    set_prior_scale(guide, start)
    count, _, squares = moments(guide)
    step = PriorScaleStep(guide.prior_parameters().values(), count)
    (share * guide.kl()).backward()
    step.step()
    expected = max((1 - share) * start**2 + share * squares / count, 0.1 * start**2)
    assert learned(guide) == pytest.approx(math.sqrt(expected), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("recipe", "name"),
    [(recipe, "blob") for recipe in RECIPES] + [("blob", name) for name in LEARNING if name != "blob"],
)
def test_every_recipe_learns_it(recipe: str, name: str) -> None:
    """From a prior several times too wide to within a fifth of the optimum at the end."""
    model = model_with(dist.LogNormal(math.log(2.0), 10.0))
    guide = GUIDES[name](model)
    weight = 1.0 if recipe == "elbo" else 0.2
    svi = bp.BLoBSVI(model, guide, recipe=recipe, lr=0.02, kl_lr=1e-4, kl_schedule=constant, kl_weight=weight)
    batch = make_batch()
    assert empirical_prior_scale(guide) < 0.6
    for _ in range(120 if recipe == "elbo" else 60):
        svi.step(batch)
    assert learned(guide) == pytest.approx(empirical_prior_scale(guide), rel=0.2)


def test_the_learning_rate_schedule_applies() -> None:
    """A warm-up starts at rate 0: nothing moves in the first step."""
    model = model_with()
    guide = bp.BLoBGuide(model)
    svi = bp.BLoBSVI(model, guide, num_steps=10, warmup_ratio=0.5, kl_schedule=constant)
    seen = [learned(guide)]
    for _ in range(2):
        svi.step(make_batch())
        seen.append(learned(guide))
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_plain_svi_trains_it(elbo: type[Trace_ELBO]) -> None:
    model = model_with()
    guide = bp.BLoBGuide(model)
    before = learned(guide)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), elbo())
    for _ in range(3):
        svi.step(make_batch())
    assert learned(guide) < before - 0.003  # A starts far below 0.2
    assert "log_prior_scale" in pyro.get_param_store()


def test_vectorised_particles() -> None:
    """B = 0 makes the likelihood the same for every draw: the loss is that of one particle."""
    model = model_with()
    for parameter in model.point_parameters().values():
        parameter.data.zero_()
    guide = bp.BLoBGuide(model)
    set_prior_scale(guide, 0.12)
    one = TraceMeanField_ELBO().loss(model, guide, make_batch())
    elbo = TraceMeanField_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
    assert elbo.loss(model, guide, make_batch()) == pytest.approx(one, rel=1e-5)


def test_the_model_draws_it_before_the_sites() -> None:
    """Without a guide: sigma_p from its law, then A from Normal(0, sigma_p^2).

    The root mean square of n entries is within 5 standard errors, 1 / sqrt(2 n) each, of sigma_p; failure rate 6e-7.
    """
    model = model_with(dist.LogNormal(math.log(0.2), 1.0))
    torch.manual_seed(1)
    seen = []
    for _ in range(3):
        trace = poutine.trace(model).get_trace(make_batch())
        names = [name for name, node in trace.nodes.items() if node["type"] == "sample" and not node["is_observed"]]
        assert [name for name in names if name in {PRIOR_SCALE, *model.sites}] == [PRIOR_SCALE, *model.sites]
        A = torch.cat([trace.nodes[site]["value"].flatten() for site in model.sites])
        seen.append(float(trace.nodes[PRIOR_SCALE]["value"]))
        assert float(A.square().mean().sqrt()) == pytest.approx(seen[-1], rel=5 / math.sqrt(2 * A.numel()))
    assert len(set(seen)) == 3
    pyro.clear_param_store()
    assert PRIOR_SCALE not in poutine.trace(MODELS["llama"]()).get_trace(make_batch()).nodes


@pytest.mark.slow
@pytest.mark.parametrize("name", list(GUIDES))
def test_prediction(name: str) -> None:
    """Pyro's Predictive, parallel and serial, and PosteriorPredictive take no notice of the site."""
    model = model_with()
    guide = GUIDES[name](model)
    batch = make_batch(labels=False)
    for parallel in (False, True):
        found = Predictive(model, guide=guide, num_samples=3, return_sites=("_RETURN", PRIOR_SCALE), parallel=parallel)(
            batch
        )
        assert found["_RETURN"].shape == (3, 4, 3)
        assert found[PRIOR_SCALE].flatten().tolist() == pytest.approx(3 * [0.2])
    torch.manual_seed(0)
    with_law = bp.PosteriorPredictive(model, guide, num_samples=3)(batch)
    plain = model_with(0.2)
    twin = GUIDES[name](plain)
    for key, value in guide.tensors().items():
        if key != "log_prior_scale":
            twin.tensors()[key].data.copy_(value)
    torch.manual_seed(0)
    assert torch.equal(bp.PosteriorPredictive(plain, twin, num_samples=3)(batch).draws, with_law.draws)


def test_flipout() -> None:
    model = model_with()
    guide = bp.BLoBGuide(model)
    with bp.flipout():
        assert math.isfinite(bp.BLoBSVI(model, guide).step(make_batch()).loss)


def test_autoguides_start_at_the_centre() -> None:
    model = model_with(LAWS["HalfNormal"][0])
    guide = AutoNormal(model, init_loc_fn=init_to_adapter(model), init_scale=0.002)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), TraceMeanField_ELBO())
    guide(make_batch())
    assert float(guide.median()[PRIOR_SCALE]) == pytest.approx(model.prior_scale, rel=1e-4)
    assert math.isfinite(svi.step(make_batch()))


@pytest.mark.usefixtures("validation")
@pytest.mark.parametrize("law", list(LAWS))
def test_a_guide_that_is_not_finite_is_named_in_one_line(law: str) -> None:
    model = model_with(LAWS[law][0])
    guide = bp.BLoBGuide(model)
    guide.log_prior_scale.data.fill_(math.nan)
    with pytest.raises(bp.errors.NonFiniteLossError, match="step 1: expected a finite KL; got nan"):
        bp.BLoBSVI(model, guide).step(make_batch())


@pytest.mark.parametrize("law", list(LAWS))
def test_saved_and_loaded(law: str, tmp_path: Path) -> None:
    """The law by name and arguments, the learned point in the guide's tensors."""
    model = pretrained(prior_scale=LAWS[law][0])
    guide = bp.BLoBGuide(model)
    set_prior_scale(guide, 0.077)
    bp.save(tmp_path, model, guide)
    described = json.loads((tmp_path / "posterior.json").read_text())["prior_scale"]
    assert described["name"] == law and Hyperprior.from_description(described) == model.hyperprior
    run = bp.load(tmp_path)
    assert run.model.hyperprior == model.hyperprior and run.model.prior_scale == model.prior_scale
    assert learned(run.guide) == learned(guide)
    assert torch.equal(run.guide.kl(), guide.kl())
    altered = json.loads((tmp_path / "posterior.json").read_text()) | {"prior_scale": {"name": "Beta"}}
    (tmp_path / "posterior.json").write_text(json.dumps(altered))
    with pytest.raises(bp.errors.RunDirectoryError, match="prior_scale: expected a number or a law among Gamma"):
        bp.load(tmp_path)


def test_laws_of_torch_are_laws_too() -> None:
    ours = model_with(torch.distributions.Gamma(torch.tensor(2.0), torch.tensor(8.0)))
    assert ours.hyperprior == Hyperprior("Gamma", {"concentration": 2.0, "rate": 8.0})
    batch = make_batch()
    assert math.isfinite(TraceMeanField_ELBO().loss(ours, bp.BLoBGuide(ours), batch))
    assert float(ours.hyperprior.law().log_prob(torch.tensor(0.2))) == pytest.approx(LAWS["Gamma"][1](0.2), rel=1e-5)


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (dist.Exponential(1.0), "expected a number or a law among Gamma, .*, LogNormal; got Exponential"),
        (dist.Chi2(2.0), "expected a number or a law among Gamma, .*; got Chi2"),
        (dist.LogNormal(torch.zeros(3), 1.0), r"expected the law of one number; got a LogNormal of shape \(3,\)"),
        (dist.HalfNormal(math.inf), "expected a finite number above 0 as scale of its HalfNormal; got inf"),
        (dist.LogNormal(math.inf, 1.0), "expected a finite number as loc of its LogNormal; got inf"),
    ],
)
def test_other_laws_are_refused(law: Distribution, message: str) -> None:
    with pytest.raises(bp.errors.ConfigError, match=f"prior_scale: {message}"):
        bp.BayesianLoRA(MODELS["llama"]().network, MultipleChoice(ANSWERS), prior_scale=law)


def test_a_description_with_other_arguments_is_refused() -> None:
    with pytest.raises(bp.errors.ConfigError, match="expected a Gamma with concentration and rate; got scale"):
        Hyperprior.from_description({"name": "Gamma", "scale": 1.0})


def test_from_pretrained_passes_the_law_on() -> None:
    assert pretrained(prior_scale=LOG_NORMAL).hyperprior == Hyperprior.of(LOG_NORMAL)
