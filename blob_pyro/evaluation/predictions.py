"""`Predictions`: what a posterior predictive hands to metrics, plots and files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blob_pyro.evaluation.arviz import to_arviz


@dataclass(frozen=True)
class Predictions:
    """Class probabilities of n items, averaged and per posterior draw.

    Attributes:
        probs: (n, K) mean over the draws of the draws' probabilities (Bayesian model averaging), float32.
        draws: (S, n, K) probabilities under each draw; S is 1 for the posterior mean (N = 0).
        labels: (n,) true classes, or None. Where there are shares and no labels, the class of the largest share is
            put in (the first, on ties).
        shares: (n, K) of the annotators for each class (soft labels), rows summing to 1, or None.
        index: (n,) positions of the items in their data set, ascending, where the batches carried them; None where the
            items come in the order of their loader.

    Raises:
        ValueError: the shapes do not fit together.
    """

    probs: Tensor
    draws: Tensor
    labels: Tensor | None = None
    shares: Tensor | None = None
    index: Tensor | None = None

    def __post_init__(self) -> None:
        if self.probs.dim() != 2:
            raise ValueError(f"expected probs of shape (n, K); got {tuple(self.probs.shape)}")
        if self.draws.dim() != 3 or self.draws.shape[1:] != self.probs.shape:
            raise ValueError(
                f"expected draws of shape (S, {self.probs.shape[0]}, {self.probs.shape[1]}); "
                f"got {tuple(self.draws.shape)}"
            )
        if self.shares is not None and self.shares.shape != self.probs.shape:
            raise ValueError(f"expected shares of shape {tuple(self.probs.shape)}; got {tuple(self.shares.shape)}")
        if self.shares is not None and self.labels is None:
            object.__setattr__(self, "labels", self.shares.argmax(-1))
        if self.labels is not None and self.labels.shape != self.probs.shape[:1]:
            raise ValueError(f"expected labels of shape ({len(self)},); got {tuple(self.labels.shape)}")
        if self.index is not None and self.index.shape != self.probs.shape[:1]:
            raise ValueError(f"expected index of shape ({len(self)},); got {tuple(self.index.shape)}")

    def __len__(self) -> int:
        """Number of items n."""
        return self.probs.shape[0]

    @classmethod
    def joined(cls, parts: Sequence[tuple[Sequence[int], Predictions]]) -> Predictions:
        """Predictions of all items from those of some each, under the same draws.

        Args:
            parts: positions of a part's items in the whole, and their predictions; each position once.

        Example:
            >>> import torch
            >>> rows = torch.tensor([[[0.1, 0.9], [0.2, 0.8], [0.3, 0.7]]])
            >>> whole = Predictions(rows.mean(0), rows)
            >>> halves = [(at, Predictions(rows.mean(0)[at], rows[:, at])) for at in ([2, 0], [1])]
            >>> torch.equal(Predictions.joined(halves).probs, whole.probs)
            True
        """
        index, order = torch.tensor([position for rows, _ in parts for position in rows]).sort()
        found = [part for _, part in parts]
        labels = [part.labels for part in found if part.labels is not None]
        shares = [part.shares for part in found if part.shares is not None]
        return cls(
            torch.cat([part.probs for part in found])[order],
            torch.cat([part.draws for part in found], 1)[:, order],
            torch.cat(labels)[order] if labels else None,
            torch.cat(shares)[order] if shares else None,
            index,
        )

    def first_draws(self, num_samples: int) -> Predictions:
        """The predictions under the first `num_samples` draws alone.

        Draws of a posterior are independent: these are what fewer draws from the same random state answer.

        Raises:
            ValueError: there are fewer draws, or none is asked for.

        Example:
            >>> import torch
            >>> draws = torch.tensor([[[0.5, 0.5]], [[1.0, 0.0]], [[0.0, 1.0]]])
            >>> Predictions(draws.mean(0), draws).first_draws(2).probs
            tensor([[0.7500, 0.2500]])
        """
        if not 1 <= num_samples <= len(self.draws):
            raise ValueError(f"expected 1 to {len(self.draws)} draws; got {num_samples}")
        draws = self.draws[:num_samples]
        return Predictions(draws.mean(0), draws, self.labels, self.shares, self.index)

    def to_arviz(self, classes: Sequence[str] | None = None, *, seed: int = 0) -> Any:
        """The predictions as ArviZ has them: one chain of S independent draws.

        ====================  =======================================  ==========================================
        group                 variable (dimensions)                    what it is
        ====================  =======================================  ==========================================
        posterior             ``probs`` (chain, draw, item, class)     the draws' probabilities
        posterior_predictive  ``label`` (chain, draw, item)            a label drawn from them
        log_likelihood        ``label`` (chain, draw, item)            log-probability of the true label, nats
        observed_data         ``label`` (item)                         the true label
        observed_data         ``shares`` (item, class)                 the annotators' shares
        ====================  =======================================  ==========================================

        The last three are there where labels (or shares) are: `arviz.loo` then works, on items that were trained on; of
        others it is plain to average the log-likelihood. Under shares the log-likelihood is sum_k q_k log p_k. All
        draws are of the posterior itself, so that chains, warm-up and diagnostics of them have nothing to say here.

        Args:
            classes: names of the K classes, for the coordinate; None takes their numbers.
            seed: of the drawn labels; no global random state is touched.

        Returns:
            An `InferenceData` of ArviZ below 1.0, a `DataTree` of xarray from 1.0 on.

        Raises:
            MissingPackageError: ArviZ is not installed; it comes with the extra ``arviz``.
            DataError: fewer than two draws (the posterior mean, N = 0, has none).
            ConfigError: as many names as classes were expected.
        """
        return to_arviz(self.draws, self.labels, self.shares, classes, seed)


@dataclass(frozen=True)
class TokenPredictions:
    """Log-probabilities of the M predicted tokens of n texts, in the order of the texts and of their tokens.

    Attributes:
        log_probs: (S, M) log p(token | the text before it) under each draw, nats, float32; S is 1 for the mean.
        entropy: (M,) entropy of the averaged next-token probabilities, nats.
        mutual_information: (M,) of next token and weights, nats: that entropy minus the mean of the draws'.
        items: (M,) the position of each token's text in the data set.
        num_items: n.
    """

    log_probs: Tensor
    entropy: Tensor
    mutual_information: Tensor
    items: Tensor
    num_items: int

    def __len__(self) -> int:
        """Number of tokens M."""
        return len(self.items)

    @classmethod
    def joined(cls, parts: Sequence[tuple[Sequence[int], TokenPredictions]]) -> TokenPredictions:
        """Predictions of all texts from those of some each, under the same draws.

        Args:
            parts: positions of a part's texts in the whole, and their predictions; each position once.
        """
        found = [part for _, part in parts]
        items = torch.cat([torch.tensor(rows)[part.items] for rows, part in parts])
        order = items.argsort(stable=True)
        return cls(
            log_probs=torch.cat([part.log_probs for part in found], 1)[:, order],
            entropy=torch.cat([part.entropy for part in found])[order],
            mutual_information=torch.cat([part.mutual_information for part in found])[order],
            items=items[order],
            num_items=sum(part.num_items for part in found),
        )

    def sequence_log_probs(self) -> Tensor:
        """(S, n) log-probability of each whole text under each draw, nats: the sum over its tokens, float64."""
        found = self.log_probs.new_zeros(len(self.log_probs), self.num_items, dtype=torch.float64)
        return found.index_add(1, self.items, self.log_probs.double())

    def text_log_probs(self) -> Tensor:
        """(n,) logarithm of each whole text's probability averaged over the draws, nats, float64."""
        return self.sequence_log_probs().logsumexp(0) - math.log(len(self.log_probs))
