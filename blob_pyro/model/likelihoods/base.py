"""What every likelihood can do: logits of a batch, and what is observed of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import pyro
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from blob_pyro.data.examples import Batch

if TYPE_CHECKING:
    from peft import PeftModel


class Likelihood(ABC):
    """Abstract. Turns a network and a batch into logits, and logits into the law of what is observed.

    Attributes:
        task_type: PEFT's name of the task.
        auto_class: transformers' class that loads the network with the right head.
    """

    task_type: ClassVar[str]
    auto_class: ClassVar[str]

    @abstractmethod
    def logits(self, network: PeftModel, batch: Batch) -> Tensor:
        """(B, ...) float32 logits of right-padded items."""

    @abstractmethod
    def observation(self, logits: Tensor, batch: Batch) -> tuple[TorchDistributionMixin, Tensor | None]:
        """The law of the items' labels, batch_shape (B,) or (S, B), and their value; None where there is none.

        Args:
            logits: (B, ...), or (S, B, ...) under S draws.
            batch: the items.
        """

    @abstractmethod
    def check_labels(self, labels: Tensor) -> None:
        """Raise where labels are none that this likelihood can observe.

        Raises:
            LabelError: says which.
        """

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

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """Token ids that it reads or writes beside those of a batch."""
        return ()

    def count(self, batch: Batch) -> int:
        """How many observations a batch counts as: its items."""
        return len(batch)

    def total(self, num_data: int | None) -> int | None:
        """How many observations there are in `num_data` training items; None where that is not known."""
        return num_data

    @contextmanager
    def data_plate(self, batch: Batch, num_data: int | None, device: torch.device) -> Iterator[None]:
        """The plate of the items, in which a batch stands for all observations there are."""
        count = self.count(batch)
        total = max(self.total(num_data) or 0, count)
        items = torch.arange(len(batch), device=device)
        if count == len(batch):
            with pyro.plate("data", total, subsample=items):
                yield
        else:
            with pyro.plate("data", len(batch), subsample=items), poutine.scale(scale=total / count):
                yield

    def model_settings(self) -> dict[str, Any]:
        """Arguments for the auto class's from_pretrained."""
        return {}
