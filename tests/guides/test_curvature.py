"""Jacobians, curvature and evidence against their naive definitions, dense algebra and curvlinops."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import MODELS, QUANTISED, make_batch
from torch import Tensor, nn

import blob_pyro as bp
from blob_pyro.errors import ConfigError, UnsupportedPosteriorError
from blob_pyro.guides.curvature import (
    STRUCTURES,
    Curvature,
    LeadingEigenpairs,
    SiteJacobian,
    contrasts,
    draw_probs,
    evidence_precision,
    fisher_root,
    linear_covariance,
    linearise,
    linearise_batches,
    log_evidence,
    logit_covariance,
)
from blob_pyro.model.layers.inject import drawn_linear

LENGTHS = (7, 4, 6)
# Not among the dev packages: it asks for torchvision, whose build on PyPI does not load beside the CPU build of torch.
ORACLE = (
    "pip install --no-deps curvlinops-for-pytorch backpack-for-pytorch einops einconv linear_operator unfoldNd scipy"
)
SOME = ["llama", "llama_head", "llama_both", "llama_head_both", "llama_last", "gpt2", "bert_both", "llama_classifier"]


def jacobians(model: bp.BayesianLoRA, batch: bp.Batch) -> dict[str, Tensor]:
    """Site -> (B, K, d_out, d_in) derivatives of all K logits, by torch's own jacobian of the model as a function."""

    def logits(*values: Tensor) -> Tensor:
        return model.logits(batch, dict(zip(model.sites, values, strict=True)))

    locations = tuple(model.location(site).detach().clone() for site in model.sites)
    found: Any = torch.autograd.functional.jacobian(logits, locations)
    return dict(zip(model.sites, found, strict=True))


def dense_ggn(model: bp.BayesianLoRA, batch: bp.Batch, site: str) -> Tensor:
    """(d, d) sum over items of J^T (Hessian of the NLL in the logits) J, over the site's rows laid end to end."""
    J = jacobians(model, batch)[site].flatten(2).double()
    logits = model.logits(batch).detach().double()
    total = torch.zeros(J.shape[-1], J.shape[-1], dtype=torch.float64)
    for j, f in zip(J, logits, strict=True):
        nll: Callable[[Tensor], Tensor] = lambda x: nn.functional.cross_entropy(x, torch.tensor(0))  # noqa: E731
        total += j.T @ torch.func.hessian(nll)(f) @ j
    return total


def measure(
    model: bp.BayesianLoRA, batches: list[bp.Batch], structure: str = "kron", rank: int = 10**6
) -> dict[str, Curvature]:
    """Every site's curvature."""
    found = {site: STRUCTURES[structure](model.location(site).shape, rank) for site in model.sites}
    sums = {site: curvature.new_sum() for site, curvature in found.items()}
    for _, part in linearise_batches(model, batches):
        for site, total in sums.items():
            total.add(part.sites[site], fisher_root(part.logits))
    for site, curvature in found.items():
        curvature.store(sums[site])
    return found


def factors(curvature: Any) -> tuple[Tensor, Tensor]:
    """(d_out, d_out) and (d_in, d_in) of a Kronecker curvature."""
    out, inside = (
        (vectors.double() * values.double()) @ vectors.double().T
        for values, vectors in (
            (curvature.out_values, curvature.out_vectors),
            (curvature.in_values, curvature.in_vectors),
        )
    )
    return out, inside


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-4) -> None:
    """Equal up to `tolerance` of the largest entry: sums of float32 gradients."""
    torch.testing.assert_close(
        found.double(), expected.double(), rtol=0, atol=tolerance * float(expected.abs().max()) + 1e-12
    )


@pytest.mark.parametrize("K", [2, 3, 5])
def test_contrasts_and_fisher_root(K: int) -> None:
    """Orthonormal, blind to a common shift; the root gives the expectation over labels, written as a loop."""
    Q = contrasts(K).double()
    torch.testing.assert_close(Q.T @ Q, torch.eye(K - 1).double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(Q.sum(0), torch.zeros(K - 1).double(), rtol=0, atol=1e-6)
    logits = 3 * torch.randn(4, K).double()
    root = Q @ fisher_root(logits)
    for f, R in zip(logits, root, strict=True):
        p, expected = f.softmax(0), torch.zeros(K, K).double()
        for y in range(K):
            score = nn.functional.one_hot(torch.tensor(y), K) - p
            expected += p[y] * torch.outer(score, score)
        torch.testing.assert_close(R @ R.T, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", SOME)
def test_jacobians_are_autograds(name: str, side: str) -> None:
    """Through the probes, K - 1 passes for all items, against one pass for each logit and item."""
    model = MODELS[name]()
    batch = make_batch(LENGTHS, side=side, width=9)
    found = linearise(model, batch)
    assert torch.equal(found.logits, model.logits(batch).detach())
    Q = contrasts(3)
    for site, J in jacobians(model, batch).items():
        close(found.sites[site].matrices(), torch.einsum("bkoi,kc->cboi", J, Q), 1e-5)
    assert not any(value.requires_grad for part in found.sites.values() for value in (part.inputs, part.gradients))
    assert all(p.grad is None for p in model.network.parameters())


@pytest.mark.parametrize(("name", "tolerance"), [("8bit", 1e-5), ("4bit", 0.03)])
def test_jacobians_of_quantised_bases(name: str, tolerance: float) -> None:
    """4-bit layers compute in bfloat16, the two ways round differently."""
    model = QUANTISED[name]()
    batch = make_batch(LENGTHS)
    found = linearise(model, batch)
    for site, J in jacobians(model, batch).items():
        close(found.sites[site].matrices(), torch.einsum("bkoi,kc->cboi", J, contrasts(3)), tolerance)


def test_jacobians_on_bfloat16_are_near_those_of_float32() -> None:
    """The same weights in both; float32 adapters, activations and their gradients rounded to 8 bits."""
    model, batch = MODELS["llama_bfloat16"](), make_batch(LENGTHS)
    rounded = linearise(model, batch)
    model.network.float()
    exact = linearise(model, batch)
    for site, part in rounded.sites.items():
        matrices = part.matrices()
        assert matrices.dtype == torch.float32
        expected = exact.sites[site].matrices()
        assert float((matrices - expected).norm() / expected.norm()) < 0.1


@pytest.mark.parametrize("name", ["llama", "llama_head", "bert_both", "llama_classifier"])
def test_kronecker_factors_are_the_naive_ones(name: str) -> None:
    """Item by item, label by label, position by position, with plain hooks on the layers."""
    model = MODELS[name]()
    batch = make_batch((5, 2, 3))
    layers = {site: drawn_linear(layer, site, model.adapter) for site, layer in model.sites.items()}
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for site, layer in layers.items():
        if not site.startswith("lm_head"):
            layer.register_forward_hook(lambda module, x, y, site=site: seen.__setitem__(site, (x[0], y)))
    F_in = {site: [] for site in model.sites}  # type: ignore[var-annotated]
    F_out = {site: torch.zeros(len(model.location(site)), len(model.location(site))) for site in model.sites}
    for row in range(len(batch)):
        item = batch.select([row])
        log_probs = model.logits(item).log_softmax(-1)[0]
        for y in range(3):
            grads = torch.autograd.grad(
                log_probs[y], [out for _, out in seen.values()], retain_graph=True, allow_unused=True
            )
            for (site, (x, out)), grad in zip(seen.items(), grads, strict=True):
                g = (torch.zeros_like(out) if grad is None else grad).reshape(-1, out.shape[-1])
                F_out[site] += log_probs[y].exp().detach() * g.T @ g
                if y == 0:
                    F_in[site] += [
                        a.detach() for a, b in zip(x.reshape(-1, x.shape[-1]), g, strict=True) if bool((b != 0).any())
                    ]
    measured = measure(model, [batch])
    assert len(seen) == len(layers)
    for site in seen:
        out, inside = factors(measured[site])
        close(out, F_out[site])
        positions = torch.stack(F_in[site])
        close(inside, positions.T @ positions / len(positions))


class Wrapped(nn.Module):
    """A model as curvlinops wants it: token ids to logits, without padding."""

    def __init__(self, model: bp.BayesianLoRA) -> None:
        super().__init__()
        self.model, self.network = (model,), model.network

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model[0].logits(bp.Batch(ids, torch.ones_like(ids)))
        return logits


@pytest.mark.parametrize(("name", "block"), [("bert_both", "layer.0."), ("llama", "layers.0.")])
def test_kronecker_curvature_is_that_of_curvlinops(name: str, block: str) -> None:
    """KFAC-expand, type 2, where every position counts: the first block, items of one length.

    There is one loss term an item and T positions an item. curvlinops divides the sum over positions a a^T by the
    number of items and by T, as here, so that the products are equal.
    """
    curvlinops = pytest.importorskip("curvlinops", reason=ORACLE, exc_type=ImportError)
    model = MODELS[name]()
    batch = make_batch((5, 5, 5))
    measured = measure(model, [batch])
    wrapped = Wrapped(model)
    sites = [site for site in model.sites if block in site]
    assert sites
    for site in sites:
        operator = curvlinops.KFACLinearOperator(
            wrapped,
            nn.CrossEntropyLoss(reduction="sum"),
            [model.location(site)],
            [(batch.input_ids, batch.labels)],
            check_deterministic=False,
            fisher_type="type-2",
            kfac_approx="expand",
        )
        dense = operator @ torch.eye(model.location(site).numel())
        close(torch.kron(*factors(measured[site])), torch.as_tensor(dense))


@pytest.mark.parametrize(("name", "lengths", "part"), [("llama_both", (1,), "v_proj"), ("llama_head", (6,), "lm_head")])
def test_kronecker_curvature_is_exact_where_it_must_be(name: str, lengths: tuple[int, ...], part: str) -> None:
    """One item and one position: F_in (x) F_out is the block of the dense GGN."""
    model, batch = MODELS[name](), make_batch(lengths)
    measured = measure(model, [batch])
    sites = [site for site in model.sites if part in site]
    for site in sites:
        expected = dense_ggn(model, batch, site)
        assert float(expected.abs().max()) > 1e-4
        close(torch.kron(*factors(measured[site])), expected)
    several = make_batch((6, 4, 7))
    site = sites[0]
    away = torch.kron(*factors(measure(model, [several])[site])) - dense_ggn(model, several, site)
    assert float(away.abs().max()) > 0.01 * float(dense_ggn(model, several, site).abs().max())


@pytest.mark.parametrize("name", ["llama", "llama_head_both", "bert_both"])
def test_diagonal_is_that_of_the_dense_ggn(name: str) -> None:
    model, batch = MODELS[name](), make_batch(LENGTHS)
    measured: Any = measure(model, [batch], "diag")
    for site in model.sites:
        expected = dense_ggn(model, batch, site).diag().reshape(model.location(site).shape)
        close(measured[site].diagonal, expected, 1e-5)


@pytest.mark.parametrize("structure", list(STRUCTURES))
def test_items_add_up_however_they_are_batched(structure: str) -> None:
    """Split, order and padding side do not matter, with every pair kept; twice the items are twice the curvature."""
    model = MODELS["llama_both"]()
    whole = make_batch((7, 4, 6, 3))
    parts = [whole.select([3]), whole.select([1, 0]), make_batch((7, 4, 6, 3), side="left", width=11).select([2])]
    one, other, double = (measure(model, batches, structure) for batches in ([whole], parts, [whole, whole]))
    for site in model.sites:
        law = [c[site].law(torch.zeros(model.location(site).shape), torch.tensor(1.0)).variance for c in (one, other)]
        close(law[1], law[0], 1e-5)
        close(double[site].eigenvalues().sum(), 2 * one[site].eigenvalues().sum(), 1e-5)


def test_low_rank_keeps_the_leading_eigenpairs_of_the_large_side() -> None:
    """With as many pairs as the sum's rank nothing is lost; with fewer, the stored shapes are fixed."""
    model, batch = MODELS["llama_both"](), make_batch((3, 2))
    whole, five, two = (measure(model, [batch], rank=rank) for rank in (10**6, 5, 2))
    for site in model.sites:
        d_out, d_in = model.location(site).shape
        shapes = {name: tuple(value.shape) for name, value in two[site].named_buffers()}
        k_out, k_in = (d_out, 2) if d_out < d_in else (2, d_in)
        assert shapes == {
            "out_values": (k_out,), "out_vectors": (d_out, k_out), "in_values": (k_in,), "in_vectors": (d_in, k_in)
        }  # fmt: skip
        exact, cut = factors(whole[site]), factors(two[site])
        large = 1 if d_out < d_in else 0
        close(cut[1 - large], exact[1 - large])
        values, vectors = torch.linalg.eigh(exact[large])
        close(cut[large], (vectors[:, -2:] * values[-2:]) @ vectors[:, -2:].T)
        if large == 1:  # five positions at most: rank 5
            close(factors(five[site])[large], exact[large])


@pytest.mark.parametrize(("size", "rank"), [(40, 40), (40, 7), (6, 4), (6, 9)])
def test_streamed_eigenpairs(size: int, rank: int) -> None:
    """Rows of rank 4 in pieces of any size: the pairs are those of the whole sum."""
    rows = torch.randn(50, 4).double() @ torch.randn(4, size).double()
    pairs = LeadingEigenpairs(size, rank)
    for piece in rows.split([1, 30, 2, 17]):
        pairs.add(piece)
    values, vectors = pairs.result()
    assert values.shape == (min(rank, size),) and vectors.shape == (size, min(rank, size))
    expected = torch.linalg.eigvalsh(rows.T @ rows).flip(0)[: len(values)]
    torch.testing.assert_close(values, expected, rtol=1e-9, atol=1e-9 * float(expected[0]))
    torch.testing.assert_close((vectors * values) @ vectors.T, rows.T @ rows, rtol=1e-9, atol=1e-9 * float(expected[0]))
    kept = vectors[:, values > 0]
    torch.testing.assert_close(kept.T @ kept, torch.eye(4).double(), rtol=0, atol=1e-9)


def test_streamed_eigenpairs_that_are_cut() -> None:
    """A falling spectrum, 600 rows, 8 of 60 pairs: never more than the truth, and within 2 % of it at the top."""
    spectrum = 0.7 ** torch.arange(60).double()
    rows = torch.randn(600, 60).double() * spectrum @ torch.linalg.qr(torch.randn(60, 60).double()).Q
    pairs = LeadingEigenpairs(60, 8)
    pairs.add(rows)
    values, vectors = pairs.result()
    exact = torch.linalg.eigvalsh(rows.T @ rows).flip(0)[:8]
    assert bool((values <= exact * (1 + 1e-9)).all())
    assert bool((values[:5] > 0.98 * exact[:5]).all())
    torch.testing.assert_close(vectors.T @ vectors, torch.eye(8).double(), rtol=0, atol=1e-9)


def test_no_rows_leave_zeros() -> None:
    pairs = LeadingEigenpairs(5, 2)
    pairs.add(torch.zeros(0, 5))
    pairs.add(torch.zeros(3, 5))
    values, vectors = pairs.result()
    assert not bool(values.any()) and not bool(vectors.any())


def test_log_evidence_is_the_dense_one() -> None:
    """Against slogdet of the dense matrices; zero eigenvalues may be left out."""
    H = torch.randn(9, 5).double() @ torch.randn(5, 12).double()
    H = H.T @ H
    M = torch.randn(12).double()
    eye = torch.eye(12).double()
    for precision in (0.03, 1.0, 40.0):
        dets = [torch.linalg.slogdet(matrix).logabsdet for matrix in (precision * eye, H + precision * eye)]
        expected = float(-7.5 - 0.5 * precision * M @ M + 0.5 * (dets[0] - dets[1]))
        values = torch.linalg.eigvalsh(H)
        for kept in (values.clamp(min=0), values[-5:]):
            assert log_evidence(-7.5, float(M @ M), kept, precision) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("loc_square", [1e-6, 0.3, 1e5])
@pytest.mark.parametrize("size", [1e-8, 1.0, 1e9])
def test_evidence_precision_is_the_maximum(loc_square: float, size: float) -> None:
    """Better than its neighbours and than a grid of 24 decades; the derivative by autograd vanishes there."""
    values = size * torch.rand(20).double() ** 4
    found = evidence_precision(loc_square, values)
    best = log_evidence(0.0, loc_square, values, found)
    for factor in (0.99, 1.01, *(10.0**e for e in range(-12, 13))):
        assert log_evidence(0.0, loc_square, values, found * factor) <= best + 1e-12 * abs(best)
    log_precision = torch.tensor(math.log(found), dtype=torch.float64, requires_grad=True)
    precision = log_precision.exp()
    (-0.5 * precision * loc_square - 0.5 * (values / precision).log1p().sum()).backward()
    assert log_precision.grad is not None
    assert abs(float(log_precision.grad)) < 1e-9 * max(1.0, found * loc_square)


@pytest.mark.parametrize(
    ("loc_square", "values"), [(0.0, [1.0]), (1.0, [0.0]), (1.0, []), (math.nan, [1.0]), (1.0, [math.inf])]
)
def test_evidence_without_a_maximum(loc_square: float, values: list[float]) -> None:
    with pytest.raises(
        ConfigError, match="prior_precision: expected weights and a curvature that are finite and not zero"
    ):
        evidence_precision(loc_square, torch.tensor(values).double())


def guide_of(name: str, model: bp.BayesianLoRA) -> Any:
    kinds: dict[str, Callable[[], Any]] = {
        "kron": lambda: bp.guides.LaplaceGuide(model, rank=3),
        "diag": lambda: bp.guides.LaplaceGuide(model, structure="diag"),
        "blob": lambda: bp.BLoBGuide(model, eps=0.6),
        "low_rank": lambda: bp.guides.LowRankGuide(model, eps=0.5, rank=2),
    }
    guide = kinds[name]()
    if name in ("kron", "diag"):
        guide.fit([make_batch((5, 3))])
    return guide


def dense_covariance(guide: Any, site: str) -> Tensor:
    """(d, d) of a site's law, rows laid end to end, built densely for each kind of law."""
    law = guide.posterior(site)
    if isinstance(law, bp.distributions.KroneckerNormal):
        H = torch.kron(*factors(guide.curvature(site)))
        return torch.linalg.inv(H + float(guide.prior_precision) * torch.eye(len(H)).double())
    if isinstance(law, bp.distributions.LowRankNormal):
        factor = law.factor.flatten(1).double()
        return (law.scale.flatten().double().square().diag() + factor.T @ factor).detach()
    return law.variance.flatten().double().diag().detach()


@pytest.mark.parametrize("model_name", ["llama", "llama_both"])
@pytest.mark.parametrize("name", ["kron", "diag", "blob", "low_rank"])
def test_logit_covariance_is_the_dense_one(name: str, model_name: str) -> None:
    """J Sigma J^T of the whole (K, K), from torch's Jacobian and a dense Sigma, seen through the contrasts."""
    model = MODELS[model_name]()
    guide, batch = guide_of(name, model), make_batch(LENGTHS)
    with torch.no_grad():
        found = logit_covariance(guide.posteriors(), linearise(model, batch))
    expected = torch.zeros(3, 3, 3).double()
    for site, J in jacobians(model, batch).items():
        flat = J.flatten(2).double()
        expected += flat @ dense_covariance(guide, site) @ flat.mT
    Q = contrasts(3).double()
    close(found, Q.T @ expected @ Q)


def test_draws_of_the_logits_have_the_linearised_law() -> None:
    """Mean probabilities against draws of all K logits from the full J Sigma J^T, 100,000 each: 5 standard errors."""
    J = torch.randn(4, 3, 7).double()
    logits, full = torch.randn(4, 3).double(), J @ J.mT
    Q = contrasts(3).double()
    draws = draw_probs(logits, Q.T @ full @ Q, torch.randn(100_000, 2))
    naive = torch.distributions.MultivariateNormal(logits, full + 1e-9 * torch.eye(3)).sample((100_000,)).softmax(-1)
    error = ((draws.var(0) + naive.var(0)) / 100_000).sqrt()
    assert bool(((draws.mean(0) - naive.mean(0)).abs() < 5 * error).all())
    torch.testing.assert_close(draws.std(0), naive.std(0), rtol=0.02, atol=0)
    no_noise = draw_probs(logits, torch.zeros(4, 2, 2), torch.randn(3, 2))
    torch.testing.assert_close(no_noise, logits.softmax(-1).expand(3, 4, 3))


def test_points_have_no_linear_covariance() -> None:
    model = MODELS["llama"]()
    law = bp.MLEGuide(model).posterior(next(iter(model.sites)))
    with pytest.raises(
        UnsupportedPosteriorError, match="expected a Gaussian posterior; got UnpenalisedDelta; use Post"
    ):
        linear_covariance(law, torch.zeros(2, 1, 4, 32))


def test_a_layer_that_is_applied_twice_counts_twice() -> None:
    """The derivative is the sum over all positions of all calls."""
    once = SiteJacobian(torch.randn(2, 3, 4), torch.randn(2, 2, 3, 5))
    twice = SiteJacobian(torch.cat([once.inputs] * 2, 1), torch.cat([once.gradients] * 2, 2))
    torch.testing.assert_close(twice.matrices(), 2 * once.matrices())
