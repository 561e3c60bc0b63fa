"""What the network's output means: its logits over K classes, and the law of the label given them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from blob_pyro.adapters.answer_head import answer_logits
from blob_pyro.adapters.whole_answers import AnswerTree, whole_answer_log_probs
from blob_pyro.data.examples import Batch
from blob_pyro.errors import ConfigError, LabelError

if TYPE_CHECKING:
    from peft import PeftModel


class Likelihood(ABC):
    """Abstract. Turns a network and a batch into logits, and logits into the law of the label."""

    task_type: ClassVar[str]
    auto_class: ClassVar[str]

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

    def label_law(self, logits: Tensor) -> dist.Categorical:
        """p(label | logits), batch_shape logits.shape[:-1]."""
        # unvalidated: a NaN is to become a non-finite loss that names step and items, not a page of values
        return dist.Categorical(logits=logits, validate_args=False)

    def check_labels(self, labels: Tensor) -> None:
        """Raise unless every label is one of the classes 0 .. K - 1.

        Raises:
            LabelError: a label is none of them.
        """
        if not bool(((labels >= 0) & (labels < self.num_classes)).all()):
            raise LabelError(f"expected labels from 0 to {self.num_classes - 1}; got {labels.tolist()}")


class MultipleChoice(Likelihood):
    """The answer is the most probable of K tokens at the prompt's last position.

    Args:
        token_ids: K vocabulary ids, class k's answer token at position k (`bp.label_token_ids` finds them).

    Raises:
        ConfigError: fewer than two ids, or two the same.

    Example:
        >>> MultipleChoice([330, 389]).num_classes
        2
    """

    task_type = "CAUSAL_LM"
    auto_class = "AutoModelForCausalLM"

    def __init__(self, token_ids: Sequence[int] | Tensor) -> None:
        ids = [int(i) for i in token_ids]
        if len(ids) < 2 or len(set(ids)) != len(ids):
            raise ConfigError(f"token_ids: expected at least two different token ids; got {ids}")
        self.token_ids = tuple(ids)

    @property
    def num_classes(self) -> int:
        return len(self.token_ids)

    def logits(self, network: PeftModel, batch: Batch) -> Tensor:
        ids = torch.tensor(self.token_ids, device=batch.input_ids.device)
        return answer_logits(network, batch, ids)

    def settings(self) -> dict[str, Any]:
        return {"token_ids": list(self.token_ids)}


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

    Raises:
        ConfigError: fewer than two answers, an empty one, or one that begins another.

    Example:
        >>> WholeAnswer([[330], [389, 12], [389, 7]]).rows_per_item
        1
    """

    task_type = "CAUSAL_LM"
    auto_class = "AutoModelForCausalLM"

    def __init__(self, token_ids: Sequence[Sequence[int]]) -> None:
        answers = [tuple(int(i) for i in answer) for answer in token_ids]
        alike = any(i != j and b[: len(a)] == a for i, a in enumerate(answers) for j, b in enumerate(answers))
        if len(answers) < 2 or not all(answers) or alike:
            got = [list(answer) for answer in answers]
            raise ConfigError(f"token_ids: expected at least two answers, none of which begins another; got {got}")
        self.tree = AnswerTree.of(answers)

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
        return {"token_ids": [list(answer) for answer in self.tree.answers]}


class SequenceClassification(Likelihood):
    """The classes are the outputs of a classification head (`AutoModelForSequenceClassification`).

    Args:
        num_labels: number of classes K.

    Raises:
        ConfigError: fewer than two labels.
    """

    task_type = "SEQ_CLS"
    auto_class = "AutoModelForSequenceClassification"

    def __init__(self, num_labels: int) -> None:
        if num_labels < 2:
            raise ConfigError(f"num_labels: expected at least 2; got {num_labels}")
        self.num_labels = num_labels

    @property
    def num_classes(self) -> int:
        return self.num_labels

    def logits(self, network: PeftModel, batch: Batch) -> Tensor:
        output = network(input_ids=batch.input_ids, attention_mask=batch.attention_mask)
        logits: Tensor = output.logits.float()
        return logits

    def settings(self) -> dict[str, Any]:
        return {"num_labels": self.num_labels}

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
