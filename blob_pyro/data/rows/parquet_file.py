"""Reads Parquet files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from blob_pyro.data.rows.row import Row, json_value, read_bytes
from blob_pyro.data.rows.wording import bad_lines, shown
from blob_pyro.errors import DataError
from blob_pyro.system.hub_errors import one_line


def read_parquet(path: str | Path) -> list[Row]:
    """Read a Parquet file; `Row.line` counts its rows from 1.

    Values come as JSON has them (`blob_pyro.data.rows.row`): dates and decimals are text, structs are objects.

    Raises:
        DataError: the file is missing, a folder, not Parquet, damaged or without any row; two columns have one name; or
            rows hold text that is not UTF-8 or dates that Python does not have: then every bad row is counted.
    """
    path = Path(path)
    table = _table(path)
    twice = [name for position, name in enumerate(table.column_names) if name in table.column_names[:position]]
    if twice:
        raise DataError(f"{path}: expected a name of its own for each column; got {shown(twice[0])} twice: rename one")
    bad: dict[int, str] = {}
    columns = {name: _values(table.column(name), name, bad) for name in table.column_names}
    if bad:
        raise bad_lines(path, "values that can be read", bad)
    rows = [
        Row(number, dict(zip(columns, values, strict=True)))
        for number, values in enumerate(zip(*columns.values(), strict=True), start=1)
    ]
    if not rows:
        raise DataError(f"{path}: expected at least one row; got none: put one item on each row")
    return rows


def _table(path: Path) -> Any:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    data = read_bytes(path, "Parquet")
    try:
        return pq.ParquetFile(pa.BufferReader(data)).read()
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path}: expected a whole Parquet file; it cannot be read ({one_line(error)}): write it anew"
        ) from error


def _values(column: Any, name: str, bad: dict[int, str]) -> list[Any]:
    """The column's values; what cannot be read is added to `bad`."""
    try:
        return [json_value(value) for value in column.to_pylist()]
    except (ValueError, OverflowError):  # text that is not UTF-8 is a ValueError too
        return [_value(scalar.as_py, name, row, bad) for row, scalar in enumerate(column, start=1)]


def _value(read: Callable[[], Any], name: str, row: int, bad: dict[int, str]) -> Any:
    try:
        return json_value(read())
    except UnicodeDecodeError:
        bad.setdefault(row, f"text that is not UTF-8 in {shown(name)}")
    except (ValueError, OverflowError) as error:
        bad.setdefault(row, f"no readable value in {shown(name)}: {error}")
    return None
