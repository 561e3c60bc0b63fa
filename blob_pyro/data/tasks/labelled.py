"""From raw rows to examples: fields made ready for a prompt, prompts rendered, labels looked up."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from blob_pyro.data.examples import Example
from blob_pyro.data.prompts import PromptTemplate
from blob_pyro.data.rows.fields import field_of, from_cell, has_text, label_text, same_number
from blob_pyro.data.rows.row import Row
from blob_pyro.data.rows.wording import bad_lines, held_inside, name_lines, quoted, shown
from blob_pyro.data.tasks.formats import BadRowError
from blob_pyro.errors import ConfigError, DataError

OFFICIAL = "rows with the fields of the official copy"


def prepare_rows(
    rows: Sequence[Row],
    prepare: Callable[[Mapping[str, Any]], dict[str, Any]],
    source: str,
    expected: str = OFFICIAL,
) -> list[Row]:
    """Bring rows of a data set's own format into the fields of a prompt.

    Args:
        rows: raw items.
        prepare: makes the new fields of one item, or raises `BadRowError`; one of `blob_pyro.data.tasks.formats`.
        source: name of the file, for messages.
        expected: what its rows should be, for messages.

    Raises:
        DataError: rows are not of that format; every such line is counted.
    """
    ready: list[Row] = []
    bad: dict[int, str] = {}
    for row in rows:
        try:
            ready.append(Row(row.line, prepare(row.fields)))
        except BadRowError as error:
            bad[row.line] = str(error)
    if bad:
        raise bad_lines(source, expected, bad)
    return ready


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
    " negative", true is "True" (or "true", where that is a label and "True" is none), and 1 and 1.0 are "1" (or "1.0",
    where that is a label). A number that is written as none of the labels is the one that is the same number: 0.5 is
    "0.50". Null and empty text are no label. An object of labels with numbers, {"negative": 3, "positive": 1}, is a
    soft label: how many annotators, or which share of them, chose each. Where one row has such a label, the labels of
    all of them are shares. A text that is the JSON of such an object, as in a cell of CSV or TSV, is one too.

    Args:
        rows: raw items.
        template: the prompt.
        labels: answer words in class order.
        label_field: the field that holds the label.
        require_label: whether each row must have one; if not, a file without any will do.
        source: name of the file, for messages.

    Raises:
        ConfigError: two labels differ in white space alone, or one is nothing else.
        DataError: rows lack a field of the prompt or have no text in any; labels are missing or unknown. Every such
            line is counted.

    Example:
        >>> rows = [Row(1, {"text": "Lovely", "label": "good"})]
        >>> examples_from_rows(rows, PromptTemplate("{text} is"), [" bad", " good"], "label", require_label=True)
        [Example(prompt='Lovely is', label=1, id='line 1', passage=None, shares=None, completion=None, group=None)]
    """
    classes = _class_of_text(labels)
    rows = [_with_object(row, label_field) for row in rows]
    soft = _soft_labels(rows, classes, label_field, source)
    numbers = _numbers(classes)
    found = [
        _largest(soft[row.line], labels)
        if row.line in soft
        else _class_name(row.fields.get(label_field), classes, numbers)
        for row in rows
    ]
    _check_labels(rows, found, classes, label_field, require_label, source)
    known = [None if label is None else classes[label] for label in found]
    return [
        Example(prompt, label, f"line {row.line}", passage, _shares(soft, row, label, len(labels)))
        for row, label, (prompt, passage) in zip(rows, known, rendered(rows, template, source), strict=True)
    ]


def _numbers(classes: Iterable[str]) -> dict[Decimal, str]:
    """The labels that are numbers, by these; of several that are one number none."""
    spelt = [(number, name) for name in classes if (number := same_number(name)) is not None]
    counts = Counter(number for number, _ in spelt)
    return {number: name for number, name in spelt if counts[number] == 1}


def _class_name(value: Any, classes: Mapping[str, int], numbers: Mapping[Decimal, str]) -> str | None:
    """The label that a value is: as it is written, as every file format has it, as JSON has true and false, or as the
    same number."""
    text = label_text(value)
    as_written = "" if value is None else str(value).strip()
    for name in (as_written, text, as_written.lower() if isinstance(value, bool) else None):
        if name in classes:
            return name
    number = None if text is None else same_number(text)
    return text if number is None else numbers.get(number, text)


def _with_object(row: Row, label_field: str) -> Row:
    """The row with the object whose JSON its label is, if it is one."""
    value = from_cell(row.fields.get(label_field))
    return Row(row.line, {**row.fields, label_field: value}) if isinstance(value, Mapping) else row


def _soft_labels(
    rows: Sequence[Row], classes: Mapping[str, int], label_field: str, source: str
) -> dict[int, tuple[float, ...]]:
    """Shares by the line of each row that has them."""
    with_shares = [row for row in rows if isinstance(row.fields.get(label_field), Mapping)]
    ready = prepare_rows(
        with_shares,
        lambda fields: {"shares": shares_of(fields[label_field], classes)},
        source,
        expected=f"numbers by label in the field {label_field!r}",
    )
    return {row.line: row.fields["shares"] for row in ready}


def _largest(shares: Sequence[float], labels: Sequence[str]) -> str:
    return labels[max(range(len(shares)), key=shares.__getitem__)].strip()


def _shares(
    soft: Mapping[int, tuple[float, ...]], row: Row, label: int | None, num_classes: int
) -> tuple[float, ...] | None:
    """A row's shares: all of one class where other rows have shares and it has a label."""
    if not soft or label is None:
        return None
    return soft.get(row.line) or tuple(float(k == label) for k in range(num_classes))


def rendered(rows: Sequence[Row], template: PromptTemplate, source: str) -> list[tuple[str, tuple[int, int] | None]]:
    """The prompt and passage of every row.

    Raises:
        DataError: rows lack a field of the template, or have no text in any; tells the first reason and all bad rows.
    """
    prompts = []
    bad: dict[int, DataError] = {}
    nulls: Counter[str] = Counter()
    for row in rows:
        try:
            prompts.append(_render(row, template, f"{source} line {row.line}"))
            nulls.update(name for name in template.fields if field_of(row.fields, name) is None)
        except DataError as error:
            bad[row.line] = error
    if bad:
        lines = sorted(bad)
        every = f" (in all, bad rows on {name_lines(lines)})" if len(lines) > 1 else ""
        raise DataError(f"{bad[lines[0]]}{every}: mend them, or {template.setting}")
    for name, count in nulls.items():
        warnings.warn(f"{source}: null in the field {name!r} of {count} rows is read as empty text", stacklevel=3)
    return prompts


def _render(row: Row, template: PromptTemplate, where: str) -> tuple[str, tuple[int, int] | None]:
    rendered = template.render(row.fields, where)
    if not any(has_text(field_of(row.fields, name)) for name in template.fields):
        raise DataError(
            f"{where}: expected text in a field of the {template.noun}; got none in {quoted(template.fields)}"
        )
    return rendered


def _class_of_text(labels: Sequence[str]) -> dict[str, int]:
    """Class index by label text without the white space around it."""
    classes = {label.strip(): index for index, label in enumerate(labels)}
    if len(classes) < len(labels) or "" in classes:
        raise ConfigError(f"data.labels: expected words that differ in more than white space; got {list(labels)}")
    return classes


def _check_labels(
    rows: Sequence[Row],
    found: Sequence[str | None],
    classes: dict[str, int],
    label_field: str,
    required: bool,
    source: str,
) -> None:
    """Refuse unknown labels, and missing ones unless none is required and all are missing."""
    unknown = [row for row, label in zip(rows, found, strict=True) if label is not None and label not in classes]
    if unknown:
        first = unknown[0]
        raise DataError(
            f"{source}: expected in the field {label_field!r} one of [{quoted(classes)}]; got something else on "
            f"{name_lines([row.line for row in unknown])} (line {first.line}: {shown(first.fields[label_field])}): "
            "mend the rows or data.labels"
        )
    missing = [row for row, label in zip(rows, found, strict=True) if label is None]
    if missing and (required or len(missing) < len(rows)):
        raise no_label(missing, label_field, source)


def no_label(missing: Sequence[Row], label_field: str, source: str) -> DataError:
    """The error that names the rows without a label."""
    there = any(label_field in row.fields for row in missing)
    fields = missing[0].fields
    has = "" if there else f", which {'has' if len(missing) == 1 else 'have'} {quoted(fields)}{held_inside(fields)}"
    return DataError(
        f"{source}: expected a label in the field {label_field!r} of every row; got none on "
        f"{name_lines([row.line for row in missing])}{has}: add it, or set data.label_field"
    )


def shares_of(value: Mapping[str, Any], classes: Mapping[str, int]) -> tuple[float, ...]:
    """Counts or shares by label as shares that sum to 1, in class order; a label that is left out, or null, has none.

    Args:
        value: label -> number of annotators, or their share.
        classes: label text without white space around it -> class.

    Raises:
        BadRowError: a label is unknown or named twice, a value is no number of at least 0, or all are 0.

    Example:
        >>> shares_of({"good": 3, " bad": 1}, {"bad": 0, "good": 1})
        (0.25, 0.75)
    """
    found = [0.0] * len(classes)
    value = {name: number for name, number in value.items() if number is not None}
    names = [str(name).strip() for name in value]
    for name, number in zip(names, value.values(), strict=True):
        if name not in classes:
            raise BadRowError(f"the label {shown(name)}, which is none of {quoted(classes)}")
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < math.inf:
            raise BadRowError(f"{shown(number)} for {shown(name)}, which is no number of at least 0")
        found[classes[name]] = float(number)
    if len(set(names)) < len(names):
        raise BadRowError(f"a label twice in {quoted(names)}")
    if not (total := sum(found)):
        raise BadRowError("no label with a share above 0")
    return tuple(number / total for number in found)
