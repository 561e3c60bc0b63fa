"""From raw rows to examples: fields made ready for a prompt, prompts rendered, labels looked up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from blob_pyro.data.examples import Example
from blob_pyro.data.formats import BadRowError
from blob_pyro.data.prompts import PromptTemplate
from blob_pyro.data.sources import Row, name_lines
from blob_pyro.errors import ConfigError, DataError


def prepare_rows(rows: Sequence[Row], prepare: Callable[[Mapping[str, Any]], dict[str, Any]], source: str) -> list[Row]:
    """Bring rows of a data set's own format into the fields of a prompt.

    Args:
        rows: raw items.
        prepare: makes the new fields of one item; one of `blob_pyro.data.formats`.
        source: name of the file, for messages.

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
        lines = sorted(bad)
        raise DataError(
            f"{source}: expected rows with the fields of the official copy; got something else on {name_lines(lines)} "
            f"(line {lines[0]}: {bad[lines[0]]}): mend or delete them"
        )
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
