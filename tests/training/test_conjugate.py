"""A model whose posterior and evidence are known: SVI has to reach both.

Item i is (output k_i, features x_i) with y_i ~ Normal((W0 + s B A)_{k_i} x_i, noise^2) and A ~ Normal(0, sigma_p^2).
Each output sees each row of an orthogonal design, and B has orthogonal columns, so the precision of A,
1 / sigma_p^2 + s^2 |B_:r|^2 |X_:n|^2 / noise^2, is diagonal: the posterior is a BLoB posterior, exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import pytest
import torch
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

import blob_pyro as bp
from blob_pyro.guides import init_to_adapter
from blob_pyro.model.likelihoods import ClassLikelihood
from blob_pyro.model.loading import BaseSource
from blob_pyro.training.kl_schedule import constant

pytestmark = pytest.mark.slow

NOISE, SIGMA, SCALING = 0.5, 0.8, 2.0
DESIGN = torch.tensor([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) * torch.tensor([1, 1, 2, 1])
B = torch.tensor([[0.6, 0.0], [0.0, 0.9], [0.0, 0.0]]) + torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.8, 0.0]])


class OneOutput(nn.Module):
    """(k, x_1 .. x_4) as integer ids -> output k of a linear layer, (rows, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3, bias=False)

    def forward(self, input_ids: Tensor) -> Tensor:
        outputs: Tensor = self.linear(input_ids[:, 1:].float())
        return outputs.gather(1, input_ids[:, :1])


class Gaussian(ClassLikelihood):
    """y ~ Normal(network output, NOISE^2); the "labels" are real numbers."""

    task_type: ClassVar[TaskType] = TaskType.FEATURE_EXTRACTION
    auto_class: ClassVar[str] = "none"
    num_classes = 1

    def logits(self, network: PeftModel, batch: bp.Batch) -> Tensor:
        output: Tensor = network(batch.input_ids)
        return output

    def settings(self) -> dict[str, Any]:
        return {}

    def check_labels(self, labels: Tensor) -> None:
        """Any real number will do."""

    def label_law(self, logits: Tensor) -> Any:
        return dist.Normal(logits.squeeze(-1), NOISE)


@dataclass
class Toy:
    """The model, its one batch, and the answers, by dense linear algebra in float64."""

    model: bp.BayesianLoRA
    batch: bp.Batch
    mean: Tensor
    scale: Tensor
    log_evidence: float

    @property
    def site(self) -> str:
        return next(iter(self.model.sites))


def toy() -> Toy:
    torch.manual_seed(3)
    network = get_peft_model(OneOutput(), LoraConfig(r=2, lora_alpha=4, target_modules=["linear"]))
    model = bp.BayesianLoRA(network, Gaussian(), prior_scale=SIGMA, num_data=12, source=BaseSource("toy"))
    layer = next(iter(model.sites.values()))
    layer.lora_B["default"].weight.data.copy_(B)
    layer.lora_B["default"].weight.requires_grad_(False)
    outputs = torch.arange(3).repeat_interleave(4)
    ids = torch.cat([outputs[:, None], DESIGN.repeat(3, 1)], dim=1)
    x, W0 = DESIGN.repeat(3, 1).double(), layer.get_base_layer().weight.detach().double()
    # y = offset + design vec(A): row i of the design is s B_k (x) x_i
    design = SCALING * (B.double()[outputs].unsqueeze(-1) * x.unsqueeze(1)).flatten(1)
    offset = (W0[outputs] * x).sum(1)
    y = offset + design @ (SIGMA * torch.randn(8).double()) + NOISE * torch.randn(12).double()
    precision = torch.eye(8).double() / SIGMA**2 + design.T @ design / NOISE**2
    covariance = precision.inverse()
    torch.testing.assert_close(covariance, covariance.diagonal().diag())
    mean = covariance @ design.T @ (y - offset) / NOISE**2
    marginal = torch.distributions.MultivariateNormal(
        offset, SIGMA**2 * design @ design.T + NOISE**2 * torch.eye(12).double()
    )
    batch = bp.Batch(ids, torch.ones_like(ids), labels=y.float())
    scale = covariance.diagonal().sqrt().reshape(2, 4).float()
    return Toy(model, batch, mean.reshape(2, 4).float(), scale, float(marginal.log_prob(y)))


def assert_reached(problem: Toy, loc: Tensor, scale: Tensor) -> None:
    """Means within 0.15 of the posterior's standard deviation, standard deviations within 10 %.

    Over eight other seeds, with flipout and without, the largest errors were 0.086 and 6 %.
    """
    assert float(((loc - problem.mean) / problem.scale).abs().max()) < 0.15
    assert float((scale / problem.scale).log().abs().max()) < 0.1


def exact_blob(problem: Toy) -> bp.BLoBGuide:
    guide = bp.BLoBGuide(problem.model)
    problem.model.location(problem.site).data.copy_(problem.mean)
    guide.root_scale(problem.site).data.copy_(problem.scale.sqrt())
    return guide


def test_the_toy_is_not_trivial() -> None:
    """The posterior differs from the prior and from entry to entry."""
    problem = toy()
    assert float(problem.scale.max()) < 0.5 * SIGMA
    assert float(problem.scale.max() / problem.scale.min()) > 1.5
    assert float((problem.mean.abs() / problem.scale).max()) > 3


def test_at_the_posterior_every_draw_gives_the_evidence() -> None:
    """log p(y, A) - log q(A) = log p(y) for every A: Trace_ELBO has no variance there."""
    problem = toy()
    guide = exact_blob(problem)
    for _ in range(5):
        loss = Trace_ELBO().loss(problem.model, guide, problem.batch)
        assert -loss == pytest.approx(problem.log_evidence, abs=1e-4)


@pytest.mark.parametrize("flipped", [False, True], ids=["shared", "flipout"])
def test_at_the_posterior_the_mean_elbo_is_the_evidence(flipped: bool) -> None:
    """With the analytic KL, over 4,000 draws: within 5 standard errors, each below 0.06 nats."""
    problem = toy()
    guide = exact_blob(problem)
    losses = []
    for _ in range(4):
        elbo = TraceMeanField_ELBO(num_particles=1000, vectorize_particles=True, max_plate_nesting=1)
        if flipped:
            with bp.flipout():
                losses.append(elbo.loss(problem.model, guide, problem.batch))
        else:
            losses.append(elbo.loss(problem.model, guide, problem.batch))
    # one draw's NLL is half a sum of 8 weighted chi-squares: a standard deviation of at most 3 nats
    assert abs(sum(losses) / 4 + problem.log_evidence) < 5 * 3 / math.sqrt(4000)


def settle(guide: Any, site: str, step: Callable[[], Any], num_steps: int = 2000) -> tuple[Tensor, Tensor]:
    """Run the steps; loc and scale averaged over the second half of them, against the noise of single draws."""
    locs, scales = [], []
    for done in range(num_steps):
        step()
        if done >= num_steps // 2:
            loc, scale = loc_and_scale(guide, site)
            locs.append(loc)
            scales.append(scale)
    return torch.stack(locs).mean(0), torch.stack(scales).mean(0)


def loc_and_scale(guide: Any, site: str) -> tuple[Tensor, Tensor]:
    """Of ours, or of an AutoNormal."""
    if isinstance(guide, AutoNormal):
        low, middle, high = guide.quantiles([0.15865525, 0.5, 0.84134475])[site]
        return middle.detach(), (high - low).detach() / 2
    return guide.loc(site).detach().clone(), guide.scale(site).detach()


@pytest.mark.parametrize("flipped", [False, True], ids=["shared", "flipout"])
def test_blob_svi_reaches_the_posterior(flipped: bool) -> None:
    """Recipe "elbo", from PEFT's start; the evidence is reached to 0.05 nats and Monte Carlo error."""
    problem = toy()
    guide = bp.BLoBGuide(problem.model, eps=0.5)
    svi = bp.BLoBSVI(problem.model, guide, recipe="elbo", lr=0.02)
    with bp.flipout() if flipped else nullcontext():
        loc, scale = settle(guide, problem.site, lambda: svi.step(problem.batch))
    assert_reached(problem, loc, scale)
    problem.model.location(problem.site).data.copy_(loc)
    guide.root_scale(problem.site).data.copy_(scale.sqrt())
    loss = TraceMeanField_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=1)
    gap = loss.loss(problem.model, guide, problem.batch) + problem.log_evidence
    assert abs(gap) < 5 * 3 / math.sqrt(4000) + 0.05


@pytest.mark.parametrize("kind", ["BLoBGuide", "AutoNormal"])
def test_plain_svi_reaches_the_posterior(kind: str) -> None:
    problem = toy()
    model = problem.model
    blob = bp.BLoBGuide(model, eps=0.5)
    guide = blob if kind == "BLoBGuide" else AutoNormal(model, init_loc_fn=init_to_adapter(model), init_scale=0.1)
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.02}), TraceMeanField_ELBO())
    assert_reached(problem, *settle(guide, problem.site, lambda: svi.step(problem.batch)))


def test_map_reaches_the_posterior_mean_and_mle_does_not() -> None:
    """A point without noise gets there to 1e-3; maximum likelihood lands on least squares instead."""
    found = {}
    for kind in (bp.MAPGuide, bp.MLEGuide):
        problem = toy()
        guide = kind(problem.model)
        svi = bp.BLoBSVI(problem.model, guide, recipe="elbo", num_steps=300, lr=0.05)
        for _ in range(300):
            svi.step(problem.batch)
        found[kind] = guide.loc(problem.site).detach()
    torch.testing.assert_close(found[bp.MAPGuide], problem.mean, rtol=0, atol=1e-3)
    shrinkage = 1 - problem.scale**2 / SIGMA**2
    torch.testing.assert_close(found[bp.MLEGuide], problem.mean / shrinkage, rtol=0, atol=1e-3)
    assert float((found[bp.MLEGuide] - problem.mean).abs().max()) > 0.01


def test_blob_recipe_finds_the_posteriors_spread() -> None:
    """G by SGD on NLL + KL / N, which is the ELBO divided by N: its standard deviations are the posterior's.

    (M is another matter: AdamW on the NLL with a decoupled KL step is no descent on the ELBO.) The noise of
    single draws left at most 7 % over eight other seeds.
    """
    problem = toy()
    guide = bp.BLoBGuide(problem.model, eps=0.5)
    svi = bp.BLoBSVI(problem.model, guide, recipe="blob", lr=0.01, kl_lr=0.005, kl_schedule=constant, kl_weight=1 / 12)
    _, scale = settle(guide, problem.site, lambda: svi.step(problem.batch), num_steps=1500)
    assert float((scale / problem.scale).log().abs().max()) < 0.12
