"""`Row`: one raw item of a file, and values of typed files as those that JSON has words for."""

from __future__ import annotations

import base64
import datetime
import decimal
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

    Dates and times are written in ISO 8601, decimals without an exponent, bytes as the text that they are in UTF-8 or
    else in base64.

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
    if isinstance(value, decimal.Decimal) and value.is_finite():
        return format(value, "f")
    return str(value)


def as_written(value: Any, kind: Any) -> Any:
    """A value of an Arrow type, in which a number of 32 or 16 bits is the one that a person would write.

    Read as a number of 64 bits, 0.1 in 32 is 0.10000000149011612. Numbers in a list stay as they are.

    Example:
        >>> import pyarrow as pa
        >>> as_written(pa.scalar(0.1, pa.float32()).as_py(), pa.float32())
        0.1
    """
    import pyarrow as pa  # type: ignore[import-untyped]

    if value is not None and (pa.types.is_float32(kind) or pa.types.is_float16(kind)):
        return float(str(kind.to_pandas_dtype()(value)))
    if value is not None and pa.types.is_struct(kind):
        return {field.name: as_written(value[field.name], field.type) for field in kind}
    return value


def _text_of(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return base64.b64encode(data).decode("ascii")
