"""Classes of a classification head."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from blob_pyro.data.examples import Batch
from blob_pyro.errors import ConfigError
from blob_pyro.model.layers.class_head import class_logits
from blob_pyro.model.likelihoods.classes import ClassLikelihood

if TYPE_CHECKING:
    from peft import PeftModel


class SequenceClassification(ClassLikelihood):
    """The classes are the outputs of a classification head (`AutoModelForSequenceClassification`).

    Args:
        num_labels: number of classes K.
        outputs: the head's output of each class, of a trained head that has the classes in another order; None where
            they are in the same.
        label_smoothing: as in `ClassLikelihood`.
        class_weights: as in `ClassLikelihood`.

    Raises:
        ConfigError: fewer than two labels, outputs that are not 0 to K - 1 in some order, or a bad option.

    Example:
        >>> SequenceClassification(2, outputs=[1, 0]).settings()  # the head says (positive, negative)
        {'num_labels': 2, 'outputs': [1, 0]}
    """

    task_type = "SEQ_CLS"
    auto_class = "AutoModelForSequenceClassification"

    def __init__(
        self,
        num_labels: int,
        *,
        outputs: Sequence[int] | None = None,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        if num_labels < 2:
            raise ConfigError(f"num_labels: expected at least 2; got {num_labels}")
        if outputs is not None and sorted(outputs) != list(range(num_labels)):
            raise ConfigError(f"outputs: expected 0 to {num_labels - 1} in some order; got {list(outputs)}")
        self.num_labels = num_labels
        same = outputs is None or list(outputs) == list(range(num_labels))
        self.outputs = None if same or outputs is None else tuple(outputs)
        self._set_label_options(label_smoothing, class_weights)

    @property
    def num_classes(self) -> int:
        return self.num_labels

    def logits(self, network: PeftModel, batch: Batch) -> Tensor:
        logits = class_logits(network, batch).float()
        return logits if self.outputs is None else logits[:, list(self.outputs)]

    def settings(self) -> dict[str, Any]:
        outputs = {} if self.outputs is None else {"outputs": list(self.outputs)}
        return {"num_labels": self.num_labels} | outputs | self._label_options()

    def model_settings(self) -> dict[str, Any]:
        return {"num_labels": self.num_labels}
