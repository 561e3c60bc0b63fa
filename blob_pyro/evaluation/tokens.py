"""Scores of next-token probabilities."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch

from blob_pyro.evaluation.predictions import TokenPredictions


@dataclass(frozen=True)
class TokenMetrics:
    """Scores of the M predicted tokens of n texts under S draws.

    Attributes:
        nll: mean of -log p(token | the text before it), p averaged over the draws; nats per token.
        perplexity: exp(nll).
        sequence_nll: mean of -log p(text), the probability of the whole text averaged over the draws; nats per text.
            A text is then of one draw throughout; at most the mean of the draws' own (Jensen).
        entropy: mean entropy of the averaged next-token probabilities, nats per token.
        mutual_information: mean mutual information of next token and weights, nats per token; 0 for a single draw.
        nll_se: standard error of the nll over texts, whose tokens are no independent items; NaN for one text.
        perplexity_se: likewise of the perplexity, to first order: perplexity x nll_se.
        sequence_nll_se: standard error of the sequence_nll over texts; NaN for one text.
        num_tokens: M.
        num_items: n.
        num_samples: S.
    """

    nll: float
    perplexity: float
    sequence_nll: float
    entropy: float
    mutual_information: float
    nll_se: float
    num_tokens: int
    num_items: int
    num_samples: int
    perplexity_se: float
    sequence_nll_se: float

    def to_dict(self) -> dict[str, float | int]:
        """The fields by name, plain numbers."""
        return asdict(self)


def evaluate_tokens(predictions: TokenPredictions) -> TokenMetrics:
    """Score next-token probabilities; every token has the same weight in the nll, every text in the sequence_nll.

    Example:
        >>> log_probs = torch.tensor([[0.5, 0.25], [0.25, 0.5]]).log()  # two draws, one text of two tokens
        >>> zeros = torch.zeros(2)
        >>> found = evaluate_tokens(TokenPredictions(log_probs, zeros, zeros, items=torch.tensor([0, 0]), num_items=1))
        >>> round(found.perplexity, 4), round(math.exp(found.sequence_nll), 4)  # 1 / 0.375, and 1 / 0.125
        (2.6667, 8.0)
    """
    draws = len(predictions.log_probs)
    nll = -(predictions.log_probs.double().logsumexp(0) - math.log(draws))
    sequences = predictions.text_log_probs()
    mean = float(nll.mean())
    error = _standard_error(nll - mean, predictions)
    return TokenMetrics(
        nll=mean,
        perplexity=math.exp(mean),
        sequence_nll=-float(sequences.mean()),
        entropy=float(predictions.entropy.double().mean()),
        mutual_information=float(predictions.mutual_information.double().mean()),
        nll_se=error,
        num_tokens=len(predictions),
        num_items=predictions.num_items,
        num_samples=draws,
        perplexity_se=math.exp(mean) * error,
        sequence_nll_se=float(sequences.std()) / math.sqrt(len(sequences)) if len(sequences) > 1 else math.nan,
    )


def _standard_error(errors: torch.Tensor, predictions: TokenPredictions) -> float:
    """Of a mean over tokens that come in texts: the root of the summed squares of the texts' sums, over the tokens."""
    n = predictions.num_items
    if n < 2:
        return math.nan
    sums = errors.new_zeros(n).index_add(0, predictions.items, errors)
    return float((n / (n - 1) * sums.square().sum()).sqrt()) / len(predictions)
