"""The fused KL against torch's registry, its gradients against autograd's, and its exact facts."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from blob_pyro.distributions import gaussian_kl


def leaves(dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (6, 50)) -> tuple[Tensor, Tensor]:
    loc = (0.1 * torch.randn(shape)).to(dtype).requires_grad_()
    scale = (1e-3 + torch.rand(shape)).to(dtype).requires_grad_()
    return loc, scale


def by_registry(loc: Tensor, scale: Tensor, prior_scale: float) -> Tensor:
    return kl_divergence(Normal(loc, scale), Normal(torch.zeros_like(loc), prior_scale)).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("prior_scale", [0.02, 0.2, 3.0])
def test_equals_the_registry(prior_scale: float, dtype: torch.dtype) -> None:
    loc, scale = leaves(dtype)
    ours, theirs = gaussian_kl(loc, scale, prior_scale), by_registry(loc, scale, prior_scale)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=0)
    gradients = [torch.autograd.grad(3 * value, [loc, scale]) for value in (ours, theirs)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-5, atol=1e-6)


def test_first_and_second_derivatives() -> None:
    loc, scale = leaves(torch.float64, (3,))
    assert torch.autograd.gradcheck(lambda m, s: gaussian_kl(m, s, 0.3), [loc, scale])
    assert torch.autograd.gradgradcheck(lambda m, s: gaussian_kl(m, s, 0.3), [loc, scale])


@pytest.mark.parametrize("prior_scale", [0.02, 0.2, 3.0])
def test_a_learned_prior_scale_equals_the_registry(prior_scale: float) -> None:
    """Value and gradients, the prior scale's too: n / sigma_p - sum(scale^2 + loc^2) / sigma_p^3."""
    loc, scale = leaves(torch.float64)
    learned = torch.tensor(prior_scale, dtype=torch.float64, requires_grad=True)
    ours = gaussian_kl(loc, scale, learned)
    theirs = kl_divergence(Normal(loc, scale), Normal(torch.zeros_like(loc), learned)).sum()
    torch.testing.assert_close(ours, theirs)
    gradients = [torch.autograd.grad(3 * value, [loc, scale, learned]) for value in (ours, theirs)]
    torch.testing.assert_close(gradients[0], gradients[1])
    squares = (scale.square() + loc.square()).sum().detach()
    torch.testing.assert_close(gradients[0][2], 3 * (loc.numel() / learned - squares / learned**3).detach())
    small, wide = leaves(torch.float64, (3,))
    assert torch.autograd.gradcheck(gaussian_kl, [small, wide, learned])
    assert torch.autograd.gradgradcheck(gaussian_kl, [small, wide, learned])


@pytest.mark.parametrize("prior_scale", [0.25, torch.tensor(0.25)])
def test_of_the_prior_itself_is_zero(prior_scale: float | Tensor) -> None:
    assert gaussian_kl(torch.zeros(1000), torch.full((1000,), 0.25), prior_scale).item() == 0.0


def test_near_the_prior_nothing_cancels() -> None:
    """A million entries a thousandth off: about two nats, of terms that are hundreds of thousands."""
    scale = torch.full((1_000_000,), 0.2 * 1.001)
    expected = by_registry(torch.zeros(1_000_000, dtype=torch.float64), scale.double(), 0.2)
    found = gaussian_kl(torch.zeros(1_000_000), scale, 0.2)
    assert abs(float(found) - float(expected)) < 0.1


def test_a_scale_of_zero_is_infinitely_far() -> None:
    assert gaussian_kl(torch.zeros(2), torch.tensor([0.0, 1.0]), 0.2).item() == float("inf")
