"""Likelihoods of K classes: a Categorical over the items' logits, with its options."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from blob_pyro.data.examples import Batch
from blob_pyro.distributions.label_categorical import LabelCategorical, check_label_options
from blob_pyro.errors import LabelError
from blob_pyro.model.likelihoods.base import Likelihood

SHARES_TOLERANCE = 1e-3
"""How far from 1 the shares of a soft label may add up."""


class ClassLikelihood(Likelihood):
    """Abstract. Each item has logits (K,), and is of one of K classes.

    Args:
        label_smoothing: share of each observed label that is spread evenly over the classes, in [0, 1).
        class_weights: K factors on the log-likelihood of the classes' items; None for ones.

    Both change what is trained, not what is predicted or how it is scored.
    """

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of classes K."""

    def observation(self, logits: Tensor, batch: Batch) -> tuple[LabelCategorical, Tensor | None]:
        return self.label_law(logits), batch.labels

    def label_law(self, logits: Tensor) -> LabelCategorical:
        """p(label | logits), batch_shape logits.shape[:-1]."""
        weights = None if self.class_weights is None else torch.tensor(self.class_weights, device=logits.device)
        # unvalidated: a NaN is to become a non-finite loss that names step and items, not a page of values
        return LabelCategorical(logits, self.label_smoothing, weights, validate_args=False)

    def check_labels(self, labels: Tensor) -> None:
        """Raise unless every label is one of the classes 0 .. K - 1, or a row of K shares that sum to 1.

        Args:
            labels: (B,) integers, or (B, K) shares.

        Raises:
            LabelError: a label is neither.
        """
        if labels.is_floating_point():
            self._check_shares(labels)
        elif not bool(((labels >= 0) & (labels < self.num_classes)).all()):
            raise LabelError(f"expected labels from 0 to {self.num_classes - 1}; got {labels.tolist()}")

    def _check_shares(self, shares: Tensor) -> None:
        if shares.dim() != 2 or shares.shape[1] != self.num_classes:
            raise LabelError(f"expected shares of shape (B, {self.num_classes}); got {tuple(shares.shape)}")
        wrong = (shares < 0).any(-1) | ~((shares.sum(-1) - 1).abs() < SHARES_TOLERANCE)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise LabelError(f"expected shares of at least 0 that sum to 1; got {shares[row].tolist()} for item {row}")

    def _set_label_options(self, label_smoothing: float, class_weights: Sequence[float] | None) -> None:
        check_label_options(label_smoothing, class_weights, self.num_classes)
        self.label_smoothing = label_smoothing
        self.class_weights = None if class_weights is None else tuple(map(float, class_weights))

    def _label_options(self) -> dict[str, Any]:
        """Those that are not the default, as arguments."""
        smoothing = {"label_smoothing": self.label_smoothing} if self.label_smoothing else {}
        return smoothing if self.class_weights is None else smoothing | {"class_weights": list(self.class_weights)}
