"""`TFBGuide`: the paper's law in the adapter's own coordinates, and sigma against a grid search."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from cases import ANSWERS, MODELS, make_batch, snapshot
from guide_laws import check_prediction, check_random_B_is_refused, check_refusals
from torch import Tensor

import blob_pyro as bp
from blob_pyro.errors import ConfigError, DataError, LabelError, UnsupportedPosteriorError
from blob_pyro.guides import TFBGuide
from blob_pyro.guides.sigma_search import SigmaSearch, search_sigma


def trained(name: str = "llama") -> bp.BayesianLoRA:
    """A model whose adapter has learnt one batch of four, to an NLL that is small and not nothing."""
    model = MODELS[name]()
    settings = {"num_steps": 12, "batch_size": 4, "lr": 1e-2, "warmup_ratio": 0.0}
    bp.fit(model, bp.guides.MLEGuide(model), [make_batch()], bp.TrainConfig(**settings), progress=False)
    model.network.eval()
    return model


def fitted(model: bp.BayesianLoRA, **settings: Any) -> TFBGuide:
    guide = TFBGuide(model, **settings)
    guide.fit([make_batch()])
    return guide


def naive_nll(model: bp.BayesianLoRA, batch: bp.Batch, draws: list[dict[str, Tensor]]) -> float:
    """Item by item and draw by draw, from probabilities in float64."""
    assert batch.labels is not None
    total = 0.0
    with torch.no_grad():
        for row, label in enumerate(batch.labels.tolist()):
            item = batch.select([row])
            probs = [float(model.logits(item, draw).double().softmax(-1)[0, label]) for draw in draws]
            total -= math.log(sum(probs) / len(probs))
    return total / len(batch)


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [0.003, 0.1])
def test_sigma_is_that_of_a_grid_search(tolerance: float) -> None:
    """The largest sigma of a grid of ratio 1.02 below which every one is within the tolerance, on the same draws.

    Grid and search each miss the true one by at most a step, of 2 % and 1.2 %.
    """
    model, batch = trained(), make_batch()
    guide = fitted(model, tolerance=tolerance, num_samples=3)
    assert guide.search is not None
    mean_nll = naive_nll(model, batch, [{}])
    assert 0.01 < mean_nll < 1
    assert len(guide.search.trials) <= 7
    assert guide.search.mean_nll == pytest.approx(mean_nll, rel=1e-4)

    def within(sigma: float) -> bool:
        return abs(naive_nll(model, batch, guide.draws(sigma)) - mean_nll) <= tolerance * mean_nll

    found = float(guide.sigma)
    grid = [found * 1.02**step for step in range(-60, 61)]
    passes = [within(sigma) for sigma in grid]
    best = grid[passes.index(False) - 1]
    assert best / (1.02 * 1.012) <= found <= best * 1.02 * 1.012
    assert not within(found * 4) and not within(found * 20)


def test_the_record_of_the_search() -> None:
    """Its trials are the NLLs of its draws; sigma is the largest trial within the tolerance."""
    model, batch = trained(), make_batch()
    guide = fitted(model, tolerance=0.01, num_samples=4, num_steps=7)
    search = guide.search
    assert search is not None and len(search.trials) == 7
    for sigma, nll in search.trials[::3]:
        assert nll == pytest.approx(naive_nll(model, batch, guide.draws(sigma)), rel=1e-4)
    good = [sigma for sigma, nll in search.trials if abs(nll - search.mean_nll) <= 0.01 * search.mean_nll]
    assert search.sigma == max(good) == pytest.approx(float(guide.sigma))
    assert (search.sigma, search.nll) in search.trials


def test_batches_do_not_matter() -> None:
    """The NLL is the mean over items, not over batches: four items at once, or three and one."""
    model, batch = trained(), make_batch()
    whole = fitted(model, num_samples=3)
    parts = TFBGuide(model, num_samples=3)
    parts.fit([batch.select([0, 1, 2]), batch.select([3])])
    assert whole.search is not None and parts.search is not None
    assert parts.search.mean_nll == pytest.approx(whole.search.mean_nll, rel=1e-5)
    assert float(parts.sigma) == pytest.approx(float(whole.sigma), rel=0.02)


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_the_law_of_the_whole_weight_is_the_papers(name: str) -> None:
    """B A has mean B M and columns of covariance sigma^2 U U^T, by the paper's equivalent factors B' and A'."""
    model = MODELS[name]()
    guide = fitted(model, tolerance=0.05)
    sigma = float(guide.sigma)
    for site, layer in model.sites.items():
        B = layer.lora_B["default"].weight.detach().double()
        U, d, Vh = torch.linalg.svd(B, full_matrices=False)
        law = guide.posterior(site)
        covariance = (law.factor @ law.factor.mT).double()
        torch.testing.assert_close(B @ covariance @ B.T / sigma**2, U @ U.T, rtol=0, atol=1e-4)
        # the paper's: B' = U diag(d), A' = V^T A with independent entries of standard deviation sigma / d_i
        factor, spread = U @ torch.diag(d), sigma / d
        torch.testing.assert_close(factor @ torch.diag(spread**2) @ factor.T, sigma**2 * U @ U.T)
        rotated = Vh @ covariance @ Vh.T
        torch.testing.assert_close(rotated / torch.outer(spread, spread), torch.eye(4).double(), rtol=0, atol=1e-4)
        torch.testing.assert_close(law.mean, guide.loc(site))
        torch.testing.assert_close(factor @ (Vh @ law.mean.detach().double()), B @ law.mean.detach().double())


def test_draws_of_the_weight_have_that_law() -> None:
    """4,000 draws of B A at one site: each entry's variance within 5 standard errors of sigma^2 (U U^T)_ii."""
    model = MODELS["llama"]()
    guide = fitted(model)
    site, layer = next(iter(model.sites.items()))
    B = layer.lora_B["default"].weight.detach()
    torch.manual_seed(0)
    with torch.no_grad():
        weights = B @ guide.posterior(site).sample((4000,))
        mean = B @ guide.loc(site)
    U = torch.linalg.svd(B, full_matrices=False).U
    ratios = (weights - mean).square().mean(0) / (float(guide.sigma) ** 2 * (U @ U.T).diagonal()[:, None])
    assert float((ratios - 1).abs().max()) < 5 * math.sqrt(2 / 4000)


def test_the_law_follows_B() -> None:
    """Also after a change that torch does not count; it does not depend on the scale of A or the sign of B."""
    model = MODELS["llama"]()
    guide = fitted(model)
    site, layer = next(iter(model.sites.items()))
    before = guide.posterior(site).factor
    layer.lora_B["default"].weight.data.mul_(-2)
    torch.testing.assert_close(guide.posterior(site).factor, before / 2)
    model.location(site).data.mul_(3)
    torch.testing.assert_close(guide.posterior(site).factor, before / 2)


def test_draws_of_one_call_are_those_of_the_guide_one_by_one() -> None:
    guide = fitted(MODELS["llama"]())
    torch.manual_seed(3)
    found = guide.sample_draws(3)
    torch.manual_seed(3)
    with torch.no_grad():
        for draw in found:
            assert all(torch.equal(value, draw[site]) for site, value in guide().items())


def test_draws_say_which_B_has_lost_a_rank_and_are_refused_without_a_sigma() -> None:
    model = MODELS["llama"]()
    with pytest.raises(UnsupportedPosteriorError, match="expected a sigma"):
        TFBGuide(model).sample_draws(2)
    guide = fitted(model)
    last = list(model.sites)[-1]
    model.sites[last].lora_B["default"].weight.data[:, 1] = 0
    with pytest.raises(UnsupportedPosteriorError, match=f"got rank 3 of 4 at {last}"):
        guide.sample_draws(2)


def test_fit_changes_nothing_else() -> None:
    """Weights, modes and the global random state; two fits are equal, another seed draws other noise."""
    model = trained()
    model.network.train()
    before, state = snapshot(model.network), torch.get_rng_state()
    guide = fitted(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.network.training
    assert all(torch.equal(value, before[key]) for key, value in snapshot(model.network).items())
    assert all(p.grad is None for p in model.network.parameters())
    assert fitted(model).search == guide.search
    assert fitted(model, seed=1).search != guide.search
    assert not list(guide.parameters()) and set(guide.tensors()) == {"sigma"}


def test_prediction() -> None:
    check_prediction(lambda model: fitted(model, tolerance=0.05))


def test_it_widens_the_answers_of_a_trained_adapter() -> None:
    """At 20 % tolerance: the entropy of the mean answer on the training items grows, the answers stay."""
    model, batch = trained(), make_batch()
    guide = fitted(model, tolerance=0.2)
    alone = bp.PosteriorPredictive(model, guide, 0)(batch).probs
    drawn = bp.PosteriorPredictive(model, guide, 200)(batch).probs
    assert torch.equal(alone.argmax(-1), drawn.argmax(-1))
    entropy = [-(probs * probs.log()).sum(-1).mean() for probs in (alone, drawn)]
    assert float(entropy[1]) > 1.05 * float(entropy[0])


def test_flipout_and_random_B_are_refused() -> None:
    check_refusals(fitted, "ColumnNormal")
    check_random_B_is_refused(TFBGuide)


def test_a_fresh_adapter_is_refused() -> None:
    model = MODELS["llama"]()
    for layer in model.sites.values():
        layer.lora_B["default"].weight.data.zero_()
    message = (
        "guide tfb: expected a trained adapter, its lora_B of full column rank; got rank 0 of 4 at .*q_proj.lora_A"
    )
    with pytest.raises(ConfigError, match=message) as caught:
        fitted(model)
    assert "\n" not in str(caught.value)


def test_a_deficient_B_is_refused() -> None:
    """Two equal columns; also afterwards, where the error is none that Pyro appends to."""
    model = MODELS["llama"]()
    guide = fitted(model)
    layer = list(model.sites.values())[-1]
    layer.lora_B["default"].weight.data[:, 1] = layer.lora_B["default"].weight.data[:, 0]
    with pytest.raises(ConfigError, match="got rank 3 of 4 at .*v_proj.lora_A"):
        guide.fit([make_batch()])
    with pytest.raises(UnsupportedPosteriorError, match="got rank 3 of 4 at .*v_proj.lora_A"):
        bp.PosteriorPredictive(model, guide, 2)(make_batch())


def test_before_fit() -> None:
    model = MODELS["llama"]()
    with pytest.raises(UnsupportedPosteriorError, match="expected a sigma; got none; call fit") as caught:
        bp.PosteriorPredictive(model, TFBGuide(model), 2)(make_batch())
    assert "\n" not in str(caught.value)


def test_bad_data() -> None:
    model, batch = MODELS["llama"](), make_batch()
    with pytest.raises(DataError, match="expected items to search sigma on; got none"):
        TFBGuide(model).fit([])
    with pytest.raises(DataError, match="expected batches with labels to search sigma on; got labels=None"):
        TFBGuide(model).fit([batch, make_batch(labels=False)])
    with pytest.raises(LabelError, match="expected labels from 0 to 2"):
        TFBGuide(model).fit([bp.Batch(batch.input_ids, batch.attention_mask, torch.tensor([0, 1, 2, len(ANSWERS)]))])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": 0.0}, "tolerance: expected a relative change above 0; got 0.0"),
        ({"num_samples": 0}, "num_samples: expected at least 1 draw; got 0"),
        ({"min_sigma": 0.0}, "min_sigma: expected 0 < min_sigma < max_sigma; got 0.0 and 1.0"),
        ({"max_sigma": 1e-6}, "min_sigma: expected 0 < min_sigma < max_sigma; got 1e-05 and 1e-06"),
        ({"num_steps": 0}, "num_steps: expected at least 1 step; got 0"),
        ({"anchor": "test"}, "anchor: expected one of train, held_out; got 'test'"),
    ],
)
def test_bad_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TFBGuide(MODELS["llama"](), **settings)


def test_the_anchor_is_what_sigma_is_searched_on() -> None:
    """Held-out items give what training on nothing else would: the same sigma as with them in training's place."""
    model, batch = trained(), make_batch()
    other = batch.select([1, 3])
    held_out = TFBGuide(model, num_samples=3, anchor="held_out")
    held_out.fit([batch], [other])
    in_place = TFBGuide(model, num_samples=3)
    in_place.fit([other])
    assert held_out.search == in_place.search
    in_place.fit([batch])
    assert held_out.search != in_place.search
    assert held_out.settings()["anchor"] == "held_out"
    with pytest.raises(ConfigError, match="expected held-out items for anchor='held_out'; got none; set data.num_val"):
        held_out.fit([batch])


def test_no_sigma_within_the_tolerance() -> None:
    model = trained()
    with pytest.raises(ConfigError, match="tolerance: expected a sigma above 0.5 whose NLL is within 0.30% of "):
        fitted(model, min_sigma=0.5, num_steps=3)


INTERVAL, RATIO, HALVINGS = (1e-5, 1.0), 1.012, 10
ROOTS = [2e-5 * 10 ** (0.29 * step) for step in range(17)]

# change over tolerance as a function of sigma / root; all grow, and pass 1 at root
SHAPES: dict[str, Callable[[float], float]] = {
    "a step": lambda x: 2.0 if x > 1 else 0.0,
    "a step between two plateaus": lambda x: 1.5 if x > 1 else 0.5,
    "saturating": lambda x: 3 * x**2 / (2 + x**2),
    "exponential": lambda x: math.expm1(min(700, x**2 * math.log(2))),
    "none at all, then steep": lambda x: max(0.0, 10 * (x**2 - 0.9)),
    "two powers": lambda x: 0.99 * x**0.5 + 0.01 * x**8,
    "not a number far out": lambda x: x**2 if x < 3 else math.nan,
    "rounding near 0": lambda x: x**2 if x > 0.2 else 1e-4 * (1 + math.sin(1e6 * x)),
}


def searched(shape: Callable[[float], float], root: float, num_steps: int = 14) -> SigmaSearch:
    """`search_sigma` on an NLL of 2 that falls, by 1 % at `root`."""
    return search_sigma(lambda sigma: 2 - 0.02 * shape(sigma / root), 2.0, 0.01, INTERVAL, num_steps)


def check_bracket(found: SigmaSearch) -> None:
    """Sigma is the largest trial within the tolerance; one at most 1.2 % above it (or the interval's end) is not."""
    good = [sigma for sigma, nll in found.trials if abs(nll - 2) <= 0.02]
    bad = [sigma for sigma, nll in found.trials if not abs(nll - 2) <= 0.02]
    assert found.sigma == max(good)
    assert min([*bad, INTERVAL[1]]) <= found.sigma * RATIO * (1 + 1e-9)


@pytest.mark.parametrize(("power", "most"), [(0.3, 4), (1, 4), (1.5, 4), (2, 3), (2.5, 4), (4, 4), (6, 5), (20, 14)])
def test_trials_of_a_power_of_sigma(power: float, most: int) -> None:
    """Whatever the root: three trials at the usual power, four at most others, 14 at worst."""
    for root in ROOTS:
        found = searched(lambda x: x**power, root)
        assert root / RATIO <= found.sigma <= root * (1 + 1e-9) and found.mean_nll == 2.0
        check_bracket(found)
        assert len(found.trials) <= most


@pytest.mark.parametrize("name", list(SHAPES))
def test_the_search_is_a_grid_search(name: str) -> None:
    """The largest sigma of a grid of ratio 1.002 that is within the tolerance, in at most four trials above bisection.

    With 9 trials allowed, too few to close the bracket, it is bisection itself.
    """
    for root in ROOTS:
        grid = [root * 1.002**step for step in range(-20, 21)]
        best = max(sigma for sigma in grid if abs(SHAPES[name](sigma / root)) <= 1)
        for num_steps in (HALVINGS, HALVINGS + 4):
            found = searched(SHAPES[name], root, num_steps)
            assert best / RATIO / 1.002 <= found.sigma <= best * 1.002
            assert len(found.trials) <= num_steps
            check_bracket(found)
        low, high = (math.log(end) for end in INTERVAL)
        for sigma, nll in searched(SHAPES[name], root, HALVINGS - 1).trials:
            middle = (low + high) / 2
            assert math.log(sigma) == pytest.approx(middle)
            low, high = (middle, high) if abs(nll - 2) <= 0.02 else (low, middle)


def test_a_noise_without_effect_takes_the_largest_sigma() -> None:
    found = search_sigma(lambda sigma: 1.0, 1.0, 0.01, (1e-5, 1.0), 14)
    assert found.sigma == pytest.approx(1.0, rel=0.012) and len(found.trials) == 2
    assert search_sigma(lambda sigma: 0.0, 0.0, 0.01, (1e-5, 1.0), 14).sigma == found.sigma


def test_a_ratio_of_ones_own() -> None:
    found = search_sigma(lambda sigma: 1 + sigma**2, 1.0, 0.01, (1e-5, 1.0), 30, ratio=1.0001)
    assert 0.1 / 1.0001 <= found.sigma <= 0.1
