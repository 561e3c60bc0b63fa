"""Laws of a guide that take the whole network: prediction, training, flipout, random B matrices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from cases import MODELS, held_draws, make_batch
from pyro.infer import Predictive

import blob_pyro as bp
from blob_pyro.errors import ConfigError, UnsupportedPosteriorError
from blob_pyro.guides import AdapterGuide
from blob_pyro.training.elbo import negative_log_likelihood

Builder = Callable[[bp.BayesianLoRA], AdapterGuide]


def check_prediction(build: Builder) -> None:
    """Draw by draw the answers of a loop over `model.logits`; N = 0 is the adapter itself; Pyro's Predictive runs."""
    model = MODELS["llama"]()
    guide, batch = build(model), make_batch()
    predictive = bp.PosteriorPredictive(model, guide, num_samples=4)
    torch.manual_seed(1)
    draws = predictive.sample_draws()
    with torch.no_grad():
        loop = torch.stack([model.logits(batch, draw).softmax(-1) for draw in draws])
        alone = model.logits(batch).softmax(-1)
    torch.manual_seed(1)
    found = predictive(batch)
    torch.testing.assert_close(found.draws, loop, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.probs, loop.mean(0), rtol=1e-5, atol=1e-6)
    assert float((found.draws[0] - found.draws[1]).abs().max()) > 1e-3
    torch.testing.assert_close(bp.PosteriorPredictive(model, guide, num_samples=0)(batch).probs, alone)
    unlabelled = make_batch(labels=False)
    with torch.no_grad():  # the guide itself under a plate of draws
        together = Predictive(model, guide=guide, num_samples=3, parallel=True, return_sites=("_RETURN",))(unlabelled)
    assert together["_RETURN"].shape == (3, 4, 3)
    assert float((together["_RETURN"][0] - together["_RETURN"][1]).abs().max()) > 1e-3


def check_fit(build: Builder) -> None:
    """`bp.fit` takes the NLL of a batch of four to less than half, and its mean is what PEFT holds."""
    model = MODELS["llama"]()
    guide, batch = build(model), make_batch()
    torch.manual_seed(2)
    settings = {"lr": 2e-2, "kl_width": 0.1}
    history = bp.fit(model, guide, [batch], bp.TrainConfig(num_steps=25, batch_size=4, **settings), progress=False)
    assert sum(step.nll for step in history[-3:]) / 3 < 0.5 * history[0].nll
    with torch.no_grad():
        assert float(F.cross_entropy(model.logits(batch), batch.labels)) < 0.5 * history[0].nll
    assert not held_draws(model)


def check_refusals(build: Builder, law: str) -> None:
    """Flipout names the law, and so does theorem 3.1's law of the whole weight."""
    model = MODELS["llama"]()
    guide = build(model)
    assert not guide.supports_flipout
    expected = f"flipout expects a Normal posterior with independent entries; got {law}"
    with bp.flipout(), pytest.raises(UnsupportedPosteriorError, match=expected) as caught:
        negative_log_likelihood(model, guide, make_batch())
    assert "\n" not in str(caught.value)
    assert not held_draws(model)
    with pytest.raises(UnsupportedPosteriorError, match=f"expected a Normal with independent entries; got {law}"):
        guide.full_weight_posterior(next(iter(model.sites)))


def check_random_B_is_refused(build: Builder) -> None:
    for name in ("llama_B", "llama_both"):
        with pytest.raises(ConfigError, match=r"expected random A matrices only; got the site .*\.lora_B; take bayes"):
            build(MODELS[name]())
