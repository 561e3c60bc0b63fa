"""What the network's output means: its logits over K classes, and the law of the label given them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from blob_pyro.adapters.answer_head import answer_logits
from blob_pyro.adapters.whole_answers import AnswerTree, whole_answer_log_probs
from blob_pyro.data.examples import Batch
from blob_pyro.distributions.label_categorical import LabelCategorical, check_label_options
from blob_pyro.errors import ConfigError, LabelError

if TYPE_CHECKING:
    from peft import PeftModel


SHARES_TOLERANCE = 1e-3
"""How far from 1 the shares of a soft label may add up."""


class Likelihood(ABC):
    """Abstract. Turns a network and a batch into logits, and logits into the law of the label.

    Args:
        label_smoothing: share of each observed label that is spread evenly over the classes, in [0, 1).
        class_weights: K factors on the log-likelihood of the classes' items; None for ones.

    Both change what is trained, not what is predicted or how it is scored.
    """

    task_type: ClassVar[str]
    auto_class: ClassVar[str]
    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None

    @property
    @abstractmethod
    def num_classes(self) -> int:
        """Number of classes K."""

    @abstractmethod
    def logits(self, network: PeftModel, batch: Batch) -> Tensor:
        """(B, K) float32 logits of right-padded items."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Arguments that make this likelihood again; JSON types only."""

    @property
    def rows_per_item(self) -> int:
        """Rows of a forward that an item takes."""
        return 1

    @property
    def extra_tokens(self) -> int:
        """Tokens that a row has behind the item's own."""
        return 0

    def model_settings(self) -> dict[str, Any]:
        """Arguments for the auto class's from_pretrained."""
        return {}

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


class MultipleChoice(Likelihood):
    """The answer is the most probable of K tokens at the prompt's last position.

    Args:
        token_ids: K vocabulary ids, class k's answer token at position k (`bp.label_token_ids` finds them).
        label_smoothing, class_weights: as in `Likelihood`.

    Raises:
        ConfigError: fewer than two ids, or two the same, or a bad option.

    Example:
        >>> MultipleChoice([330, 389]).num_classes
        2
    """

    task_type = "CAUSAL_LM"
    auto_class = "AutoModelForCausalLM"

    def __init__(
        self,
        token_ids: Sequence[int] | Tensor,
        *,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        ids = [int(i) for i in token_ids]
        if len(ids) < 2 or len(set(ids)) != len(ids):
            raise ConfigError(f"token_ids: expected at least two different token ids; got {ids}")
        self.token_ids = tuple(ids)
        self._set_label_options(label_smoothing, class_weights)

    @property
    def num_classes(self) -> int:
        return len(self.token_ids)

    def logits(self, network: PeftModel, batch: Batch) -> Tensor:
        ids = torch.tensor(self.token_ids, device=batch.input_ids.device)
        return answer_logits(network, batch, ids)

    def settings(self) -> dict[str, Any]:
        return {"token_ids": list(self.token_ids)} | self._label_options()


class WholeAnswer(Likelihood):
    """The answer is the most probable of K texts behind the prompt, of one or more tokens each.

    Its logits are log p(answer k | prompt), the sum of the log-probabilities of its tokens, so that the probabilities
    are those of the answers among themselves. No length is corrected for: a longer answer is not preferred, nor
    punished beyond what its tokens cost.

    Cost: as many rows of the network for an item as there are different tokens before the last ones of the answers,
    `rows_per_item` (1 where all answers begin alike, K where no two do), and the head's whole vocabulary at each
    beginning of an answer.

    Args:
        token_ids: K answers, the vocabulary ids of each; none begins another (`bp.answer_token_ids` finds them).
        label_smoothing, class_weights: as in `Likelihood`.

    Raises:
        ConfigError: fewer than two answers, an empty one, or one that begins another, or a bad option.

    Example:
        >>> WholeAnswer([[330], [389, 12], [389, 7]]).rows_per_item
        1
    """

    task_type = "CAUSAL_LM"
    auto_class = "AutoModelForCausalLM"

    def __init__(
        self,
        token_ids: Sequence[Sequence[int]],
        *,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        answers = [tuple(int(i) for i in answer) for answer in token_ids]
        alike = any(i != j and b[: len(a)] == a for i, a in enumerate(answers) for j, b in enumerate(answers))
        if len(answers) < 2 or not all(answers) or alike:
            got = [list(answer) for answer in answers]
            raise ConfigError(f"token_ids: expected at least two answers, none of which begins another; got {got}")
        self.tree = AnswerTree.of(answers)
        self._set_label_options(label_smoothing, class_weights)

    @property
    def num_classes(self) -> int:
        return len(self.tree.answers)

    @property
    def rows_per_item(self) -> int:
        return len(self.tree.rows)

    @property
    def extra_tokens(self) -> int:
        return self.tree.depth

    def logits(self, network: PeftModel, batch: Batch) -> Tensor:
        return whole_answer_log_probs(network, batch, self.tree)

    def settings(self) -> dict[str, Any]:
        return {"token_ids": [list(answer) for answer in self.tree.answers]} | self._label_options()


class SequenceClassification(Likelihood):
    """The classes are the outputs of a classification head (`AutoModelForSequenceClassification`).

    Args:
        num_labels: number of classes K.
        label_smoothing, class_weights: as in `Likelihood`.

    Raises:
        ConfigError: fewer than two labels, or a bad option.
    """

    task_type = "SEQ_CLS"
    auto_class = "AutoModelForSequenceClassification"

    def __init__(
        self, num_labels: int, *, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None
    ) -> None:
        if num_labels < 2:
            raise ConfigError(f"num_labels: expected at least 2; got {num_labels}")
        self.num_labels = num_labels
        self._set_label_options(label_smoothing, class_weights)

    @property
    def num_classes(self) -> int:
        return self.num_labels

    def logits(self, network: PeftModel, batch: Batch) -> Tensor:
        output = network(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        logits: Tensor = output.logits.float()
        return logits

    def settings(self) -> dict[str, Any]:
        return {"num_labels": self.num_labels} | self._label_options()

    @property
    def rows_per_item(self) -> int:
        """Rows of a forward that an item takes."""
        return 1

    @property
    def extra_tokens(self) -> int:
        """Tokens that a row has behind the item's own."""
        return 0

    def model_settings(self) -> dict[str, Any]:
        return {"num_labels": self.num_labels}


LIKELIHOODS: dict[str, type[Likelihood]] = {
    likelihood.__name__: likelihood for likelihood in (MultipleChoice, WholeAnswer, SequenceClassification)
}
