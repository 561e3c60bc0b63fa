"""Items of one's own: rows of files or of a data set, under a prompt and labels that the configuration gives."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

from blob_pyro.config.data import files_of
from blob_pyro.config.sections import DataConfig
from blob_pyro.data.examples import Example
from blob_pyro.data.prompts import PromptTemplate
from blob_pyro.data.rows.fields import float_of, label_text, lifted
from blob_pyro.data.rows.row import Row
from blob_pyro.data.rows.wording import bad_lines, name_lines, name_words, quoted
from blob_pyro.data.tasks.completed import completed_rows, completion_template
from blob_pyro.data.tasks.labelled import examples_from_rows, no_label, prepare_rows
from blob_pyro.data.tasks.odd_labels import odd_labels
from blob_pyro.data.tasks.own_choices import choices_of, prompt_field, with_choices
from blob_pyro.data.tasks.own_rows import SourceRows, TrainRows, item_ids, read_test_rows, read_train_rows
from blob_pyro.data.tasks.splitting import grouped, hold_out, shuffled, take, with_groups
from blob_pyro.data.tasks.task_data import TaskData, task_data
from blob_pyro.errors import ConfigError, DataError
from blob_pyro.system.printing import is_text

MOST_LONE_LABELS = 12
"""Up to so many items may have a label of their own each; of more it is no label, but a name."""

MOST_LABEL_CHARACTERS = 1000
"""Longest label that is read from a file."""


def load_own(config: DataConfig, seed: int, train_rows: TrainRows | None = None) -> TaskData:
    """The items of files, or of a data set, that a configuration names (see `load_task`).

    Args:
        config: names them.
        seed: draws the training items.
        train_rows: what `with_labels` has read, for a pipe can be read once; None reads it.
    """
    template, _ = _template(config), _completion(config)
    parts = train_rows or read_train_rows(config)
    config, notes = _labelled(config, parts)
    train = _examples(config, parts)
    groups = [[example] for example in train]
    if config.num_train is not None or config.num_validation:
        keys = [("item", place) if example.group is None else example.group for place, example in enumerate(train)]
        groups = shuffled(grouped(train, keys), seed)
    source = _names(parts)
    held = hold_out(groups, config.num_train, config.num_validation, source)
    if held.left_out:
        notes = (*notes, f"train: {len(held.left_out)} items left out: they belong together with validation items")
    tested = read_test_rows(config)
    test = _examples(config, tested, need_groups=False)
    if tested:
        test = take(test, config.num_test, "data.num_test", _names(tested))
    told = (*notes, *_left_out(parts), *_left_out(tested), *_several("train", parts), *_several("test", tested))
    labels = tuple(config.labels or ())
    told += (*odd_labels(train, labels, config.label_field), *_named_alike(config, train, test))
    group = "" if config.group_field is None else f"their {config.group_field!r}"
    return task_data(held.train, test, held.validation, labels, template, told, group)


def _examples(config: DataConfig, parts: Sequence[SourceRows], need_groups: bool = True) -> list[Example]:
    """The items of all sources, named after these where they are several, each with its group."""
    examples = []
    for part in parts:
        found = own_examples(config, part.rows, require_label=True, source=part.source, require_id=True)
        if len(parts) > 1 and config.id_field is None:
            source = part.source.encode(errors="backslashreplace").decode()  # ids are text, a path may be none
            found = [dataclasses.replace(example, id=f"{source} {example.id}") for example in found]
        if config.group_field is not None:  # a row without a group is refused, whatever is held out
            found = with_groups(found, _groups(config, part, need_groups))
        examples += found
    return examples


def _named_alike(config: DataConfig, *sets: Sequence[Example]) -> list[str]:
    """How many items have the id of another one that is trained on, or tested on, with them."""
    counts = [Counter(example.id for example in examples).values() for examples in sets]
    alike = sum(count for one in counts for count in one if count > 1)
    return [f"{alike} items share their {config.id_field!r} with another one"] if config.id_field and alike else []


def _names(parts: Sequence[SourceRows]) -> str:
    return ", ".join(part.source for part in parts)


def _left_out(parts: Sequence[SourceRows]) -> list[str]:
    return [part.left_out for part in parts if part.left_out is not None]


def _several(name: str, parts: Sequence[SourceRows]) -> list[str]:
    """How many rows each of several files has."""
    counts = ", ".join(f"{part.source} {len(part.rows)}" for part in parts)
    return [f"{name}: {len(parts)} files ({counts})"] if len(parts) > 1 else []


def own_examples(
    config: DataConfig, rows: Sequence[Row], require_label: bool, source: str, require_id: bool = False
) -> list[Example]:
    """Examples of rows of one's own (see `examples_from_rows`, and `completed_rows` where there are completions).

    Args:
        config: prompt, labels and names of fields; labels that it leaves out are read from the training file.
        rows: raw items.
        require_label: whether each row must have a label; a completion it must have.
        source: name of the file, for messages.
        require_id: whether each row must have what `config.id_field` names; if not, rows of which none has it will do.

    Raises:
        ConfigError: prompt or labels cannot work.
        DataError: rows lack fields, or have unknown labels.
    """
    rows = lifted(rows, [config.label_field, config.id_field, *files_of(config.choices_field)])
    ids = item_ids(config, rows, source, require_id)
    if config.own_texts:
        return _named(completed_rows(rows, _template(config), _completion(config), source), ids)
    config = with_labels(config)[0]
    template, labels = _template(config), config.labels or []
    if config.choices_field is not None:
        _check_letters(labels)
        rows = _lettered(config, rows, source, most=len(labels))
    return _named(examples_from_rows(rows, template, labels, config.label_field, require_label, source), ids)


def _named(examples: list[Example], ids: Sequence[str] | None) -> list[Example]:
    if ids is None:
        return examples
    return [dataclasses.replace(example, id=name) for example, name in zip(examples, ids, strict=True)]


def with_labels(config: DataConfig) -> tuple[DataConfig, tuple[str, ...], TrainRows | None]:
    """The configuration with its labels; a note, and the rows, where they are read from the training file.

    Labels that are left out are those of `config.answers`, or the distinct values of the label field in the training
    file, sorted as text, or letters for the most choices that an item there has. A space is put in front, where the
    prompt does not end in white space: that is the word that follows the prompt. Items with completions have none.

    Raises:
        ConfigError: the prompt cannot work, or a label has no answer word.
        DataError: the file cannot be read, or its labels cannot serve: fewer than two, not there, or no words.
    """
    if config.task is not None or config.labels is not None or config.own_texts:
        return config, (), None
    _template(config)
    if config.answers is not None:
        return dataclasses.replace(config, labels=[label.strip() for label in config.answers]), (), None
    parts = read_train_rows(config)
    return *_labelled(config, parts), parts


def _labelled(config: DataConfig, parts: TrainRows) -> tuple[DataConfig, tuple[str, ...]]:
    if config.labels is not None or config.own_texts or config.answers is not None:
        return with_labels(config)[0], ()
    source = _names(parts)
    if config.choices_field is None:
        words, told = _distinct(parts, config.label_field), f"the values of {config.label_field!r} in {source}"
    else:
        words, told = _letters(config, parts), f"letters for the choices in {source}"
    space = "" if str(config.prompt)[-1:].isspace() else " "
    found = dataclasses.replace(config, labels=[space + word for word in words])
    return found, (f"labels: {name_words(words)} ({told})",)


def _letters(config: DataConfig, parts: TrainRows) -> list[str]:
    """A letter for each of the most choices that an item has."""
    assert config.choices_field is not None
    counts = []
    for part in parts:
        _lettered(config, part.rows, part.source, most=None)
        counts += [len(choices_of(row.fields, config.choices_field).texts) for row in part.rows]
    return list(ascii_uppercase[: max(counts)])


def _distinct(parts: TrainRows, label_field: str) -> list[str]:
    """The distinct labels, sorted."""
    words: set[str] = set()
    count = 0
    for part in parts:
        labels = {row.line: label_text(row.fields.get(label_field)) for row in part.rows}
        missing = [row for row in part.rows if labels[row.line] is None]
        if missing:
            raise no_label(missing, label_field, part.source)
        bad = {row.line: why for row in part.rows if (why := _no_word(row.fields[label_field]))}
        if bad:
            expected = f"a word, a whole number, true or false in the field {label_field!r}"
            raise bad_lines(part.source, expected, bad)
        words |= {label for label in labels.values() if label is not None}
        count += len(part.rows)
    source = _names(parts)
    if len(words) < 2:
        raise DataError(
            f"{source}: expected at least two distinct labels in the field {label_field!r}; got "
            f"{quoted(sorted(words))}: set data.labels, or data.label_field"
        )
    if len(words) == count > MOST_LONE_LABELS:
        raise DataError(
            f"{source}: expected labels that items share in the field {label_field!r}; got another one for each of "
            f"{count} items: set data.label_field, or data.labels where they are meant"
        )
    return sorted(words)


def _no_word(value: Any) -> str:
    """Why a value cannot serve as an answer word, or ""; a number is one in CSV, where it is text, too."""
    if (number := float_of(value)) is not None:
        return "" if number.is_integer() else "a float, a number with a fraction"
    if not isinstance(value, str | int):
        return f"a {type(value).__name__}"
    if len(str(value)) > MOST_LABEL_CHARACTERS:
        return f"{len(str(value)):,} characters"
    return "" if is_text(str(value)) else "half of a surrogate pair"


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


def _groups(config: DataConfig, part: SourceRows, needed: bool) -> list[str | None]:
    """The group of each row, as text."""
    assert config.group_field is not None
    groups = [label_text(row.fields.get(config.group_field)) for row in part.rows]
    missing = [row for row, group in zip(part.rows, groups, strict=True) if group is None]
    if missing and needed:
        raise DataError(
            f"{part.source}: expected a group in the field {config.group_field!r} of every row; got none on "
            f"{name_lines([row.line for row in missing])} (line {missing[0].line} has {quoted(missing[0].fields)}): "
            "add it, or leave data.group_field out"
        )
    return groups
