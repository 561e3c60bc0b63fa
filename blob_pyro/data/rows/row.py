"""`Row`: one raw item of a file, the bytes of files, and values of typed ones as those that JSON has words for."""

from __future__ import annotations

import base64
import datetime
import gzip
import math
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blob_pyro.errors import DataError


@dataclass(frozen=True)
class Row:
    """One raw item of a file.

    Attributes:
        line: line number in its file, counted from 1; messages name the item by it.
        fields: the item's fields by name.
    """

    line: int
    fields: dict[str, Any]


def read_bytes(path: Path, kind: str) -> bytes:
    """The bytes of a file; those of a name that ends in .gz are unpacked.

    Args:
        path: the file.
        kind: what it should be, for messages ("CSV").

    Raises:
        DataError: the file is missing, a folder, unreadable, a pipe that was read before, or a packed file that is
            damaged.
    """
    if path.is_dir():
        raise DataError(f"{path}: expected a {kind} file; got a folder: name a file in it")
    if not path.exists():
        raise DataError(f"{path}: expected a {kind} file; there is none: check the path")
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as handle:
            content = handle.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: expected a readable file; got {error}: check its rights and that it is whole"
        ) from error
    if not content and not path.is_file():
        raise DataError(
            f"{path}: expected a {kind} file; got a pipe with nothing in it, or nothing left, for it is read once: "
            "write a file, and name that"
        )
    return content


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
