"""Classes of a classification head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from blob_pyro.data.examples import Batch
from blob_pyro.errors import ConfigError
from blob_pyro.model.likelihoods.classes import ClassLikelihood

if TYPE_CHECKING:
    from peft import PeftModel


class SequenceClassification(ClassLikelihood):
    """The classes are the outputs of a classification head (`AutoModelForSequenceClassification`).

    Args:
        num_labels: number of classes K.
        label_smoothing, class_weights: as in `ClassLikelihood`.

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

    def model_settings(self) -> dict[str, Any]:
        return {"num_labels": self.num_labels}
