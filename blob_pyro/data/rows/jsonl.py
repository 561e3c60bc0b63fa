"""Reads JSON-lines files, and files that are one JSON array."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blob_pyro.data.rows.contents import as_utf8, not_utf8, read_bytes, wide_encoding
from blob_pyro.data.rows.row import Row
from blob_pyro.data.rows.wording import bad_lines, lists_of_objects, quoted
from blob_pyro.errors import DataError
from blob_pyro.system.files import parse_json

LINES = "JSON-lines"
"""What such a file is, for messages."""


def read_jsonl(path: str | Path) -> list[Row]:
    """Read a UTF-8 file of JSON objects, one a line; a name that ends in .gz is unpacked. Blank lines are skipped.

    Raises:
        DataError: the file is missing, a folder, unreadable or without any row, or a line is not a JSON object in
            UTF-8; then every bad line is counted and nothing is returned.
    """
    path = Path(path)
    return line_rows(path, as_utf8(path, read_bytes(path, LINES), None))


def line_rows(path: Path, data: bytes) -> list[Row]:
    """The rows in the bytes of a file of JSON objects, one a line.

    Raises:
        DataError: as `read_jsonl`.
    """
    rows: list[Row] = []
    bad: dict[int, str] = {}
    # Bytes, not text: a line that is not UTF-8 can then be named, and U+2028 inside a string splits nothing.
    for line, raw in enumerate(data.split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            rows.append(Row(line, _parse_object(raw)))
        except UnicodeDecodeError:
            bad[line] = not_utf8(data)
        except ValueError as error:
            bad[line] = str(error)
    if bad and wide_encoding(data):
        bad[min(bad)] = not_utf8(data)
    if bad:
        array = ": name a file that is one JSON array .json" if data.lstrip().startswith(b"[") else ""
        raise DataError(f"{bad_lines(path, 'one JSON object a line, in UTF-8', bad)}{array}")
    if not rows:
        raise DataError(f"{path}: expected at least one row; got an empty file: put one JSON object on each line")
    return rows


def json_rows(path: Path, data: bytes) -> list[Row]:
    """The rows in the bytes of a file of JSON: objects, one a line, or one array of them, which are counted from 1.

    Raises:
        DataError: as `read_jsonl`; or it is an object that holds the items, and the message says how to take them out.
    """
    try:
        whole = parse_json(data.decode("utf-8"), unique=True)
    except ValueError:  # several lines, or not right: the lines are named
        if not data.lstrip().startswith(b"["):
            return line_rows(path, data)
        return _refused_array(path, data)
    if isinstance(whole, list):
        return _items(path, whole)
    if isinstance(whole, dict) and data.strip().count(b"\n") and (lists := lists_of_objects(whole)):
        raise DataError(
            f"{path}: expected a JSON array of items, or one object a line; got one object, which holds them in "
            f"{quoted(lists)}: take them out, with jq '.{lists[0]}' {path.name} > items.json, say"
        )
    if isinstance(whole, dict) and _is_columns(whole):
        raise DataError(
            f"{path}: expected an object for each item; got one of columns, {quoted(whole)}: write a data frame with "
            "to_json(FILE, orient='records')"
        )
    return line_rows(path, data)


def _is_columns(whole: Mapping[str, Any]) -> bool:
    """Whether an object holds the columns of a table: two or more of the same positions."""
    columns = list(whole.values())
    if len(columns) < 2:
        return False
    if all(isinstance(column, dict) for column in columns):
        return bool(columns[0]) and all(column.keys() == columns[0].keys() for column in columns)
    return all(isinstance(column, list) and len(column) == len(columns[0]) > 1 for column in columns)


def _items(path: Path, items: list[Any]) -> list[Row]:
    bad = {
        number: f"a {type(item).__name__}, not an object"
        for number, item in enumerate(items, start=1)
        if not isinstance(item, dict)
    }
    if bad:
        raise bad_lines(path, "an array of JSON objects, counted like lines", bad)
    if not items:
        raise DataError(f"{path}: expected at least one row; got an empty array: put one JSON object in it for each")
    return [Row(number, item) for number, item in enumerate(items, start=1)]


def _refused_array(path: Path, data: bytes) -> list[Row]:
    """Say where what begins like an array is no JSON; lines of lists are named as lines."""
    try:
        parse_json(data.decode("utf-8"), unique=True)
    except json.JSONDecodeError as error:
        if "Extra data" not in error.msg:
            raise DataError(
                f"{path}: expected a JSON array of objects; got {error.msg} at line {error.lineno}, column "
                f"{error.colno}: mend it"
            ) from error
    except UnicodeDecodeError:
        pass
    except ValueError as error:  # a key twice, NaN
        raise DataError(f"{path}: expected a JSON array of objects; got something else: {error}: mend it") from error
    return line_rows(path, data)


def _parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object on a line; a ValueError says in a few words why there is none."""
    try:
        # Editors on Windows put a byte-order mark in front of the first line.
        value = parse_json(raw.decode("utf-8").lstrip("\ufeff"), unique=True)
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at column {error.colno}") from error
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__}, not an object")
    return value
