"""The records that leave the data room: one text item (`Example`) and one padded batch (`Batch`)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from blob_pyro.errors import DataError

IGNORED = -100
"""Label of a token that is not predicted, as in transformers."""


@dataclass(frozen=True)
class Example:
    """One item as text.

    Attributes:
        prompt: the whole prompt, answer cue included.
        label: index of the right answer in the task's labels; None where it is not known.
        id: how messages and output files name the item ("line 3", a data set's own id).
        passage: (start, end) character span of `prompt` that may lose tokens from its left when the
            prompt is longer than the context; None where no part may.
        shares: of the annotators for each class (a soft label), summing to 1; `label` is then the class with the
            largest, the first of equals. None where one class is known.
        completion: what follows the prompt where that is learnt token by token (`bp.CausalLM`), the space between
            them included; None for items of classes.
        group: what it shares with items that it belongs together with (a user, the twins of winogrande); None where
            that is not known.
    """

    prompt: str
    label: int | None
    id: str
    passage: tuple[int, int] | None = None
    shares: tuple[float, ...] | None = None
    completion: str | None = None
    group: Hashable = None


_INTEGERS = (torch.int64, torch.int32)
_WHOLE = (
    ("input_ids", _INTEGERS, "token ids, torch.long"),
    ("attention_mask", (*_INTEGERS, torch.int16, torch.int8, torch.uint8, torch.bool), "1 and 0, torch.long or bool"),
    ("index", _INTEGERS, "positions of items, torch.long"),
)
"""What tensors of a batch may be of: (name, types, in words)."""


@dataclass(frozen=True)
class Batch:
    """Padded token ids, ready for the network.

    Attributes:
        input_ids: (B, T) integer token ids, padded on either side.
        attention_mask: (B, T), 1 at real tokens and 0 at padding.
        labels: (B,) integer class indices; (B, K) shares of the annotators for each class (soft labels); (B, T) token
            ids, -100 where none is predicted (`bp.CausalLM`); or None.
        index: (B,) positions of the items in their data set, or None; they name items in messages and
            restore the data set's order after prediction.

    Raises:
        ValueError: the shapes do not fit together, or ids, mask or index are no whole numbers.

    Example:
        >>> batch = Batch(torch.tensor([[5, 6, 0]]), torch.tensor([[1, 1, 0]]), labels=torch.tensor([2]))
        >>> len(batch), batch.labels.tolist()
        (1, [2])
    """

    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor | None = None
    index: Tensor | None = None
    _num_predicted: ClassVar[list[int] | None] = None  # no field: what `dataclasses.replace` makes is counted anew

    @classmethod
    def of(cls, value: Any) -> Batch:
        """A batch itself, or that of a mapping as tokenizers and collators of transformers make it.

        Args:
            value: a Batch; or input_ids, attention_mask (all ones where it is left out), labels and index, as tensors
                (index as a list, too). What else a mapping holds (token_type_ids) is not used.

        Raises:
            DataError: it is neither, or its values are no such tensors.

        Example:
            >>> Batch.of({"input_ids": torch.tensor([[5, 6]]), "labels": torch.tensor([1])}).attention_mask.tolist()
            [[1, 1]]
        """
        if isinstance(value, cls):
            return value
        found = value if isinstance(value, Mapping) else {}
        names = [field.name for field in dataclasses.fields(cls)]
        given = {name: found[name] for name in names if found.get(name) is not None}
        if "index" in given:
            given["index"] = _whole_numbers(given["index"])
        odd = [f"{name} of type {type(one).__name__}" for name, one in given.items() if not isinstance(one, Tensor)]
        if odd or "input_ids" not in given:
            got = odd[0] if odd else f"a {type(value).__name__}"
            raise DataError(
                "batch: expected a bp.Batch, or a mapping with tensors input_ids, attention_mask and labels; got "
                f'{got}: make one, bp.Batch(input_ids, attention_mask, labels), or take return_tensors="pt"'
            )
        try:
            return cls(**{"attention_mask": torch.ones_like(given["input_ids"]), **given})
        except ValueError as error:
            raise DataError(f"batch: {error}") from error

    def __post_init__(self) -> None:
        if self.input_ids.dim() != 2:
            raise ValueError(f"expected input_ids of shape (B, T); got {tuple(self.input_ids.shape)}")
        self._check_types()
        if self.attention_mask.shape != self.input_ids.shape:
            raise ValueError(
                f"expected attention_mask of input_ids' shape {tuple(self.input_ids.shape)}; "
                f"got {tuple(self.attention_mask.shape)}"
            )
        if self.index is not None and self.index.shape != self.input_ids.shape[:1]:
            raise ValueError(f"expected index of shape ({len(self)},); got {tuple(self.index.shape)}")
        if self.labels is not None:
            self._check_labels(self.labels)

    def _check_types(self) -> None:
        for name, kinds, advice in _WHOLE:
            value = getattr(self, name)
            if value is not None and value.dtype not in kinds:
                raise ValueError(
                    f"expected {name} of {advice}; got {str(value.dtype).removeprefix('torch.')}: call .long() on it"
                )

    def _check_labels(self, labels: Tensor) -> None:
        size, width = self.input_ids.shape
        shapes = [(size,), (size, labels.shape[-1] if labels.is_floating_point() else width)]
        if tuple(labels.shape) not in shapes:
            raise ValueError(f"expected labels of shape {shapes[0]}, or {shapes[1]}; got {tuple(labels.shape)}")

    @property
    def _has_token_labels(self) -> bool:
        return self.labels is not None and self.labels.dim() == 2 and not self.labels.is_floating_point()

    def __len__(self) -> int:
        """Number of items B."""
        return self.input_ids.shape[0]

    @property
    def lengths(self) -> Tensor:
        """(B,) number of real tokens of each item."""
        return self.attention_mask.to(torch.long).sum(1)

    @property
    def predicted(self) -> Tensor:
        """(B, T - 1) which tokens behind the first are predicted, of right-padded texts: those of `labels`, or all."""
        labels = self.input_ids if self.labels is None else self.labels
        return (labels[:, 1:] != IGNORED) & (self.attention_mask[:, 1:] > 0)

    @property
    def num_predicted(self) -> list[int]:
        """B numbers of predicted tokens, of texts. `to` counts them on the CPU: elsewhere the host would wait."""
        known = self._num_predicted
        return self.right_padded().predicted.sum(1).tolist() if known is None else known

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on `device`."""
        moved = {
            field.name: value.to(device)
            for field in dataclasses.fields(self)
            if (value := getattr(self, field.name)) is not None
        }
        known = self._num_predicted
        if known is None and self.input_ids.device.type == "cpu" and (self.labels is None or self._has_token_labels):
            known = self.num_predicted
        return dataclasses.replace(self, **moved)._counted_as(known)

    def right_padded(self) -> Batch:
        """The same items with each row's real tokens moved to the left, in order.

        Every architecture counts positions from the left, so this is what makes an item's logits
        independent of the padding side. Returns `self` where nothing has to move, which is looked at on CPUs alone.
        """
        mask = self.attention_mask.to(torch.long)
        if mask.device.type == "cpu" and bool((mask[:, 1:] <= mask[:, :-1]).all()):
            return self
        order = mask.argsort(dim=1, descending=True, stable=True)
        return self._of_columns(lambda values: values.gather(1, order))

    def select(self, rows: Sequence[int]) -> Batch:
        """Some of the items, right-padded and no wider than the longest of them.

        Args:
            rows: positions in this batch, in the order wanted.

        Example:
            >>> ids = torch.tensor([[5, 6, 7], [0, 0, 8], [0, 9, 4]])
            >>> batch = Batch(ids, attention_mask=(ids > 0).long())
            >>> batch.select([2, 1]).input_ids.tolist()
            [[9, 4], [8, 0]]
        """
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        picked = {name: value[list(rows)] for name, value in fields.items() if value is not None}
        items = dataclasses.replace(self, **picked).right_padded()
        width = max([1, *items.lengths.tolist()])
        return items._of_columns(lambda values: values[:, :width])

    def _of_columns(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch with `change` made of all that has a column for each token."""
        return dataclasses.replace(
            self,
            input_ids=change(self.input_ids),
            attention_mask=change(self.attention_mask),
            labels=change(self.labels) if self.labels is not None and self._has_token_labels else self.labels,
        )._counted_as(self._num_predicted)

    def _counted_as(self, num_predicted: list[int] | None) -> Batch:
        object.__setattr__(self, "_num_predicted", num_predicted)
        return self

    def repeat(self, num_draws: int) -> Batch:
        """`num_draws` copies of the items below one another: row s * B + i is item i of draw s."""
        return dataclasses.replace(
            self,
            input_ids=self.input_ids.repeat(num_draws, 1),
            attention_mask=self.attention_mask.repeat(num_draws, 1),
            labels=None if self.labels is None else self.labels.repeat(num_draws, *(1,) * (self.labels.dim() - 1)),
            index=None if self.index is None else self.index.repeat(num_draws),
        )._counted_as(None if self._num_predicted is None else self._num_predicted * num_draws)


def _whole_numbers(values: Any) -> Any:
    """A list of whole numbers as a tensor, and anything else as it is."""
    is_list = isinstance(values, list | tuple) and all(type(one) is int for one in values)
    return torch.tensor(values, dtype=torch.long) if is_list else values
