"""Flipout against a loop over examples, its law, its variance, and what it refuses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from cases import FLIPPABLE, GUIDES, MODELS, POINT_GUIDES, held_draws, make_batch
from pyro import poutine
from pyro.infer import SVI, Predictive, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoLowRankMultivariateNormal, AutoNormal
from torch import Tensor

import blob_pyro as bp
from blob_pyro.errors import ParamStoreError, UnsupportedLayerError, UnsupportedPosteriorError
from blob_pyro.guides.gaussian import FactorisedGaussianGuide
from blob_pyro.model import handlers
from blob_pyro.model.layers import row_weights as row_weights_file
from blob_pyro.model.layers.drawn_linear import Draw, grouped_linear
from blob_pyro.model.layers.flipped import FlipoutDraw, flip, random_signs
from blob_pyro.model.layers.row_weights import row_weights
from blob_pyro.training.elbo import negative_log_likelihood

R, N = 2, 3
FLIPPED = (
    *("llama", "llama_head", "llama_bfloat16", "gpt2", "bert", "opt"),
    *("llama_B", "llama_head_both", "llama_last_both"),
)


def signs(size: int) -> Tensor:
    """All 2^size rows of signs."""
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=size)))


class Recorder(pyro.poutine.messenger.Messenger):
    """Keeps what every `draw` statement answered."""

    def __init__(self) -> None:
        super().__init__()
        self.draws: list[dict[str, Draw]] = []

    def _pyro_post_draw(self, msg: dict[str, Any]) -> None:
        self.draws.append(msg["value"])


def run(
    model: bp.BayesianLoRA, guide: Any, batch: bp.Batch
) -> tuple[Tensor, dict[str, Tensor], dict[str, FlipoutDraw]]:
    """Logits of one flipout forward, the guide's shared draw, and what the layers applied."""
    with Recorder() as recorder, bp.flipout():
        trace = poutine.trace(guide).get_trace(batch)
        logits = poutine.replay(model, trace=trace)(batch)
    values = {site: trace.nodes[site]["value"].detach() for site in model.sites}
    (draws,) = recorder.draws
    assert all(isinstance(value, FlipoutDraw) for value in draws.values())
    return logits.detach(), values, draws  # type: ignore[return-value]


def test_mean_over_all_signs_is_the_plain_forward() -> None:
    """Exact: all 2^2 * 2^3 sign vectors, one a row, of one input. The noise cancels, M x remains."""
    loc, value, x = torch.randn(1, R, N), torch.randn(1, R, N), torch.randn(5, N)
    pairs = list(itertools.product(signs(N), signs(R)))
    s, t = torch.stack([s for s, _ in pairs]), torch.stack([t for _, t in pairs])
    (weights,) = row_weights([value[0]], [loc[0]], t.unsqueeze(0), s.unsqueeze(0))
    inner = FlipoutDraw(weights)(x.expand(len(pairs), 5, N))
    torch.testing.assert_close(inner.mean(0), x @ loc[0].T)
    assert float((inner - x @ loc[0].T).abs().max()) > 1


@pytest.mark.parametrize("chunk", [1, row_weights_file.CHUNK])
@pytest.mark.parametrize("groups", [None, 1, 2])
@pytest.mark.parametrize("middle", [(), (4,), (2, 3)])
def test_layers_equal_the_papers_formula(
    middle: tuple[int, ...], groups: int | None, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """M x_i + t_i * (P (x_i * s_i)), by a loop over two sites and six rows; gradients too."""
    monkeypatch.setattr(row_weights_file, "CHUNK", chunk)
    value = torch.randn(2, R, N) if groups is None else torch.randn(2, groups, R, N)
    leaves = [value.requires_grad_(), torch.randn(2, R, N, requires_grad=True)]
    s, t, x = torch.randn(2, 6, N).sign(), torch.randn(2, 6, R).sign(), torch.randn(6, *middle, N)
    weights = row_weights(leaves[0].unbind(), leaves[1].unbind(), t, s)
    found = torch.stack([FlipoutDraw(weights[site], groups)(x) for site in range(2)])
    value, loc = leaves[0].reshape(2, -1, R, N), leaves[1]
    by_hand = torch.stack([
        torch.stack([
            x[i] @ loc[k].T + t[k, i] * ((x[i] * s[k, i]) @ (value[k, i * len(value[k]) // 6] - loc[k]).T)
            for i in range(6)
        ])
        for k in range(2)
    ])  # fmt: skip
    torch.testing.assert_close(found, by_hand)
    target = torch.randn(found.shape)
    ours, theirs = (torch.autograd.grad((out * target).sum(), leaves) for out in (found, by_hand))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("guide_name", FLIPPABLE)
@pytest.mark.parametrize("name", FLIPPED)
def test_network_equals_a_loop_over_examples(name: str, guide_name: str) -> None:
    """The whole network, each item alone under the one weight recovered for it.

    An item alone has another width, which a bfloat16 network rounds differently: 2^-8 of logits of some units.
    """
    tolerance = 0.1 if name.endswith("bfloat16") else 1e-4
    model = MODELS[name]()
    guide = GUIDES[guide_name](model)
    widen(guide)
    batch = make_batch()
    logits, values, draws = run(model, guide, batch)
    for row in range(len(batch)):
        item = bp.Batch(batch.input_ids[row : row + 1], batch.attention_mask[row : row + 1])
        weights = {site: draws[site].weights[row] for site in model.sites}
        torch.testing.assert_close(logits[row : row + 1], model.logits(item, weights), rtol=tolerance, atol=tolerance)
    shared = model.logits(batch, values).detach()
    assert float((logits - shared).abs().max()) > 0.05
    for site, value in values.items():
        noise = (value - guide.loc(site)).detach()
        torch.testing.assert_close(
            (draws[site].weights - guide.loc(site)).abs(), noise.abs().expand(len(batch), -1, -1)
        )


def widen(guide: Any) -> None:
    """Make BLoB's or a mean field's spread 0.36 instead of 0.002."""
    if isinstance(guide, FactorisedGaussianGuide):
        for free in guide.free_scales:
            free.data.copy_(guide.scale_map.to_free(torch.full_like(free, 0.36)))


def test_law_of_each_rows_weight() -> None:
    """Each A_i has the posterior's mean and variance, and two examples' noise is uncorrelated.

    4,000 draws of 2 rows of 4 x 32 entries at one site. In units of their standard errors, 256 means, 256
    variances and 128 covariances (each product is +-z^2, of variance 3) all stay within 5 with probability
    above 0.999.
    """
    model = MODELS["llama"]()
    guide = bp.BLoBGuide(model, eps=0.8)
    site, size = next(iter(model.sites)), 4000
    posterior = guide.posterior(site)
    rows: list[Tensor] = []
    with torch.no_grad(), bp.flipout():
        for _ in range(size):
            draw = handlers.draw({site: pyro.sample(site, posterior)}, num_items=2)[site]
            assert isinstance(draw, FlipoutDraw)
            rows.append(draw.weights)
    z = (torch.stack(rows) - guide.loc(site).detach()) / guide.scale(site).detach()  # (size, 2, r, n)
    assert float(z.mean(0).abs().max()) < 5 / math.sqrt(size)
    assert float((z.square().mean(0) - 1).abs().max()) < 5 * math.sqrt(2 / size)
    assert float((z[:, 0] * z[:, 1]).mean(0).abs().max()) < 5 * math.sqrt(3 / size)
    # each example has input signs and output signs of its own: entries of one row or column flip independently
    flips = (z[:, 0] * z[:, 1]).sign()
    assert float((flips[:, 0, :1] * flips[:, 0, 1:]).mean(0).abs().max()) < 5 / math.sqrt(size)
    assert float((flips[:, :1, 0] * flips[:, 1:, 0]).mean(0).abs().max()) < 5 / math.sqrt(size)
    # a shared draw fails this: its rows are the same
    assert float((z[:, 0] * z[:, 0]).mean(0).min()) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("shared_tokens", "eps", "bound"), [(8, 0.1, 0.15), (7, 0.4, 0.7)])
def test_lower_gradient_variance_than_a_shared_draw(
    shared_tokens: int, eps: float, bound: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Variance of dNLL/dM over 120 draws of a batch of 16, summed over entries, against one draw for all.

    Sixteen copies of one item under little noise gain the most, 1 / 16. Items that share a template and the
    label gain less: the ratio was 0.39 over 60 draws. (Wholly random items have unrelated gradients, which a
    shared draw averages as well: 1.04, so nothing is claimed of them.) The bounds are many standard errors off.
    """
    model = MODELS["llama"]()
    guide = bp.BLoBGuide(model, eps=eps)
    batch = make_batch((8,) * 16)
    assert batch.labels is not None
    batch.input_ids[:, :shared_tokens] = batch.input_ids[:1, :shared_tokens]
    batch.labels.fill_(1)

    def variance(noise: Callable[[], Any]) -> float:
        found = []
        for seed in range(120):
            torch.manual_seed(seed)
            with noise():
                nll = negative_log_likelihood(model, guide, batch)
            gradients = torch.autograd.grad(nll, list(guide.location_parameters().values()))
            found.append(torch.cat([gradient.flatten() for gradient in gradients]))
        return float(torch.stack(found).var(0).sum())

    ratio = variance(bp.flipout) / variance(nullcontext)
    with capsys.disabled():
        print(
            f"\nflipout: gradient variance {ratio:.3f} of a shared draw's "
            f"({shared_tokens} of 8 tokens shared, eps {eps})"
        )
    assert ratio < bound


@pytest.mark.parametrize(
    ("kind", "base"), [(AutoNormal, "Delta"), (AutoLowRankMultivariateNormal, "Delta"), (AutoDelta, "Delta")]
)
def test_refuses_pyros_autoguides(kind: Any, base: str) -> None:
    """They sample a joint latent and hand its parts on as points."""
    model = MODELS["llama"]()
    guide = kind(model)
    batch = make_batch()
    guide(batch)
    site = next(iter(model.sites))
    message = f"site {site}: flipout expects a Normal posterior with independent entries; got {base}; run outside"
    svi = SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), TraceMeanField_ELBO())
    with bp.flipout(), pytest.raises(UnsupportedPosteriorError, match=message) as caught:
        svi.step(batch)
    assert "\n" not in str(caught.value)
    assert not held_draws(model)
    svi.step(batch)


@pytest.mark.parametrize("name", POINT_GUIDES)
def test_refuses_points(name: str) -> None:
    model = MODELS["llama"]()
    guide = GUIDES[name](model)
    with bp.flipout(), pytest.raises(UnsupportedPosteriorError, match="expects a Normal posterior .*; got .*Delta"):
        bp.BLoBSVI(model, guide).step(make_batch())


def test_refuses_correlated_entries() -> None:
    model = MODELS["llama"]()

    def guide(batch: bp.Batch) -> None:
        for site in model.sites:
            r, n = model.location(site).shape
            row = dist.MultivariateNormal(torch.zeros(n), torch.eye(n) + 0.5)
            pyro.sample(site, row.expand((r,)).to_event(1))

    batch = make_batch()
    with bp.flipout(), pytest.raises(UnsupportedPosteriorError, match="got MultivariateNormal"):
        TraceMeanField_ELBO().loss(model, guide, batch)


def test_refuses_draws_from_elsewhere() -> None:
    """Values put in by `condition` have no law that a guide sampled."""
    model = MODELS["llama"]()
    values = {site: torch.zeros_like(model.location(site)) for site in model.sites}
    conditioned = poutine.condition(model, data=values)
    with bp.flipout(), pytest.raises(UnsupportedPosteriorError, match="expected a guide to sample it inside flipout"):
        conditioned(make_batch())


def test_a_former_contexts_laws_are_forgotten() -> None:
    model = MODELS["llama"]()
    guide = bp.BLoBGuide(model)
    batch = make_batch()
    handler = bp.flipout()
    with handler:
        trace = poutine.trace(guide).get_trace(batch)
    with handler, pytest.raises(UnsupportedPosteriorError, match="inside flipout"):
        poutine.replay(model, trace=trace)(batch)


@pytest.mark.parametrize("plain", [False, True], ids=["BLoBSVI", "pyro.infer.SVI"])
def test_around_a_loop_or_inside_it(plain: bool) -> None:
    """One context about many steps and one context a step train the very same numbers."""
    losses = []
    for outside in (False, True):
        pyro.clear_param_store()
        torch.manual_seed(0)
        model = MODELS["llama"]()
        guide = bp.BLoBGuide(model, eps=0.4)
        adam = pyro.optim.Adam({"lr": 1e-2})
        svi = SVI(model, guide, adam, TraceMeanField_ELBO()) if plain else bp.BLoBSVI(model, guide, lr=1e-2)
        batch = make_batch()
        torch.manual_seed(1)
        if outside:
            with bp.flipout():
                results = [svi.step(batch) for _ in range(3)]
        else:
            results = []
            for _ in range(3):
                with bp.flipout():
                    results.append(svi.step(batch))
        losses.append(results)
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[0][2]


def test_under_vectorised_particles() -> None:
    """Six rows, two draws, one forward: the loss is that of the recorded weights, row by row."""
    model = MODELS["llama"]()
    guide = bp.BLoBGuide(model, eps=0.6)
    batch = make_batch((5, 4, 3))
    elbo = TraceMeanField_ELBO(num_particles=2, vectorize_particles=True, max_plate_nesting=1)
    with torch.no_grad(), Recorder() as recorder, bp.flipout():
        loss = elbo.loss(model, guide, batch)
    draws = recorder.draws[-1]
    nll = torch.zeros(())
    for row in range(6):
        item = bp.Batch(batch.input_ids[row % 3 : row % 3 + 1], batch.attention_mask[row % 3 : row % 3 + 1])
        weights = {}
        for site, draw in draws.items():
            assert isinstance(draw, FlipoutDraw) and draw.num_draws == 2
            weights[site] = draw.weights[row]
        assert batch.labels is not None
        nll = nll - model.logits(item, weights).log_softmax(-1)[0, batch.labels[row % 3]].detach()
    assert model.num_data is not None
    expected = model.num_data / 3 * nll / 2 + guide.kl().detach()
    torch.testing.assert_close(torch.tensor(loss), expected, rtol=1e-4, atol=1e-2)


def test_under_predictive() -> None:
    """Inside flipout each item's draw differs, and the spread over draws is the posterior's."""
    model = MODELS["llama"]()
    guide = bp.BLoBGuide(model, eps=0.6)
    batch = make_batch((5, 5), labels=False)
    same = bp.Batch(batch.input_ids[:1].repeat(2, 1), batch.attention_mask[:1].repeat(2, 1))
    predictive = Predictive(model, guide=guide, num_samples=3, return_sites=("_RETURN",))
    with bp.flipout():
        logits = predictive(same)["_RETURN"]
    assert logits.shape == (3, 2, 3)
    assert float((logits[:, 0] - logits[:, 1]).abs().min()) > 0
    logits = predictive(same)["_RETURN"]
    torch.testing.assert_close(logits[:, 0], logits[:, 1], rtol=1e-4, atol=1e-4)


def test_random_signs() -> None:
    """80,000 signs, eight from each 64-bit integer.

    The mean of all, and of each of the eight places, and the products of the 28 pairs of places stay within
    5 standard errors with probability above 0.9999.
    """
    found = random_signs(100, 800, device=torch.device("cpu"))
    assert found.shape == (100, 800) and found.dtype == torch.float32
    assert set(found.unique().tolist()) == {-1.0, 1.0}
    places = found.reshape(-1, 8)
    assert abs(float(found.mean())) < 5 / math.sqrt(80_000)
    assert float(places.mean(0).abs().max()) < 5 / math.sqrt(10_000)
    assert float((places.T @ places / 10_000 - torch.eye(8)).abs().max()) < 5 / math.sqrt(10_000)
    assert random_signs(3, 5, device=torch.device("cpu")).shape == (3, 5)  # not a multiple of eight


@pytest.mark.parametrize("num_draws", [None, 2])
def test_sites_are_flipped_by_their_own_shape(num_draws: int | None) -> None:
    """Sites of three shapes at once: each gets its own value, its own centre and signs of its own."""
    shapes = {"a": (2, 3), "b": (2, 3), "c": (4, 3), "d": (2, 5)}
    locs = {site: torch.randn(shape) for site, shape in shapes.items()}
    groups = () if num_draws is None else (num_draws,)
    values = {site: torch.randn(*groups, *shape) for site, shape in shapes.items()}
    draws = flip(values, locs, num_items=8)
    assert list(draws) != [] and set(draws) == set(shapes)
    for site, draw in draws.items():
        assert draw.num_draws == num_draws
        noise = (values[site] - locs[site]).reshape(-1, 1, *shapes[site]).expand(-1, 8, -1, -1).flatten(0, 1)
        found = (draw.weights - locs[site]) / noise
        torch.testing.assert_close(found.abs(), torch.ones_like(found), rtol=1e-3, atol=1e-3)
    same = (draws["a"].weights - locs["a"]).sign() * (draws["b"].weights - locs["b"]).sign()
    assert not (same == same[:1]).all()


def test_rows_and_groups_must_fit() -> None:
    draw = FlipoutDraw(torch.zeros(4, R, N))
    with pytest.raises(UnsupportedLayerError, match="expected 4 rows, one weight each, or as many each; got 3"):
        draw(torch.zeros(3, N))
    with pytest.raises(
        UnsupportedLayerError, match="expected the rows of the batch in 2 equal groups, one a draw; got 3"
    ):
        grouped_linear(torch.zeros(3, N), torch.zeros(2, R, N))


def test_a_second_model_needs_a_fresh_param_store() -> None:
    for expected in (None, ParamStoreError):
        model = MODELS["llama"]()
        svi = SVI(model, bp.BLoBGuide(model), pyro.optim.Adam({"lr": 1e-3}), TraceMeanField_ELBO())
        if expected is None:
            svi.step(make_batch())
            continue
        with pytest.raises(
            expected, match=r"it holds another model's tensor \(or .*\); call pyro.clear_param_store"
        ) as caught:
            svi.step(make_batch())
        assert "\n" not in str(caught.value)
    pyro.clear_param_store()
    svi.step(make_batch())
