"""Guides on one model share its mean: who asks one whose mean another has moved is told, and copies help."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pytest
import torch
from cases import EVERY_GUIDE, GUIDES, KINDS, MODELS, TRAINED, draw_all, make_batch, model_for, snapshot
from pyro.infer import SVI, Predictive, Trace_ELBO
from pyro.infer.autoguide import AutoNormal

import blob_pyro as bp
from blob_pyro.config.sections import TrainConfig
from blob_pyro.errors import ConfigError, UnsupportedPosteriorError
from blob_pyro.guides import AdapterGuide, LaplaceGuide, TFBGuide, init_to_adapter
from blob_pyro.training.elbo import negative_log_likelihood

CONFIG = TrainConfig(num_steps=4, batch_size=4, lr=1e-2, kl_width=0.1)


@pytest.fixture(autouse=True)
def empty_store() -> None:
    pyro.clear_param_store()


def by_fit(model: bp.BayesianLoRA, guide: Any) -> None:
    bp.fit(model, guide, [make_batch()] * 4, CONFIG, progress=False)


def by_step(model: bp.BayesianLoRA, guide: Any) -> None:
    svi = bp.BLoBSVI(model, guide, lr=1e-2, kl_lr=1e-3)
    for _ in range(2):
        svi.step(make_batch())


def by_pyro(model: bp.BayesianLoRA, guide: Any) -> None:
    svi = SVI(model, guide, pyro.optim.ClippedAdam({"lr": 1e-2}), Trace_ELBO())
    for _ in range(2):
        svi.step(make_batch())


TRAINERS: dict[str, Callable[[bp.BayesianLoRA, Any], None]] = {"fit": by_fit, "BLoBSVI": by_step, "SVI": by_pyro}


def answers(model: bp.BayesianLoRA, guide: Any, num_samples: int = 3) -> torch.Tensor:
    torch.manual_seed(0)
    return bp.PosteriorPredictive(model, guide, num_samples)(make_batch()).probs


# what asks a guide -> how
ENTRIES: dict[str, Callable[[bp.BayesianLoRA, Any], Any]] = {
    "draws": answers,
    "mean": lambda model, guide: answers(model, guide, 0),
    "linearised": lambda model, guide: bp.LinearisedPredictive(model, guide)(make_batch()),
    "pyro": lambda model, guide: Predictive(model, guide=guide, num_samples=2)(make_batch()),
    "evaluate_loss": lambda model, guide: SVI(model, guide, pyro.optim.Adam({}), Trace_ELBO()).evaluate_loss(
        make_batch()
    ),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("train", TRAINERS)
def test_a_guide_whose_model_was_trained_under_another_says_so(train: str, entry: str) -> None:
    model = MODELS["llama"]()
    first, second = bp.BLoBGuide(model), bp.guides.MeanFieldGuide(model)
    TRAINERS[train](model, first)
    ENTRIES[entry](model, first)
    TRAINERS[train](model, second)
    with pytest.raises(UnsupportedPosteriorError, match=r"^BLoBGuide: .* under MeanFieldGuide since.*deepcopy\(model"):
        ENTRIES[entry](model, first)
    ENTRIES[entry](model, second)


def test_fitting_it_again_cures_it() -> None:
    model = MODELS["llama"]()
    first, second = bp.BLoBGuide(model), bp.guides.MeanFieldGuide(model)
    for guide in (first, second, first):
        by_fit(model, guide)
    answers(model, first)
    with pytest.raises(UnsupportedPosteriorError, match="MeanFieldGuide"):
        answers(model, second)


def test_so_does_putting_the_parameters_back() -> None:
    model = MODELS["llama"]()
    first = bp.BLoBGuide(model)
    by_fit(model, first)
    trained, expected = copy.deepcopy(model.state_dict()), answers(model, first)
    by_fit(model, bp.MLEGuide(model))
    with pytest.raises(UnsupportedPosteriorError, match="MLEGuide"):
        answers(model, first)
    model.load_state_dict(trained)
    assert torch.equal(answers(model, first), expected)


def test_a_guide_that_is_made_or_sampled_moves_nothing() -> None:
    model = MODELS["llama"]()
    first = bp.BLoBGuide(model)
    by_fit(model, first)
    expected = answers(model, first)
    second = bp.BLoBGuide(model)
    second(make_batch())  # with gradients, as a notebook's cell
    answers(model, second)
    negative_log_likelihood(model, second, make_batch()).backward()
    assert torch.equal(answers(model, first), expected)


def test_parameters_that_are_loaded_are_no_training() -> None:
    model, other = MODELS["llama"](), MODELS["llama"]()
    guide = bp.BLoBGuide(model)
    by_fit(model, guide)
    by_fit(other, bp.BLoBGuide(other))
    bp.BLoBGuide(model)
    model.load_state_dict(other.state_dict())
    answers(model, guide)


@pytest.mark.parametrize("build", [LaplaceGuide, TFBGuide])
def test_a_post_hoc_guide_goes_with_the_adapter_that_it_was_fitted_to(build: type[Any]) -> None:
    model = model_for("laplace" if build is LaplaceGuide else "tfb")
    early = build(model)  # before the training that it needs
    by_fit(model, bp.MAPGuide(model))
    guide = early.fit([make_batch()])
    assert guide is early
    answers(model, guide)
    by_fit(model, bp.MAPGuide(model))
    with pytest.raises(UnsupportedPosteriorError, match=f"{build.__name__}.*MAPGuide"):
        answers(model, guide)
    answers(model, guide.fit([make_batch()]))


def test_an_autoguide_and_a_guide_of_the_library_tell_of_each_other() -> None:
    model = MODELS["llama"]()
    guide, auto = bp.BLoBGuide(model), AutoNormal(model, init_loc_fn=init_to_adapter(model), init_scale=0.01)
    by_fit(model, guide)
    by_pyro(model, auto)
    answers(model, auto)
    with pytest.raises(UnsupportedPosteriorError, match="BLoBGuide.*none of bp.guides"):
        answers(model, guide)
    by_fit(model, guide)
    with pytest.raises(UnsupportedPosteriorError, match="none of bp.guides.*under BLoBGuide"):
        answers(model, auto)


def autoguide(model: bp.BayesianLoRA) -> AutoNormal:
    pyro.clear_param_store()
    guide = AutoNormal(model, init_loc_fn=init_to_adapter(model), init_scale=0.01)
    by_pyro(model, guide)
    return guide


def test_two_autoguides_tell_of_each_other() -> None:
    model = MODELS["llama"]()
    first = autoguide(model)
    before = answers(model, first)
    second = autoguide(model)
    answers(model, second)
    with pytest.raises(UnsupportedPosteriorError, match="none of bp.guides.*under a guide that is none of bp.guides"):
        answers(model, first)
    assert before.isfinite().all()


@pytest.mark.parametrize("train", TRAINERS)
def test_two_models_over_one_adapter_are_one_to_their_guides(train: str) -> None:
    """A notebook's cell that wraps the network, run again."""
    first = MODELS["llama"]()
    guide = bp.BLoBGuide(first)
    by_fit(first, guide)
    pyro.clear_param_store()
    second = bp.BayesianLoRA(first.network, first.likelihood, num_data=first.num_data)
    TRAINERS[train](second, bp.BLoBGuide(second))
    with pytest.raises(UnsupportedPosteriorError, match="BLoBGuide: expected the model as this guide left it"):
        answers(first, guide)


# --- copies


@pytest.mark.parametrize("name", MODELS)
def test_a_copied_model_has_what_is_trained_for_itself_and_shares_the_base(name: str) -> None:
    model = MODELS[name]()
    other = copy.deepcopy(model)
    mine = {key: parameter for key, parameter in model.network.named_parameters()}
    own = {key for key, parameter in other.network.named_parameters() if parameter is not mine[key]}
    sites = {id(model.location(site)) for site in model.sites}
    assert own == {key for key, parameter in mine.items() if parameter.requires_grad}
    assert own >= {key for key, parameter in mine.items() if id(parameter) in sites}
    torch.manual_seed(0)
    draws = draw_all(model, 2)
    assert torch.equal(model.logits(make_batch(), draws), other.logits(make_batch(), draws))


@pytest.mark.parametrize("name", TRAINED)
def test_training_a_copy_is_training_a_model_of_its_own(name: str) -> None:
    """Bit for bit what a model loaded anew comes to; the original, and its guide's answers, stay."""
    model, again = model_for(name), model_for(name)
    kept = EVERY_GUIDE[name](model)
    by_fit(model, kept)
    before, expected = snapshot(model, kept), answers(model, kept)
    again.load_state_dict(model.state_dict())
    other = copy.deepcopy(model)
    torch.manual_seed(1)
    guide = GUIDES[name](other)
    torch.manual_seed(1)
    twin = GUIDES[name](again)
    for one, its in ((other, guide), (again, twin)):
        torch.manual_seed(2)
        by_fit(one, its)
    assert all(
        torch.equal(a, b) for a, b in zip(snapshot(other, guide).values(), snapshot(again, twin).values(), strict=True)
    )
    assert torch.equal(answers(other, guide), answers(again, twin))
    after = snapshot(model, kept)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert torch.equal(answers(model, kept), expected)


@pytest.mark.parametrize("name", [name for name in EVERY_GUIDE if KINDS[name].is_random])
def test_a_copied_guide_has_a_copy_of_its_model(name: str) -> None:
    model = model_for(name)
    guide = EVERY_GUIDE[name](model)
    expected = answers(model, guide)
    other = copy.deepcopy(guide)
    assert torch.equal(answers(other.model, other), expected)
    if name in TRAINED:
        by_fit(other.model, other)
        assert not torch.equal(answers(other.model, other), expected)
    assert torch.equal(answers(model, guide), expected)


@pytest.mark.parametrize(
    "use",
    [
        answers,
        by_fit,
        by_step,
        lambda model, guide: bp.LinearisedPredictive(model, guide)(make_batch()),
    ],
)
def test_a_guide_of_another_model_is_refused(use: Callable[[bp.BayesianLoRA, Any], Any]) -> None:
    model = MODELS["llama"]()
    with pytest.raises(ConfigError, match=r"made for this model; got a BLoBGuide of another.*guide\.model"):
        use(model, copy.deepcopy(bp.BLoBGuide(model)))


def test_saving_a_guide_of_another_model_or_training_is_refused(tmp_path: Path) -> None:
    model = MODELS["llama"]()
    guide = bp.BLoBGuide(model)
    by_fit(model, guide)
    by_fit(model, bp.MLEGuide(model))
    with pytest.raises(UnsupportedPosteriorError, match="MLEGuide"):
        bp.save(tmp_path / "run", model, guide)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="of another"):
        bp.save(tmp_path / "run", model, bp.BLoBGuide(MODELS["llama"]()))


def test_a_pickled_pair_still_knows() -> None:
    model = MODELS["llama"]()
    guide: AdapterGuide = bp.BLoBGuide(model)
    by_fit(model, guide)
    model, guide = pickle.loads(pickle.dumps((model, guide)))
    answers(model, guide)
    by_fit(model, bp.MLEGuide(model))
    with pytest.raises(UnsupportedPosteriorError, match="MLEGuide"):
        answers(model, guide)
