"""Items whose completion is learnt token by token: rows of one's own, and the answer words of a built-in task."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from blob_pyro.data.examples import Example
from blob_pyro.data.prompts import PromptTemplate
from blob_pyro.data.rows.row import Row
from blob_pyro.data.tasks.labelled import rendered
from blob_pyro.data.tasks.task_data import TaskData

COMPLETION = "data.completion"


def completion_template(template: str) -> PromptTemplate:
    """The template of completions; its errors name `data.completion`.

    Raises:
        ConfigError: as `PromptTemplate`.
    """
    return PromptTemplate(template, setting=COMPLETION)


def completed_rows(
    rows: Sequence[Row], template: PromptTemplate, completion: PromptTemplate | None, source: str = "data"
) -> list[Example]:
    """Render rows into prompts and completions.

    Args:
        rows: raw items.
        template: the prompt.
        completion: what follows it; None for texts that are prompts alone.
        source: name of the file, for messages.

    Raises:
        DataError: rows lack a field of the prompt or of the completion, or have no text in any; every such line is
            counted.

    Example:
        >>> rows = [Row(1, {"q": "2 + 2?", "a": 4})]
        >>> (item,) = completed_rows(rows, PromptTemplate("{q} It is"), completion_template(" {a}."))
        >>> item.prompt, item.completion, item.label
        ('2 + 2? It is', ' 4.', None)
    """
    prompts = rendered(rows, template, source)
    completions = [("", None)] * len(rows) if completion is None else rendered(rows, completion, source)
    return [
        Example(prompt, None, f"line {row.line}", passage, completion=text)
        for row, (prompt, passage), (text, _) in zip(rows, prompts, completions, strict=True)
    ]


def answers_as_completions(examples: Sequence[Example], labels: Sequence[str]) -> list[Example]:
    """Items of classes with the answer word of each as its completion.

    Args:
        examples: items with labels.
        labels: answer words in class order.

    Example:
        >>> answers_as_completions([Example("Lovely is", 1, "line 1")], [" bad", " good"])[0].completion
        ' good'
    """
    return [
        example if example.label is None else dataclasses.replace(example, completion=labels[example.label])
        for example in examples
    ]


def with_answers(data: TaskData) -> TaskData:
    """The items of a task of classes, to be learnt token by token; its notes go on counting the classes."""
    train, test, validation = (
        answers_as_completions(part, data.labels) for part in (data.train, data.test, data.validation)
    )
    return dataclasses.replace(data, train=train, test=test, validation=validation, labels=())
