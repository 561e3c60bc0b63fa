"""Answers of one token each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from blob_pyro.data.examples import Batch
from blob_pyro.errors import ConfigError
from blob_pyro.model.layers.answer_head import answer_logits
from blob_pyro.model.likelihoods.classes import ClassLikelihood

if TYPE_CHECKING:
    from peft import PeftModel


class MultipleChoice(ClassLikelihood):
    """The answer is the most probable of K tokens at the prompt's last position.

    Args:
        token_ids: K vocabulary ids, class k's answer token at position k (`bp.label_token_ids` finds them).
        label_smoothing, class_weights: as in `ClassLikelihood`.

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

    @property
    def answer_ids(self) -> tuple[int, ...]:
        return self.token_ids

    def logits(self, network: PeftModel, batch: Batch) -> Tensor:
        ids = torch.tensor(self.token_ids, device=batch.input_ids.device)
        return answer_logits(network, batch, ids)

    def settings(self) -> dict[str, Any]:
        return {"token_ids": list(self.token_ids)} | self._label_options()
