"""Built-in tasks as the paper's public code reads them, for comparing numbers with it (docs/data.md lists the rest).

Source: Wang-ML-Lab/bayesian-peft, dataset/utils/dsets.py and dataset/S2ClassDataset.py.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from blob_pyro.data.prompts import PromptTemplate
from blob_pyro.data.rows.fields import from_cell
from blob_pyro.data.tasks.benchmarks import QUESTION, WORD_SENSE
from blob_pyro.data.tasks.formats import boolq, question_choices, question_stem_choices
from blob_pyro.data.tasks.task import Task
from blob_pyro.data.tasks.task_data import TaskData, task_data
from blob_pyro.errors import DataError

Prepare = Callable[[Mapping[str, Any]], dict[str, Any]]


def as_authors(task: Task) -> Task:
    """The task with the prompts and answer words of the public code.

    - arc and openbookqa show a choice as "text) label", under its own label (1 to 4 in some rows of arc);
      openbookqa's prompt says "Chioces:".
    - boolq is answered with the other word: true is read at "False".
    - wic does not tell the word that it asks about.

    Other tasks stay as they are.
    """
    if task.name in ("arc_easy", "arc_challenge"):
        return dataclasses.replace(task, prepare=_text_before_label(question_choices))
    if task.name == "openbookqa":
        template = _changed(QUESTION, "Choices:", "Chioces:")
        return dataclasses.replace(task, template=template, prepare=_text_before_label(question_stem_choices))
    if task.name == "boolq":
        return dataclasses.replace(task, prepare=_other_word)
    if task.name == "wic":
        return dataclasses.replace(task, template=_changed(WORD_SENSE, "Word: {word}\n", ""))
    return task


def whole_batches(data: TaskData, batch_size: int) -> TaskData:
    """The items without the last ones that fill no batch, in training and in test, and notes that count them.

    Raises:
        DataError: nothing would be left to train on.

    Example:
        >>> from blob_pyro.data.examples import Example
        >>> items = [Example(f"item {i}", i % 2, f"line {i}") for i in range(7)]
        >>> data = task_data(items, items[:2], [], (" no", " yes"), PromptTemplate("{text}"), notes=())
        >>> kept = whole_batches(data, batch_size=2)
        >>> len(kept.train), len(kept.test), kept.notes[0]
        (6, 2, 'train: the last 1 of 7 items dropped: they fill no batch of 2 (data.compat)')
    """
    parts = {"train": data.train, "test": data.test}
    kept = {name: examples[: len(examples) - len(examples) % batch_size] for name, examples in parts.items()}
    if not kept["train"]:
        raise DataError(
            f"expected at least a batch of {batch_size} items to train on, since data.compat drops smaller ones; "
            f"got {len(data.train)}: lower train.batch_size"
        )
    notes = tuple(
        f"{name}: the last {len(examples) % batch_size} of {len(examples)} items dropped: they fill no batch of "
        f"{batch_size} (data.compat)"
        for name, examples in parts.items()
        if len(examples) % batch_size
    )
    notes += data.own_notes
    return task_data(kept["train"], kept["test"], data.validation, data.labels, data.template, notes, data.group)


def _changed(template: PromptTemplate, old: str, new: str) -> PromptTemplate:
    return dataclasses.replace(template, template=template.template.replace(old, new))


def _text_before_label(prepare: Prepare) -> Prepare:
    def prepared(fields: Mapping[str, Any]) -> dict[str, Any]:
        item = prepare(fields)
        choices = from_cell(fields["choices"])
        lines = zip(choices["text"], choices["label"], strict=True)
        return item | {"choices": "\n".join(f"{text}) {label}" for text, label in lines)}

    return prepared


def _other_word(fields: Mapping[str, Any]) -> dict[str, Any]:
    item = boolq(fields)
    other = {"True": "False", "False": "True", None: None}
    return item | {"answer": other[item["answer"]]}
