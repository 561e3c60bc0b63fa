"""The plane of two principal components, and ellipses that hold a share of a Gaussian's mass."""

from __future__ import annotations

import math

import pytest
import torch

from blob_pyro.errors import DataError
from blob_pyro.report.plots import embedding_plot, mass_contour, principal_plane


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("mass", [0.5, 0.75, 0.95])
def test_the_contour_lies_where_the_law_says(mass: float) -> None:
    points = normal(30, 2) @ torch.tensor([[2.0, 0.3], [0.0, 0.4]]).double() + torch.tensor([5.0, -1.0])
    outline = mass_contour(points, mass)
    inverse = points.mT.cov().inverse()
    gap = outline - points.mean(0)
    distance = torch.einsum("pi,ij,pj->p", gap, inverse, gap)
    torch.testing.assert_close(distance, torch.full_like(distance, -2 * math.log(1 - mass)), atol=1e-9, rtol=0)
    assert torch.equal(outline[0], outline[-1])


@pytest.mark.parametrize("mass", [0.5, 0.75])
def test_the_contour_holds_its_share_of_fresh_draws(mass: float) -> None:
    # The ellipse of 4,000 draws, and 40,000 others of the same law: the share has a standard deviation of about 0.3 %
    # from the second and, from the estimated covariance, of about 0.8 %. Four of those; the seeds are fixed.
    factor = torch.tensor([[1.0, 0.8], [0.0, 0.5]]).double()
    points, fresh = normal(4000, 2) @ factor, normal(40000, 2, seed=1) @ factor
    inverse = points.mT.cov().inverse()
    gap = fresh - points.mean(0)
    edge = mass_contour(points, mass)[0] - points.mean(0)
    inside = torch.einsum("pi,ij,pj->p", gap, inverse, gap) <= edge @ inverse @ edge
    assert float(inside.double().mean()) == pytest.approx(mass, abs=0.034)


def test_points_in_a_line_give_a_segment() -> None:
    points = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]])
    outline = mass_contour(points, 0.5)
    torch.testing.assert_close(outline[:, 0], outline[:, 1], atol=1e-6, rtol=0)
    assert torch.isfinite(outline).all()


def test_a_contour_grows_with_the_spread_and_the_mass() -> None:
    points = normal(20, 2)
    centre = points.mean(0)
    size = (mass_contour(points, 0.5) - centre).norm(dim=-1)
    torch.testing.assert_close((mass_contour(3 * points, 0.5) - 3 * centre).norm(dim=-1), 3 * size)
    assert ((mass_contour(points, 0.75) - centre).norm(dim=-1) > size).all()


def test_the_plane_is_that_of_the_covariance() -> None:
    states = {"one": normal(4, 10, 7) * torch.arange(1.0, 8.0), "other": normal(3, 10, 7, seed=1)}
    plane = principal_plane(states)
    rows = torch.cat([(found - found.mean((0, 1))).flatten(0, 1) for found in states.values()])
    values, vectors = torch.linalg.eigh(rows.mT @ rows)
    share = values.flip(0) / values.sum()
    assert plane.explained == pytest.approx(share[:2].tolist())
    for axis in (0, 1):
        expected = rows @ vectors[:, -1 - axis]
        found = torch.cat([points.flatten(0, 1) for points in plane.points.values()])[:, axis]
        torch.testing.assert_close(found * torch.sign(found @ expected), expected)


def test_a_plane_keeps_what_lies_in_it() -> None:
    # Items in a plane of a space of nine dimensions keep their distances; a shift of one method changes nothing.
    frame = torch.linalg.qr(normal(9, 2))[0]
    flat = normal(5, 6, 2, seed=3)
    plane = principal_plane({"one": flat @ frame.mT, "shifted": flat @ frame.mT + 100.0})
    found = plane.points["one"]
    torch.testing.assert_close(torch.cdist(found[0], found[1]), torch.cdist(flat[0], flat[1]), atol=1e-9, rtol=0)
    torch.testing.assert_close(plane.points["shifted"], found, atol=1e-9, rtol=0)
    assert sum(plane.explained) == pytest.approx(1.0)


def test_what_has_no_plane_is_refused() -> None:
    good = normal(3, 4, 5)
    for states in ({"a": good[0]}, {"a": good[..., :1]}, {"a": good, "b": normal(3, 4, 6)}, {"a": good[:0]}):
        with pytest.raises(DataError, match=r"expected \(S, n, D\) with one D of at least 2 for all methods"):
            principal_plane(states)
    with pytest.raises(DataError, match=r"expected the same items for every method; got \[3, 4\] of them"):
        embedding_plot({"a": good, "b": good[:, :3]})
    with pytest.raises(DataError, match=r"classes: expected one class an item, \(4,\); got \(3,\)"):
        embedding_plot({"a": good}, classes=torch.zeros(3))
    with pytest.raises(DataError, match="mass: expected a share between 0 and 1; got 1"):
        mass_contour(good[:, 0, :2], 1.0)
    with pytest.raises(DataError, match=r"points: expected \(S, 2\) with at least two points; got \(1, 2\)"):
        mass_contour(good[:1, 0, :2], 0.5)
