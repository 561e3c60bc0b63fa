"""`Row`: one raw item of a file, and values of typed files as those that JSON has words for."""

from __future__ import annotations

import base64
import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One raw item of a file.

    Attributes:
        line: line number in its file, counted from 1; messages name the item by it.
        fields: the item's fields by name.
    """

    line: int
    fields: dict[str, Any]


def json_value(value: Any) -> Any:
    """The value itself where JSON has it; else as text, or null for NaN, which stands for a missing number.

    Dates and times are written in ISO 8601, bytes as the text that they are in UTF-8 or else in base64.

    Example:
        >>> json_value({"day": datetime.date(2024, 2, 29), "score": float("nan"), "tags": ("a", b"b")})
        {'day': '2024-02-29', 'score': None, 'tags': ['a', 'b']}
    """
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return None if math.isnan(value) else value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {str(name): json_value(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [json_value(part) for part in value]
    if isinstance(value, bytes):
        return _text_of(value)
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)


def _text_of(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return base64.b64encode(data).decode("ascii")
