"""What a built-in task is: where its items are, how they become prompts, and which words answer them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from blob_pyro.data.prompts import PromptTemplate
from blob_pyro.data.rows.hub import HubSource
from blob_pyro.data.rows.row import Row
from blob_pyro.data.tasks.labelled import prepare_rows


@dataclass(frozen=True)
class TaskRows:
    """Items of a split.

    Attributes:
        rows: the items.
        notes: lines that say what was left out.
    """

    rows: list[Row]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Split:
    """One split of a data set.

    Attributes:
        name: its official name.
        size: its official number of items; None where that depends.
    """

    name: str
    size: int | None = None

    def __str__(self) -> str:
        """The name, with the size in parentheses."""
        return self.name if self.size is None else f"{self.name} ({self.size:,})"


@dataclass(frozen=True)
class Task:
    """A classification task that can be named in a configuration.

    Attributes:
        name: its key in `TASKS`.
        description: one line for `blob-pyro tasks`.
        source: where the items come from.
        labels: answer words in class order, each meant to be a single token behind the prompt.
        template: the prompt.
        read: reads the raw rows of a split, given its name and data.data_dir.
        train: the split to train on.
        test: the split to test on; None where the test items are cut off the training split.
        prepare: the template's fields and the label of a raw row (see `blob_pyro.data.tasks.formats`).
        label_field: the field that holds the label, in raw and in prepared rows.
        group: what items of a group share, in words; "" where the items have none.
        num_test: size of the fixed test set where the configuration does not say; None takes the whole split.
        hub: its data set on the hub; None where it is not from there.
    """

    name: str
    description: str
    source: str
    labels: tuple[str, ...]
    template: PromptTemplate
    read: Callable[[str, str | None], TaskRows]
    train: Split
    test: Split | None = None
    prepare: Callable[[Mapping[str, Any]], dict[str, Any]] = dict
    label_field: str = "label"
    group: str = ""
    num_test: int | None = None
    hub: HubSource | None = None

    def load(self, split: str, data_dir: str | None) -> TaskRows:
        """The prepared rows of a split; a note tells where their number is not the official one.

        Raises:
            DataError: the split cannot be read, or rows are not of the task's format.
        """
        found = self.read(split, data_dir)
        rows = prepare_rows(found.rows, self.prepare, f"{self.name} {split}")
        official = next((known.size for known in (self.train, self.test) if known and known.name == split), None)
        if official in (None, len(rows)):
            return TaskRows(rows, found.notes)
        note = f"{self.name} {split}: {len(rows):,} items, where the official split has {official:,}"
        return TaskRows(rows, (*found.notes, note))

    @property
    def splits(self) -> str:
        """Which items are trained and tested on, in words."""
        if self.test is None:
            return f"{self.num_test:,} fixed test items, which no seed changes; the others are for training"
        return f"train on {self.train}, test on {self.test}"
