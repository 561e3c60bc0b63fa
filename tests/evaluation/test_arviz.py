"""Predictions handed to ArviZ: the groups against plain arithmetic, and ArviZ's own functions on them."""

from __future__ import annotations

import subprocess
import sys
import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

import blob_pyro as bp
from blob_pyro.errors import ConfigError, DataError

S, N, K = 200, 30, 3
CLASSES = ["bad", "fair", "good"]


@pytest.fixture
def arviz() -> Any:
    if find_spec("arviz") is None:
        pytest.skip("the package arviz is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of ArviZ 0.23, about ArviZ 1.0
        import arviz

    return arviz


def predictions(labels: bool = True, shares: bool = False) -> bp.Predictions:
    """Draws that differ a little from one another."""
    draws = (torch.randn(N, K) + 0.3 * torch.randn(S, N, K)).softmax(-1)
    truth = torch.randint(K, (N,)) if labels else None
    return bp.Predictions(draws.mean(0), draws, truth, torch.rand(N, K).softmax(-1) if shares else None)


def test_groups_dimensions_and_values(arviz: Any) -> None:
    found = predictions()
    data = found.to_arviz(CLASSES)
    assert data["posterior"]["probs"].dims == ("chain", "draw", "item", "class")
    assert data["posterior"]["probs"].shape == (1, S, N, K)
    assert list(data["posterior"]["class"].values) == CLASSES
    np.testing.assert_allclose(data["posterior"]["probs"].values[0], found.draws.numpy(), rtol=1e-6)
    assert found.labels is not None
    assert data["observed_data"]["label"].dims == ("item",)
    assert data["observed_data"]["label"].values.tolist() == found.labels.tolist()
    assert data["log_likelihood"]["label"].dims == ("chain", "draw", "item")
    by_hand = [[float(row[i, label].log()) for i, label in enumerate(found.labels)] for row in found.draws]
    np.testing.assert_allclose(data["log_likelihood"]["label"].values[0], by_hand, rtol=1e-5)


def test_the_mean_over_draws_is_what_evaluate_scores(arviz: Any) -> None:
    """-log of the draws' mean likelihood, averaged over items, is the NLL of `evaluate`."""
    found = predictions()
    likelihood = np.exp(found.to_arviz()["log_likelihood"]["label"].values[0])
    assert -np.log(likelihood.mean(0)).mean() == pytest.approx(bp.evaluate(found).nll, rel=1e-5)


def test_drawn_labels_have_the_draws_probabilities(arviz: Any) -> None:
    # 400 draws x 30 items of one law each: a share has standard error below 0.5 / sqrt(400) = 0.025; 5 of them
    # over 90 shares fail with probability below 6e-5.
    probs = torch.randn(N, K).softmax(-1)
    data = bp.Predictions(probs, probs.expand(400, N, K)).to_arviz()
    labels = data["posterior_predictive"]["label"].values[0]
    shares = np.stack([(labels == k).mean(0) for k in range(K)], -1)
    assert np.abs(shares - probs.numpy()).max() < 5 * 0.025


def test_a_seed_repeats_the_labels_and_no_other_random_number_is_taken(arviz: Any) -> None:
    found = predictions()
    before = torch.get_rng_state()
    first, again, other = (found.to_arviz(seed=seed)["posterior_predictive"]["label"].values for seed in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert (first == again).all() and (first != other).any()


def test_shares_of_annotators(arviz: Any) -> None:
    found = predictions(labels=False, shares=True)
    data = found.to_arviz()
    assert found.shares is not None
    np.testing.assert_allclose(data["observed_data"]["shares"].values, found.shares.numpy())
    by_hand = (found.shares.double() * found.draws.double().log()).sum(-1)
    np.testing.assert_allclose(data["log_likelihood"]["label"].values[0], by_hand.numpy(), rtol=1e-5)


def test_without_labels_there_is_nothing_to_compare_with(arviz: Any) -> None:
    data = predictions(labels=False).to_arviz()
    names = {name.strip("/") for name in data.groups} if not callable(data.groups) else set(data.groups())
    assert {"posterior", "posterior_predictive"} <= names
    assert not {"log_likelihood", "observed_data"} & names


def test_an_impossible_label_costs_as_much_as_in_the_scores(arviz: Any) -> None:
    draws = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    found = bp.Predictions(draws.mean(0), draws, torch.tensor([1]))
    value = float(found.to_arviz()["log_likelihood"]["label"].values[0, 0, 0])
    assert value == pytest.approx(-bp.evaluate(found).nll, rel=1e-6)


def test_loo_and_waic_take_it(arviz: Any) -> None:
    """Of draws that all agree, both are the plain log-likelihood: nothing was learnt from the items."""
    probs = torch.randn(N, K).softmax(-1)
    draws = (probs.log() + 1e-6 * torch.randn(S, N, K)).softmax(-1)
    found = bp.Predictions(draws.mean(0), draws, torch.randint(K, (N,)))
    data = found.to_arviz(CLASSES)
    expected = -N * bp.evaluate(found).nll
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of Pareto's k
        estimates = [arviz.loo(data)] + ([arviz.waic(data)] if hasattr(arviz, "waic") else [])
    for estimate in estimates:
        value = estimate.elpd_loo if "elpd_loo" in dir(estimate) else getattr(estimate, "elpd_waic", None)
        value = getattr(estimate, "elpd", None) if value is None else value
        assert float(value) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("num_draws", [0, 1])
def test_the_posterior_mean_has_no_draws(arviz: Any, num_draws: int) -> None:
    probs = torch.full((N, K), 1 / K)
    with pytest.raises(DataError, match=rf"at least 2 posterior draws; got {num_draws}.*num_samples of 2") as caught:
        bp.Predictions(probs, probs.expand(num_draws, N, K)).to_arviz()
    assert "\n" not in str(caught.value)


def test_names_of_other_classes_are_refused(arviz: Any) -> None:
    with pytest.raises(ConfigError, match="classes: expected 3 names, one a class; got 2"):
        predictions().to_arviz(["bad", "good"])


@pytest.mark.slow
def test_without_arviz_one_line_names_the_extra() -> None:
    code = (
        "import sys; sys.modules['arviz'] = None\n"
        "import torch, blob_pyro as bp\n"
        "draws = torch.full((2, 1, 2), 0.5)\n"
        "try:\n    bp.Predictions(draws.mean(0), draws).to_arviz()\n"
        "except bp.errors.MissingPackageError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == (
        "expected the package arviz for to_arviz; it is not installed: pip install 'blob_pyro[arviz]'\n"
    )
