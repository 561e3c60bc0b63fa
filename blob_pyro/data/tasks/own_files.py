"""Items of one's own: rows of files or of a data set, under a prompt and labels that the configuration gives."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Hashable, Sequence
from string import ascii_uppercase
from typing import Any

from blob_pyro.config.sections import DataConfig
from blob_pyro.data.examples import Example
from blob_pyro.data.prompts import PromptTemplate
from blob_pyro.data.rows.files import read_rows
from blob_pyro.data.rows.hub import read_dataset
from blob_pyro.data.rows.row import Row
from blob_pyro.data.rows.wording import bad_lines, name_lines, name_words, quoted
from blob_pyro.data.tasks.completed import completed_rows, completion_template
from blob_pyro.data.tasks.labelled import examples_from_rows, label_text, no_label, prepare_rows
from blob_pyro.data.tasks.own_choices import choices_of, prompt_field, with_choices
from blob_pyro.data.tasks.splitting import grouped, hold_out, shuffled, take, with_groups
from blob_pyro.data.tasks.task_data import TaskData, task_data
from blob_pyro.errors import ConfigError, DataError

TrainRows = tuple[list[Row], str]
"""The raw rows to train on, and the name of where they are from."""


def load_own(config: DataConfig, seed: int, train_rows: TrainRows | None = None) -> TaskData:
    """The items of files, or of a data set, that a configuration names (see `load_task`).

    Args:
        config: names them.
        seed: draws the training items.
        train_rows: what `with_labels` has read, for a pipe can be read once; None reads it.
    """
    template, _ = _template(config), _completion(config)
    rows, source = train_rows or read_train_rows(config)
    config, notes = _labelled(config, rows, source)
    train = own_examples(config, rows, require_label=True, source=source)
    keys: Sequence[Hashable] = [("line", row.line) for row in rows]
    if config.group_field is not None:  # a row without a group is refused, whatever is held out
        keys = _groups(config, rows, source)
        train = with_groups(train, keys)
    groups = [[example] for example in train]
    if config.num_train is not None or config.num_validation:
        groups = shuffled(grouped(train, keys), seed)
    held = hold_out(groups, config.num_train, config.num_validation, source)
    if held.left_out:
        notes = (*notes, f"train: {len(held.left_out)} items left out: they belong together with validation items")
    group = "" if config.group_field is None else f"their {config.group_field!r}"
    return task_data(held.train, _test(config), held.validation, tuple(config.labels or ()), template, notes, group)


def _test(config: DataConfig) -> list[Example]:
    if config.test_file is not None:
        rows, source = read_rows(config.test_file), config.test_file
    elif config.dataset is not None and config.test_split is not None:
        rows = read_dataset(config.dataset, config.dataset_config, config.test_split)
        source = f"{config.dataset} {config.test_split}"
    else:
        return []
    examples = own_examples(config, rows, require_label=True, source=source)
    if config.group_field is not None:
        examples = with_groups(examples, [label_text(row.fields.get(config.group_field)) for row in rows])
    return take(examples, config.num_test, "data.num_test", source)


def read_train_rows(config: DataConfig) -> TrainRows:
    """The raw rows to train on, and the name of where they are from."""
    if config.dataset is not None:
        split = config.train_split or "train"
        return read_dataset(config.dataset, config.dataset_config, split), f"{config.dataset} {split}"
    if config.train_file is None:
        raise ConfigError("data: expected data.train_file, data.prompt and data.labels; got a configuration without")
    return read_rows(config.train_file), config.train_file


def own_examples(config: DataConfig, rows: Sequence[Row], require_label: bool, source: str) -> list[Example]:
    """Examples of rows of one's own (see `examples_from_rows`, and `completed_rows` where there are completions).

    Args:
        config: prompt, labels and names of fields; labels that it leaves out are read from the training file.
        rows: raw items.
        require_label: whether each row must have a label; a completion it must have.
        source: name of the file, for messages.

    Raises:
        ConfigError: prompt or labels cannot work.
        DataError: rows lack fields, or have unknown labels.
    """
    if config.own_texts:
        return completed_rows(rows, _template(config), _completion(config), source)
    config = with_labels(config)[0]
    template, labels = _template(config), config.labels or []
    if config.choices_field is not None:
        _check_letters(labels)
        rows = _lettered(config, rows, source, most=len(labels))
    return examples_from_rows(rows, template, labels, config.label_field, require_label, source)


def with_labels(config: DataConfig) -> tuple[DataConfig, tuple[str, ...], TrainRows | None]:
    """The configuration with its labels; a note, and the rows, where they are read from the training file.

    Labels that are left out are the distinct values of the label field in the training file, sorted as text, or letters
    for the most choices that an item there has. A space is put in front, where the prompt does not end in white space:
    that is the word that follows the prompt. Items with completions have none.

    Raises:
        ConfigError: the prompt cannot work.
        DataError: the file cannot be read, or its labels cannot serve: fewer than two, not there, or no words.
    """
    if config.task is not None or config.labels is not None or config.own_texts:
        return config, (), None
    _template(config)
    rows, source = read_train_rows(config)
    return *_labelled(config, rows, source), (rows, source)


def _labelled(config: DataConfig, rows: Sequence[Row], source: str) -> tuple[DataConfig, tuple[str, ...]]:
    if config.labels is not None or config.own_texts:
        return config, ()
    if config.choices_field is None:
        words, told = _distinct(rows, config.label_field, source), f"the values of {config.label_field!r} in {source}"
    else:
        words, told = _letters(config, rows, source), f"letters for the choices in {source}"
    space = "" if str(config.prompt)[-1:].isspace() else " "
    found = dataclasses.replace(config, labels=[space + word for word in words])
    return found, (f"labels: {name_words(words)} ({told})",)


def _letters(config: DataConfig, rows: Sequence[Row], source: str) -> list[str]:
    """A letter for each of the most choices that an item has."""
    assert config.choices_field is not None
    _lettered(config, rows, source, most=None)
    counts = [len(choices_of(row.fields, config.choices_field).texts) for row in rows]
    return list(ascii_uppercase[: max(counts)])


def _distinct(rows: Sequence[Row], label_field: str, source: str) -> list[str]:
    """The distinct labels, sorted."""
    labels = {row.line: label_text(row.fields.get(label_field)) for row in rows}
    missing = [row for row in rows if labels[row.line] is None]
    if missing:
        raise no_label(missing, label_field, source)
    bad = {row.line: why for row in rows if (why := _no_word(row.fields[label_field]))}
    if bad:
        raise bad_lines(source, f"a word, a whole number, true or false in the field {label_field!r}", bad)
    words = sorted({label for label in labels.values() if label is not None})
    if len(words) < 2:
        raise DataError(
            f"{source}: expected at least two distinct labels in the field {label_field!r}; got {quoted(words)}: "
            "set data.labels, or data.label_field"
        )
    return words


def _no_word(value: Any) -> str:
    """Why a value cannot serve as an answer word, or ""."""
    if not isinstance(value, str | int):
        return f"a {type(value).__name__}"
    try:
        str(value).encode("utf-8")
    except UnicodeEncodeError:
        return "half of a surrogate pair"
    return ""


def _template(config: DataConfig) -> PromptTemplate:
    if config.prompt is None:
        raise ConfigError("data: expected data.train_file, data.prompt and data.labels; got a configuration without")
    template = PromptTemplate(config.prompt, config.truncate_field)
    if config.choices_field is not None and prompt_field(config.choices_field) not in template.fields:
        raise ConfigError(
            f"data.prompt: expected {{{prompt_field(config.choices_field)}}}, which shows the choices of "
            f"data.choices_field; got {quoted(template.fields)}"
        )
    return template


def _completion(config: DataConfig) -> PromptTemplate | None:
    """The template of completions, where there is one."""
    return None if config.completion is None else completion_template(config.completion)


def _check_letters(labels: Sequence[str]) -> None:
    """Answer words of choices are their letters."""
    letters = list(ascii_uppercase[: len(labels)])
    if [label.strip() for label in labels] != letters:
        raise ConfigError(
            f"data.labels: expected the letters of the choices, {name_words(letters)}; got {quoted(labels)}: "
            "leave it out"
        )


def _lettered(config: DataConfig, rows: Sequence[Row], source: str, most: int | None) -> list[Row]:
    assert config.choices_field is not None
    prepare = functools.partial(
        with_choices, choices_field=config.choices_field, label_field=config.label_field, most=most
    )
    return prepare_rows(rows, prepare, source, expected="rows with choices and the label of one of them")


def _groups(config: DataConfig, rows: Sequence[Row], source: str) -> list[str]:
    """The group of each row, as text."""
    assert config.group_field is not None
    groups = [label_text(row.fields.get(config.group_field)) for row in rows]
    missing = [row for row, group in zip(rows, groups, strict=True) if group is None]
    if missing:
        raise DataError(
            f"{source}: expected a group in the field {config.group_field!r} of every row; got none on "
            f"{name_lines([row.line for row in missing])} (line {missing[0].line} has {quoted(missing[0].fields)}): "
            "add it, or leave data.group_field out"
        )
    return [str(group) for group in groups]
