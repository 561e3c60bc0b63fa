"""Normals drawn together: the law, the seeds and the gradients of Normals drawn alone."""

from __future__ import annotations

from collections.abc import Callable

import pyro
import pytest
import torch
import torch.nn.functional as F
from pyro.distributions import Normal
from torch import Tensor

from blob_pyro.distributions import pooled_normals

SHAPES = ((4, 8), (2, 16), (4, 8))


def leaves() -> tuple[list[Tensor], list[Tensor]]:
    return (
        [torch.randn(shape).requires_grad_() for shape in SHAPES],
        [torch.rand(shape).add(0.1).requires_grad_() for shape in SHAPES],
    )


@pytest.mark.parametrize("to_scale", [torch.square, F.softplus])
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_equals_separate_draws(order: tuple[int, ...], to_scale: Callable[[Tensor], Tensor]) -> None:
    """With one seed, in whatever order the sites are asked: values and gradients (sizes are multiples of 16)."""
    locs, roots = leaves()
    torch.manual_seed(3)
    laws = pooled_normals(locs, roots, to_scale)
    drawn = {i: laws[i].rsample() for i in order}
    together = [drawn[i] for i in range(3)]
    torch.manual_seed(3)
    alone = [Normal(loc, to_scale(root)).rsample() for loc, root in zip(locs, roots, strict=True)]
    for ours, theirs in zip(together, alone, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)
    targets = [torch.randn(shape) for shape in SHAPES]
    gradients = [
        torch.autograd.grad(sum((v * t).sum() for v, t in zip(values, targets, strict=True)), locs + roots)
        for values in (together, alone)
    ]
    torch.testing.assert_close(gradients[0], gradients[1])


@pytest.mark.parametrize("to_scale", [torch.square, F.softplus])
def test_law_is_the_normals(to_scale: Callable[[Tensor], Tensor]) -> None:
    locs, roots = leaves()
    for law, loc, root in zip(pooled_normals(locs, roots, to_scale), locs, roots, strict=True):
        plain = Normal(loc, to_scale(root))
        assert torch.equal(law.mean, plain.mean) and torch.equal(law.stddev, plain.stddev)
        assert torch.equal(law.log_prob(loc + 0.3), plain.log_prob(loc + 0.3))


def test_a_second_draw_is_a_new_one() -> None:
    """5,000 later draws of one entry: mean and variance within 5 standard errors with probability above 0.999."""
    locs, roots = leaves()
    law = pooled_normals(locs, roots)[0]
    first, second = law.sample(), law.sample()
    assert not torch.equal(first, second)
    z = ((law.sample((5000,)) - law.mean) / law.stddev).detach()
    assert float(z.mean(0).abs().max()) < 5 / 5000**0.5
    assert float((z.square().mean(0) - 1).abs().max()) < 5 * (2 / 5000) ** 0.5


def test_under_a_plate_copies_are_independent() -> None:
    locs, roots = leaves()
    law = pooled_normals(locs, roots)[0].to_event(2)
    with pyro.plate("draws", 3):
        value = pyro.sample("A", law)
    assert value.shape == (3, *SHAPES[0])
    assert not torch.equal(value[0], value[1])


def test_draws_without_gradients() -> None:
    locs, roots = leaves()
    assert not pooled_normals(locs, roots)[0].sample().requires_grad
