"""Answers of one or more tokens each."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from torch import Tensor

from blob_pyro.data.examples import Batch
from blob_pyro.errors import ConfigError
from blob_pyro.model.layers.whole_answers import AnswerTree, whole_answer_log_probs
from blob_pyro.model.likelihoods.classes import ClassLikelihood

if TYPE_CHECKING:
    from peft import PeftModel


class WholeAnswer(ClassLikelihood):
    """The answer is the most probable of K texts behind the prompt, of one or more tokens each.

    Its logits are log p(answer k | prompt), the sum of the log-probabilities of its tokens, so that the probabilities
    are those of the answers among themselves. No length is corrected for: a longer answer is not preferred, nor
    punished beyond what its tokens cost.

    Cost: as many rows of the network for an item as there are different tokens before the last ones of the answers,
    `rows_per_item` (1 where all answers begin alike, K where no two do), and the head's whole vocabulary at each
    beginning of an answer.

    Args:
        token_ids: K answers, the vocabulary ids of each; none begins another (`bp.answer_token_ids` finds them).
        label_smoothing, class_weights: as in `ClassLikelihood`.

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
        alike = any(after[: len(before)] == before for before, after in pairwise(sorted(answers)))
        if len(answers) < 2 or not all(answers) or alike:
            got = [list(answer) for answer in answers]
            raise ConfigError(f"token_ids: expected at least two answers, none of which begins another; got {got}")
        self.tree = AnswerTree.of(answers)
        self._set_label_options(label_smoothing, class_weights)

    @property
    def num_classes(self) -> int:
        return len(self.tree.answers)

    @property
    def answer_ids(self) -> tuple[int, ...]:
        return tuple(token for answer in self.tree.answers for token in answer)

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
