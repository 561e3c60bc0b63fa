"""Reads JSON-lines files."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from blob_pyro.data.rows.row import Row, read_bytes
from blob_pyro.data.rows.wording import bad_lines, shown
from blob_pyro.errors import DataError


def read_jsonl(path: str | Path) -> list[Row]:
    """Read a UTF-8 file of JSON objects, one a line; a name that ends in .gz is unpacked. Blank lines are skipped.

    Raises:
        DataError: the file is missing, a folder, unreadable or without any row, or a line is not a JSON object in
            UTF-8; then every bad line is counted and nothing is returned.
    """
    path = Path(path)
    rows: list[Row] = []
    bad: dict[int, str] = {}
    # Bytes, not text: a line that is not UTF-8 can then be named, and U+2028 inside a string splits nothing.
    for line, raw in enumerate(read_bytes(path, "JSON-lines").split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            rows.append(Row(line, _parse_object(raw)))
        except ValueError as error:
            bad[line] = str(error)
    if bad:
        raise bad_lines(path, "one JSON object a line, in UTF-8", bad)
    if not rows:
        raise DataError(f"{path}: expected at least one row; got an empty file: put one JSON object on each line")
    return rows


def _parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object on a line; a ValueError says in a few words why there is none."""
    try:
        # Editors on Windows put a byte-order mark in front of the first line.
        value = _DECODER.decode(raw.decode("utf-8").lstrip("\ufeff"))
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at column {error.colno}") from error
    except RecursionError:
        raise ValueError("brackets nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__}, not an object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, none of whose keys may come twice: json would keep the last of them without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {shown(twice)} twice")
    return found


def _no_number(word: str) -> float:
    """NaN and Infinity, which Python writes and JSON does not have."""
    raise ValueError(f"{word}, which is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number too large")
    return value


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # beyond some thousand digits, where Python refuses
        raise ValueError("a number too large") from None


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number, parse_float=_finite, parse_int=_whole)
