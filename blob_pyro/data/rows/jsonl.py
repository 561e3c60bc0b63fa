"""Reads JSON-lines files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from blob_pyro.data.rows.row import Row, read_bytes
from blob_pyro.data.rows.wording import bad_lines
from blob_pyro.errors import DataError
from blob_pyro.system.files import parse_json


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
        value = parse_json(raw.decode("utf-8").lstrip("\ufeff"), unique=True)
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at column {error.colno}") from error
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__}, not an object")
    return value
