"""`LinearisedPredictive`: against dense algebra, against weight draws of a small spread, and as a predictive."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from cases import MODELS, make_batch, snapshot

import blob_pyro as bp
from blob_pyro.errors import ConfigError, DataError, UnsupportedPosteriorError
from blob_pyro.guides.curvature import contrasts
from blob_pyro.prediction.linearised import LinearisedPredictive


def fitted(name: str = "llama_both", **settings: Any) -> tuple[bp.BayesianLoRA, Any]:
    model = MODELS[name]()
    guide = bp.guides.LaplaceGuide(model, **settings)
    guide.fit([make_batch()])
    return model, guide


@pytest.mark.slow
@pytest.mark.parametrize("name", ["llama", "llama_both", "gpt2", "bert_both"])
def test_small_spreads_answer_as_weight_draws_do(name: str) -> None:
    """Where the network is nearly linear: the logits' covariance under 4,000 weight draws of BLoB at a small scale.

    Entries within 6 standard errors plus 2 % for what is not linear; sampling a wrong site or a wrong scale is off by
    tens of per cent.
    """
    model = MODELS[name]()
    guide = bp.BLoBGuide(model, eps=0.1)  # standard deviations from 0.005 to 0.01
    batch, Q = make_batch((5, 3, 6)), contrasts(3)
    logits, covariance = LinearisedPredictive(model, guide).logit_law(batch)
    torch.manual_seed(0)
    with torch.no_grad():
        laws = guide.posteriors()
        draws = torch.cat(
            [model.logits(batch, {site: guide.posterior(site).sample((500,)) for site in laws}) for _ in range(8)]
        )
    seen = (draws - logits) @ Q
    found = torch.einsum("sbc,sbd->bcd", seen, seen) / len(seen)
    variances = covariance.diagonal(dim1=-2, dim2=-1)
    size = (variances.unsqueeze(-1) * variances.unsqueeze(-2)).sqrt()
    assert bool(((found - covariance).abs() < (6 * math.sqrt(2 / len(seen)) + 0.02) * size).all())
    assert float(variances.min()) > 1e-6


@pytest.mark.parametrize("structure", ["kron", "diag"])
def test_draws_have_the_mean_and_spread_of_the_logits_law(structure: str) -> None:
    """Log-ratios of the drawn probabilities are the logits' contrasts: 20,000 draws, 5 standard errors."""
    model, guide = fitted(structure=structure)
    batch, Q = make_batch(), contrasts(3)
    predictive = LinearisedPredictive(model, guide, 20_000)
    logits, covariance = predictive.logit_law(batch)
    seen = predictive(batch).draws.double().log() @ Q.double()
    variances = covariance.diagonal(dim1=-2, dim2=-1).double()
    errors = (seen.mean(0) - (logits @ Q).double()).abs() / (variances / 20_000).sqrt()
    kept = variances < 100  # beyond, float32 probabilities touch 0
    assert bool(kept.any()) and float(errors[kept].max()) < 5
    torch.testing.assert_close(seen.var(0)[kept], variances[kept], rtol=5 * math.sqrt(2 / 20_000), atol=0)


@pytest.mark.parametrize("side", ["right", "left"])
def test_an_answer_does_not_depend_on_the_items_beside_it(side: str) -> None:
    """Alone, in a batch, in forwards of any size, shuffled in a loader: the same draws, in the data set's order."""
    model, guide = fitted()
    batch = make_batch((7, 4, 12, 3, 5), side=side, width=14)
    torch.manual_seed(1)
    expected = LinearisedPredictive(model, guide, 6)(batch)
    alone = []
    for row in range(len(batch)):
        torch.manual_seed(1)
        alone.append(LinearisedPredictive(model, guide, 6)(batch.select([row])).draws)
    torch.testing.assert_close(torch.cat(alone, dim=1), expected.draws, rtol=1e-3, atol=1e-4)
    for max_tokens in (1, 16):
        torch.manual_seed(1)
        cut = LinearisedPredictive(model, guide, 6, max_tokens=max_tokens)(batch)
        torch.testing.assert_close(cut.draws, expected.draws, rtol=1e-3, atol=1e-4)
    torch.manual_seed(1)
    shuffled = LinearisedPredictive(model, guide, 6)(iter([batch.select([3, 0]), batch.select([4, 2, 1])]))
    torch.testing.assert_close(shuffled.draws, expected.draws, rtol=1e-3, atol=1e-4)
    assert shuffled.labels is not None and batch.labels is not None and torch.equal(shuffled.labels, batch.labels)
    torch.testing.assert_close(shuffled.probs, shuffled.draws.mean(0))
    assert expected.draws.shape == (6, 5, 3)


def test_no_draws_and_no_spread_are_the_mean() -> None:
    model, guide = fitted()
    batch = make_batch()
    mean = model.logits(batch).softmax(-1).detach()
    state = torch.get_rng_state()
    found = LinearisedPredictive(model, guide, 0)(batch)
    assert torch.equal(found.probs, mean) and found.draws.shape == (1, 4, 3)
    assert torch.equal(torch.get_rng_state(), state)
    guide.prior_precision.fill_(1e12)
    torch.testing.assert_close(LinearisedPredictive(model, guide, 5)(batch).probs, mean, rtol=0, atol=1e-3)
    assert bp.PosteriorPredictive(model, guide, 0)(batch).probs.equal(mean)


def test_number_of_passes(capsys: pytest.CaptureFixture[str]) -> None:
    """One forward whatever the number of draws, and a bar that counts items."""
    model, guide = fitted()
    forwards: list[int] = []
    model.network.get_input_embeddings().register_forward_hook(lambda *call: forwards.append(len(call[2])))
    LinearisedPredictive(model, guide, 500)(make_batch(), progress=True, description="answering")
    assert forwards == [4]
    shown = capsys.readouterr().err
    assert "answering" in shown and "4/4" in shown


def test_nothing_is_left_changed() -> None:
    model, guide = fitted("gpt2")
    model.network.train()
    before = snapshot(model.network, guide)
    found = LinearisedPredictive(model, guide, 3)(make_batch())
    assert all(module.training for module in model.network.modules())
    assert all(torch.equal(value, before[name]) for name, value in snapshot(model.network, guide).items())
    assert all(p.grad is None for p in model.network.parameters())
    assert not found.draws.requires_grad


def test_bfloat16_base() -> None:
    model, guide = fitted("llama_bfloat16")
    found = LinearisedPredictive(model, guide, 50)(make_batch())
    assert found.draws.dtype == torch.float32
    torch.testing.assert_close(found.draws.sum(-1), torch.ones(50, 4))


def test_bad_arguments() -> None:
    model, guide = fitted()
    with pytest.raises(ConfigError, match="num_samples: expected at least 0 draws; got -1"):
        LinearisedPredictive(model, guide, -1)
    with pytest.raises(ConfigError, match="max_tokens: expected at least 1, or None; got 0"):
        LinearisedPredictive(model, guide, max_tokens=0)
    with pytest.raises(DataError, match="expected at least one batch to predict; got an empty loader"):
        LinearisedPredictive(model, guide)([])
    with pytest.raises(
        UnsupportedPosteriorError, match="guide: expected one of bp.guides with a Gaussian law; got fun"
    ):
        LinearisedPredictive(model, lambda batch: None)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedPosteriorError, match="expected a Gaussian posterior; got Delta"):
        LinearisedPredictive(model, bp.MAPGuide(model))(make_batch())
    unfitted = bp.guides.LaplaceGuide(model)
    with pytest.raises(UnsupportedPosteriorError, match="call fit"):
        LinearisedPredictive(model, unfitted)(make_batch())


def test_inference_mode_around_it_is_refused_in_one_line() -> None:
    """It takes gradients, which that mode alone prevents."""
    model, guide = fitted("llama")
    with torch.no_grad():
        expected = LinearisedPredictive(model, guide, num_samples=2)(make_batch())
    assert expected.probs.isfinite().all()
    with torch.inference_mode(), pytest.raises(ConfigError, match="LinearisedPredictive: .* got torch.inference_mode"):
        LinearisedPredictive(model, guide, num_samples=2)(make_batch())
