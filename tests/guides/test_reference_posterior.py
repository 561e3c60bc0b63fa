"""Every guide against the exact posterior of a tiny network, which Pyro's NUTS draws from.

Runs examples/reference_posterior.py. The tolerances were set from what it printed at these sizes, with about half as
much again to spare; chains of 100 draws tell a standard deviation to 7 % and a mean to 0.1 of one, if the draws are
independent, and these are not quite.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from blob_pyro.guides import GUIDES

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parents[2] / "examples" / "reference_posterior.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    """The example as a module."""
    spec = importlib.util.spec_from_file_location("reference_posterior", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks for its own module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def rows(script: ModuleType) -> dict[str, Any]:
    """The table, in small."""
    return script.distances(num_samples=100, warmup_steps=50, num_steps=500)


def test_every_guide_but_the_ensemble_is_compared(script: ModuleType, rows: dict[str, Any]) -> None:
    """The ensemble draws B as well, which is fixed here."""
    assert set(rows) == {"NUTS again", *GUIDES} - {"ensemble"}
    assert all(name in script.table(rows) for name in rows)


def test_two_chains_agree(rows: dict[str, Any]) -> None:
    again = rows["NUTS again"]
    assert again.mean < 0.45 and 0.85 < again.scale < 1.15 and again.total_variation < 0.16


@pytest.mark.parametrize("name", ["blob", "low_rank"])
def test_gaussians_under_the_textbook_elbo_are_close(rows: dict[str, Any], name: str) -> None:
    """Mean and spread within what two chains differ by; the answers a little further."""
    found = rows[name]
    assert found.mean < 0.5
    assert 0.85 < found.scale < 1.15
    assert found.total_variation < 0.2


def test_softplus_and_curvature_have_the_mean_and_less_spread(rows: dict[str, Any]) -> None:
    """Softplus has not left its start of 0.002 for good after 500 steps; Laplace chooses its own prior precision."""
    for name in ("mean_field", "laplace"):
        assert rows[name].mean < 0.5 and 0.3 < rows[name].scale < 0.9
        assert rows[name].total_variation < 0.27


def test_points_are_far_and_every_gaussian_is_nearer(rows: dict[str, Any]) -> None:
    for name in ("map", "mle"):
        assert rows[name].scale == 0 and rows[name].total_variation > 0.3
        assert all(
            rows[other].total_variation < rows[name].total_variation - 0.1
            for other in ("blob", "low_rank", "mean_field", "laplace")
        )


def test_without_a_prior_the_mean_runs_away(rows: dict[str, Any]) -> None:
    """MLE, and what starts from it or trains as it does, lie at twice the distance of whatever knows the prior."""
    assert all(rows[name].mean > 2 * rows["map"].mean for name in ("mle", "tfb", "dropout"))


def test_few_random_numbers_spread_too_little(rows: dict[str, Any]) -> None:
    """r numbers a layer, a sigma that hardly moves the training NLL, dropped columns: under a third of the truth."""
    assert all(0 < rows[name].scale < 1 / 3 for name in ("scalabl", "tfb", "dropout"))
    assert rows["tfb"].total_variation <= rows["mle"].total_variation + 0.01
