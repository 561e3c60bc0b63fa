"""The law of a label: a Categorical that also takes shares of annotators, smoothing and class weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from blob_pyro.errors import ConfigError


class LabelCategorical(dist.Categorical):
    r"""Categorical over K classes whose observation is a class, or the share q of the annotators for each class.

    With l the normalised logits, smoothing e and class weights w its log-probability is, in nats,

    .. math:: \log p(q) = \sum_k w_k \left((1 - e) q_k + e / K\right) l_k,

    that of a class y being the one at q_k = [k = y]. It is what `torch.nn.CrossEntropyLoss` calls the (negative) loss
    of one item. Without smoothing and weights the log-probability of a class is the Categorical's, bit for bit, and
    that of shares the mean over the annotators of theirs. With them it is a power likelihood, which does not sum to 1
    over the classes; samples, probabilities and entropy are the Categorical's all the same.

    Args:
        logits: (..., K); batch_shape is what is left of K.
        label_smoothing: e in [0, 1).
        class_weights: (K,) w, or None for ones.

    Source: Szegedy et al. 2016 (arXiv 1512.00567), section 7, for the smoothing.

    Example:
        >>> law = LabelCategorical(torch.tensor([2.0, 0.0]).log_softmax(-1))
        >>> shares = torch.tensor([0.75, 0.25])
        >>> bool(torch.isclose(law.log_prob(shares), (law.log_prob(torch.tensor([0, 0, 0, 1]))).mean()))
        True
    """

    def __init__(
        self,
        logits: Tensor,
        label_smoothing: float = 0.0,
        class_weights: Tensor | None = None,
        validate_args: bool | None = None,
    ) -> None:
        super().__init__(logits=logits, validate_args=validate_args)
        self.label_smoothing, self.class_weights = label_smoothing, class_weights

    def expand(self, batch_shape: Sequence[int], _instance: LabelCategorical | None = None) -> LabelCategorical:
        """The same law with batch dimensions to its left."""
        new = self._get_checked_instance(LabelCategorical, _instance)
        new.label_smoothing, new.class_weights = self.label_smoothing, self.class_weights
        expanded: LabelCategorical = super().expand(batch_shape, new)
        return expanded

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats of each item, batch_shape.

        Args:
            value: (...) integer classes, or (..., K) shares that sum to 1.
        """
        if not value.is_floating_point() and self.class_weights is None:
            plain: Tensor = super().log_prob(value)
            # without shares of every class: for next tokens there are as many classes as the vocabulary has tokens
            return plain if not self.label_smoothing else torch.lerp(plain, self.logits.mean(-1), self.label_smoothing)
        count = self.logits.shape[-1]
        shares = (value if value.is_floating_point() else one_hot(value.long(), count)).to(self.logits.dtype)
        shares = (1 - self.label_smoothing) * shares + self.label_smoothing / count
        if self.class_weights is not None:
            shares = shares * self.class_weights.to(shares)
        terms = shares * self.logits
        # an impossible class that nobody chose counts nothing: 0 times -inf is NaN
        return torch.where(shares == 0, torch.zeros_like(terms), terms).sum(-1)


def check_label_smoothing(label_smoothing: float) -> None:
    """Raise unless a law can have this smoothing.

    Raises:
        ConfigError: it is not in [0, 1).
    """
    if not 0 <= label_smoothing < 1:
        raise ConfigError(f"label_smoothing: expected a share in [0, 1); got {label_smoothing}")


def check_label_options(label_smoothing: float, class_weights: Sequence[float] | None, num_classes: int) -> None:
    """Raise unless smoothing and weights are ones that a law of K classes can have.

    Raises:
        ConfigError: the smoothing is not in [0, 1), or the weights are not K numbers above 0.
    """
    check_label_smoothing(label_smoothing)
    if class_weights is None:
        return
    positive = all(0 < weight < math.inf for weight in class_weights)
    if len(class_weights) != num_classes or not positive:
        raise ConfigError(
            f"class_weights: expected {num_classes} numbers above 0, one for each class; got {list(class_weights)}"
        )
