"""Values of a row's fields: nested ones by their path, labels as text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from datetime import datetime, time
from decimal import Decimal
from typing import Any

from blob_pyro.data.rows.row import Row
from blob_pyro.system.files import parse_json

_MOST_DIGITS = 100  # in a number; a longer text is none


def from_cell(value: Any) -> Any:
    """The list or object whose JSON a text is, as in a cell of CSV or TSV; any other value itself.

    Example:
        >>> from_cell('["a", "b"]'), from_cell("ab"), from_cell([1])
        (['a', 'b'], 'ab', [1])
    """
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        return parse_json(value, finite=False)
    except ValueError:
        return value


def field_of(fields: Mapping[str, Any], name: str) -> Any:
    """The value of a field; of "meta.title" that of the field so called, or of title in the object meta.

    A position counted from 0 names a part of a list. What is null or empty has null inside.

    Args:
        fields: of a row.
        name: of the field, or the path to it.

    Raises:
        KeyError: there is none.

    Example:
        >>> row = {"meta": {"title": "Tea", "tags": ["a", "b"]}, "a.b": 1, "more": None}
        >>> [field_of(row, name) for name in ("meta.title", "meta.tags.1", "a.b", "more.x")]
        ['Tea', 'b', 1, None]
    """
    if name in fields or "." not in name:
        return fields[name]
    value: Any = fields
    for part in name.split("."):
        value = from_cell(value)
        if value is None or value == "":
            return None
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise KeyError(name)
    return value


def lifted(rows: Iterable[Row], names: Iterable[str | None]) -> list[Row]:
    """The rows with the values of nested fields at their paths ("meta.label"), where they are there.

    Args:
        rows: raw items.
        names: of fields; None stands for none.
    """
    paths = [name for name in names if name is not None and "." in name]
    return [Row(row.line, {**row.fields, **_found(row.fields, paths)}) for row in rows] if paths else list(rows)


def _found(fields: Mapping[str, Any], paths: Iterable[str]) -> dict[str, Any]:
    found = {}
    for path in paths:
        try:
            found[path] = field_of(fields, path)
        except KeyError:
            continue
    return found


def has_text(value: Any) -> bool:
    """Whether there is something to read in a value: not null, not white space alone."""
    return value is not None and bool(str(value).strip())


def label_text(value: Any) -> str | None:
    """A label as the text that is compared, the same for what each file format makes of it; None for no label.

    A whole number that is stored as a float (a column of pandas with a gap) is written as one, however many zeros stand
    behind its point, and a moment as in ISO 8601, midnight as its day.

    Example:
        >>> label_text(" good "), label_text(1), label_text(True), label_text("")
        ('good', '1', 'True', None)
        >>> label_text(1.0), label_text("1.00"), label_text("1.10"), label_text("2024-02-29 00:00:00")
        ('1', '1', '1.10', '2024-02-29')
    """
    text = "" if value is None else str(value).strip()
    number = float_of(value)
    if number is not None and number.is_integer():
        return str(int(number))
    if re.fullmatch(r"-?(0|[1-9][0-9]*)\.0*", text):
        return text.partition(".")[0].replace("-0", "0")
    if len(text) > 10 and text[4:5] == text[7:8] == "-" and text[10] in " T":
        return _moment(text)
    return text or None


def float_of(value: Any) -> float | None:
    """The number that a float is, or a text that is exactly as Python writes one; None for anything else.

    Example:
        >>> float_of(0.5), float_of("0.5"), float_of("1e+20"), float_of("1.50"), float_of("1"), float_of("nan")
        (0.5, 0.5, 1e+20, None, None, None)
    """
    if isinstance(value, str):
        text = value.strip()
        try:
            number = float(text)
        except ValueError:
            return None
        return number if repr(number) == text and math.isfinite(number) else None
    return value if isinstance(value, float) and math.isfinite(value) else None


def same_number(text: str) -> Decimal | None:
    """The number that a text spells in digits, in any of its spellings, for comparison; None for any other text.

    Example:
        >>> same_number("0.50") == same_number(".5") == same_number("5e-1"), same_number("1_0"), same_number("ten")
        (True, None, None)
    """
    if len(text) > _MOST_DIGITS or not re.fullmatch(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]{1,4})?", text):
        return None
    return Decimal(text)


def _moment(text: str) -> str:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return text
    midnight = moment.time() == time() and moment.tzinfo is None
    return moment.date().isoformat() if midnight else moment.isoformat()
