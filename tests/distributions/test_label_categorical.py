"""Classes, shares, smoothing and weights against torch's cross-entropy, and against loops."""

from __future__ import annotations

import itertools
import math

import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F

from blob_pyro.distributions import LabelCategorical
from blob_pyro.distributions.label_categorical import check_label_options
from blob_pyro.errors import ConfigError

WEIGHTS = torch.tensor([0.5, 2.0, 1.0])
OPTIONS = list(itertools.product((0.0, 0.1, 0.9), (None, WEIGHTS)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_class_without_options_is_the_categorical_bit_for_bit(dtype: torch.dtype) -> None:
    logits, labels = torch.randn(4, 7, 3).to(dtype), torch.arange(7) % 3
    ours, theirs = LabelCategorical(logits), dist.Categorical(logits=logits)
    assert torch.equal(ours.log_prob(labels), theirs.log_prob(labels))
    assert torch.equal(ours.probs, theirs.probs) and torch.equal(ours.entropy(), theirs.entropy())


@pytest.mark.parametrize(("smoothing", "weights"), OPTIONS)
def test_minus_the_log_probability_is_torchs_cross_entropy(smoothing: float, weights: torch.Tensor | None) -> None:
    logits, labels = torch.randn(11, 3), torch.randint(3, (11,))
    law = LabelCategorical(logits, smoothing, weights)
    options = {"weight": weights, "label_smoothing": smoothing, "reduction": "none"}
    torch.testing.assert_close(-law.log_prob(labels), F.cross_entropy(logits, labels, **options))
    shares = torch.rand(11, 3).softmax(-1)
    torch.testing.assert_close(-law.log_prob(shares), F.cross_entropy(logits, shares, **options))


@pytest.mark.parametrize(("smoothing", "weights"), OPTIONS)
def test_shares_are_the_mean_over_annotators(smoothing: float, weights: torch.Tensor | None) -> None:
    """Twenty annotators of an item, one after another."""
    law = LabelCategorical(torch.randn(3), smoothing, weights)
    votes = torch.randint(3, (20,))
    shares = torch.bincount(votes, minlength=3) / 20
    one_by_one = torch.stack([law.log_prob(vote) for vote in votes]).mean()
    torch.testing.assert_close(law.log_prob(shares), one_by_one)


@pytest.mark.parametrize(("smoothing", "weights"), OPTIONS)
def test_draw_dimensions_and_expansion(smoothing: float, weights: torch.Tensor | None) -> None:
    """Classes or shares of B items under S draws, as under a plate."""
    logits, labels, shares = torch.randn(5, 4, 3), torch.randint(3, (4,)), torch.rand(4, 3).softmax(-1)
    law = LabelCategorical(logits, smoothing, weights)
    for value in (labels, shares):
        found = law.log_prob(value)
        assert found.shape == law.batch_shape == (5, 4)
        for draw, item in itertools.product(range(5), range(4)):
            alone = LabelCategorical(logits[draw, item], smoothing, weights).log_prob(value[item])
            torch.testing.assert_close(found[draw, item], alone)
        wide = LabelCategorical(logits[0], smoothing, weights).expand(torch.Size((5, 4)))
        torch.testing.assert_close(
            wide.log_prob(value)[3], LabelCategorical(logits[0], smoothing, weights).log_prob(value)
        )


def test_samples_follow_the_probabilities() -> None:
    """10,000 draws: a frequency is off by more than 0.025, five standard deviations, once in a million."""
    law = LabelCategorical(torch.tensor([0.0, 1.0, 2.0]), 0.5, WEIGHTS)
    frequencies = torch.bincount(law.sample((10_000,)), minlength=3) / 10_000
    torch.testing.assert_close(frequencies, torch.tensor([0.0, 1.0, 2.0]).softmax(-1), atol=0.025, rtol=0)


@pytest.mark.parametrize(
    ("smoothing", "weights", "message"),
    [
        (1.0, None, r"label_smoothing: expected a share in \[0, 1\); got 1.0"),
        (-0.1, None, "label_smoothing: expected a share"),
        (0.0, [1.0, 2.0], r"class_weights: expected 3 numbers above 0, one for each class; got \[1.0, 2.0\]"),
        (0.0, [1.0, 0.0, 1.0], "class_weights: expected 3 numbers above 0"),
        (0.0, [1.0, float("nan"), 1.0], "class_weights: expected 3 numbers above 0"),
    ],
)
def test_options_out_of_range_are_refused(smoothing: float, weights: list[float] | None, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_label_options(smoothing, weights, 3)


@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 1.0])], ids=["plain", "weighted"])
def test_an_impossible_class_that_nobody_chose_counts_nothing(weights: torch.Tensor | None) -> None:
    """Logits of minus infinity: zero shares of it are zero, not NaN, and so are its gradients; chosen, it is -inf."""
    logits = torch.tensor([[2.0, -math.inf, 0.5]], requires_grad=True)
    law = LabelCategorical(logits, class_weights=weights, validate_args=False)
    found = law.log_prob(torch.tensor([[0.25, 0.0, 0.75]]))
    w = torch.ones(3) if weights is None else weights
    two = torch.tensor([2.0, 0.5]).log_softmax(-1)
    torch.testing.assert_close(found, 0.25 * w[:1] * two[0] + 0.75 * w[2:] * two[1])
    found.sum().backward()
    assert bool(logits.grad.isfinite().all())
    assert law.log_prob(torch.tensor([[0.5, 0.5, 0.0]])).item() == -math.inf
    if weights is not None:
        assert law.log_prob(torch.tensor([0])).isfinite().all()
