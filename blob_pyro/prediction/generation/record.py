"""`Generations`: what `generate` wrote, and how probable and how uncertain each token was."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Generations:
    r"""C texts behind each of P prompts, of at most T tokens, under S posterior draws A_1 .. A_S. Everything in nats.

    In mode "average" C is 1; in mode "per_draw" C is S, and text c is the one that draw c wrote. With y_<t the tokens
    before y_t in its own text, x the prompt and

        p_s(y_t) = p(y_t | y_<t, x, A_s),    p(y_t) = 1/S sum_s p_s(y_t)

    the figures of a token are those of its context (x, y_<t), whoever wrote it:

        log_probs[s]        log p_s(y_t)
        entropy             H(p) = -sum_v p(v) log p(v), over the whole vocabulary
        mutual_information  H(p) - 1/S sum_s H(p_s): how much the token would tell about the draw

    and those of a text y are

        sequence_log_probs[s]        log p(y | x, A_s) = sum_t log p_s(y_t)
        log_prob                     log 1/S sum_s p(y | x, A_s)
        total_entropy                sum_t H(p)
        total_mutual_information     sum_t of the mutual informations
        mean_*                       the same a token

    `log_prob` is an expectation of products: the draw is one for the whole text, which is what a posterior means. The
    law that mode "average" writes with is a product of expectations, sum_t log p(y_t); of a text it wrote by sampling
    at temperature 1 without top_k and top_p, `total_entropy` is an unbiased estimate of that law's entropy (chain
    rule). The weights of the draws stay 1/S behind any y_<t: they are not updated on what was written.

    Source: Malinin and Gales 2021 (arXiv 2002.07650): ensembles' uncertainty of tokens and of sequences.

    Attributes:
        prompts: P rows of token ids, special tokens included.
        tokens: (P, C, T) int64; padding where a text has ended.
        mask: (P, C, T) True at tokens, the one that ends a text included; the figures elsewhere are 0.
        log_probs: (S, P, C, T) float32.
        entropy: (P, C, T) float32.
        mutual_information: (P, C, T) float32.
        texts: P tuples of C texts, without special tokens; None where the model has no tokenizer.

    Raises:
        ValueError: the shapes do not fit together.
    """

    prompts: tuple[tuple[int, ...], ...]
    tokens: Tensor
    mask: Tensor
    log_probs: Tensor
    entropy: Tensor
    mutual_information: Tensor
    texts: tuple[tuple[str, ...], ...] | None = None

    def __post_init__(self) -> None:
        shape = self.tokens.shape
        if len(shape) != 3 or shape[0] != len(self.prompts):
            raise ValueError(f"expected tokens of shape ({len(self.prompts)}, C, T); got {tuple(shape)}")
        for name in ("mask", "entropy", "mutual_information"):
            if (found := getattr(self, name).shape) != shape:
                raise ValueError(f"expected {name} of shape {tuple(shape)}; got {tuple(found)}")
        if self.log_probs.dim() != 4 or self.log_probs.shape[1:] != shape:
            wanted = ", ".join(map(str, ("S", *shape)))
            raise ValueError(f"expected log_probs of shape ({wanted}); got {tuple(self.log_probs.shape)}")

    @property
    def num_draws(self) -> int:
        """Number of draws S; 1 for the posterior mean."""
        return self.log_probs.shape[0]

    @property
    def lengths(self) -> Tensor:
        """(P, C) number of tokens of each text."""
        return self.mask.sum(-1)

    @property
    def sequence_log_probs(self) -> Tensor:
        """(S, P, C) log-probability of each text under each draw, float64."""
        return self.log_probs.double().sum(-1)

    @property
    def log_prob(self) -> Tensor:
        """(P, C) log-probability of each text, its probability averaged over the draws, float64."""
        return self.sequence_log_probs.logsumexp(0) - math.log(self.num_draws)

    @property
    def total_entropy(self) -> Tensor:
        """(P, C) sum of the tokens' entropies, float64."""
        return self.entropy.double().sum(-1)

    @property
    def mean_entropy(self) -> Tensor:
        """(P, C) entropy a token, float64."""
        return self.total_entropy / self.lengths

    @property
    def total_mutual_information(self) -> Tensor:
        """(P, C) sum of the tokens' mutual informations, float64."""
        return self.mutual_information.double().sum(-1)

    @property
    def mean_mutual_information(self) -> Tensor:
        """(P, C) mutual information a token, float64."""
        return self.total_mutual_information / self.lengths
