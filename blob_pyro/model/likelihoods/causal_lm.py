"""The tokens of a text, each given those before it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from blob_pyro.data.examples import IGNORED, Batch
from blob_pyro.distributions.label_categorical import LabelCategorical, check_label_smoothing
from blob_pyro.errors import ConfigError, LabelError
from blob_pyro.model.layers.answer_head import logits_at
from blob_pyro.model.likelihoods.base import Likelihood

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True)
class Targets:
    """The tokens of a batch that are predicted, the L of the item that has most of them; others are filled up.

    Attributes:
        positions: (B, L) where each is predicted: the position of the token before it, in right-padded rows.
        tokens: (B, L) vocabulary ids; 0 where filled up.
        mask: (B, L) True where there is one.
        counts: B numbers of them, which come first in each row.
    """

    positions: Tensor
    tokens: Tensor
    mask: Tensor
    counts: list[int]

    @classmethod
    def of(cls, batch: Batch) -> Targets:
        """Those that `batch.labels` names; without labels every token but the first of an item.

        Args:
            batch: padded on either side.
        """
        batch = batch.right_padded()
        labels = batch.input_ids if batch.labels is None else batch.labels
        found, counts = batch.predicted, batch.num_predicted
        order = found.long().argsort(dim=1, descending=True, stable=True)[:, : max([1, *counts])]
        mask = found.gather(1, order)
        return cls(order, labels[:, 1:].gather(1, order) * mask, mask, counts)


class CausalLM(Likelihood):
    r"""Each token of an answer, or of the whole text, is drawn from the network's next-token probabilities.

    .. math:: \log p(y \mid x) = \sum_t \log p(y_t \mid x, y_{<t})

    Which tokens count is said by the labels, (B, T) as transformers has them: the token ids themselves, and -100 where
    a token is given and not predicted (`bp.encode_completions` makes them). An item's first token is never predicted.

    Training counts the N sequences (num_tokens None): the NLL is in mean nats per sequence, and Pyro's ELBO weighs a
    batch of B of them by N / B. Or it counts the tokens of all N (num_tokens their number): the NLL is in mean nats per
    token, as transformers' loss is, and the weight is num_tokens / the batch's tokens, which long sequences dominate
    no less. The sum over the training set is the same; what differs is how a batch of long or short items counts.

    Args:
        num_tokens: predicted tokens of the training set, or None.
        label_smoothing: share of each predicted token that is spread evenly over the vocabulary, in [0, 1). It changes
            what is trained, not what is predicted or how it is scored.

    Raises:
        ConfigError: num_tokens below 1, or a share out of range.
    """

    task_type = "CAUSAL_LM"
    auto_class = "AutoModelForCausalLM"

    def __init__(self, num_tokens: int | None = None, *, label_smoothing: float = 0.0) -> None:
        if num_tokens is not None and num_tokens < 1:
            raise ConfigError(f"num_tokens: expected at least 1, or None; got {num_tokens}")
        check_label_smoothing(label_smoothing)
        self.num_tokens, self.label_smoothing = num_tokens, label_smoothing

    def logits(self, network: PeftModel, batch: Batch) -> Tensor:
        """(B, L, V) float32, at the positions of `Targets`."""
        positions = Targets.of(batch).positions
        rows = torch.arange(len(batch), device=positions.device).unsqueeze(1).expand_as(positions)
        return logits_at(network, batch, rows, positions)

    def observation(self, logits: Tensor, batch: Batch) -> tuple[TorchDistributionMixin, Tensor | None]:
        targets = Targets.of(batch)
        if logits.device.type == "cpu" and bool((targets.tokens >= logits.shape[-1]).any()):
            raise LabelError(f"expected token ids below {logits.shape[-1]}; got {int(targets.tokens.max())}")
        # unvalidated, as a Categorical over classes
        law = LabelCategorical(logits, self.label_smoothing, validate_args=False).mask(targets.mask).to_event(1)
        return law, None if batch.labels is None else targets.tokens

    def check_labels(self, labels: Tensor) -> None:
        """Raise unless labels are token ids, (B, T), or -100, and one of them is predicted."""
        if labels.is_floating_point() or labels.dim() != 2:
            raise LabelError(f"expected token labels of shape (B, T), -100 where none; got {tuple(labels.shape)}")
        if bool(((labels < 0) & (labels != IGNORED)).any()):
            raise LabelError(f"expected token ids, or -100 where a token is given; got {int(labels.min())}")
        if not bool((labels[:, 1:] != IGNORED).any()):
            raise LabelError("expected a token to predict; got labels of -100 alone")

    def count(self, batch: Batch) -> int:
        """Items, or predicted tokens where those are counted."""
        return len(batch) if self.num_tokens is None else sum(batch.num_predicted)

    def total(self, num_data: int | None) -> int | None:
        return num_data if self.num_tokens is None else self.num_tokens

    def settings(self) -> dict[str, Any]:
        smoothing = {"label_smoothing": self.label_smoothing} if self.label_smoothing else {}
        return {"num_tokens": self.num_tokens} | smoothing
