"""Reads Parquet files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blob_pyro.data.rows.contents import MAX_MEGABYTES, read_bytes
from blob_pyro.data.rows.row import Row, as_written, json_value
from blob_pyro.data.rows.wording import bad_lines, shown
from blob_pyro.errors import DataError
from blob_pyro.system.hub_errors import one_line

PARQUET = "Parquet"
"""What such a file is, for messages."""

_FEWEST, _MOST = 32, 1024  # rows in a batch


def read_parquet(path: str | Path) -> list[Row]:
    """Read a Parquet file; `Row.line` counts its rows from 1.

    Values come as JSON has them (`blob_pyro.data.rows.row`): dates and decimals are text, structs are objects.

    Raises:
        DataError: the file is missing, a folder, not Parquet, damaged or without any row; two columns have one name; or
            rows hold text that is not UTF-8 or dates that Python does not have: then every bad row is counted.
    """
    path = Path(path)
    return parquet_rows(path, read_bytes(path, PARQUET), MAX_MEGABYTES)


def parquet_rows(path: Path, data: bytes, max_megabytes: int) -> list[Row]:
    """The rows in the bytes of a Parquet file of at most so many MB (10^6 bytes), unpacked (see `read_parquet`)."""
    table = _table(path, data, max_megabytes)
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


def _table(path: Path, data: bytes, max_megabytes: int) -> Any:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        parts, size = [], 0
        # a few bytes may stand for any number of values; without Arrow's threads, since a process that ends soon after
        # their start is aborted by them now and then
        for part in file.iter_batches(_batch_rows(file.metadata, max_megabytes), use_threads=False):
            parts.append(part)
            if (size := size + part.nbytes) > max_megabytes * 10**6:
                raise DataError(
                    f"{path}: expected a Parquet file of at most {max_megabytes:,} MB unpacked; got more: "
                    "set data.max_megabytes where it is meant"
                )
        return pa.Table.from_batches(parts, file.schema_arrow)
    except DataError:
        raise
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise DataError(
            f"{path}: expected a whole Parquet file; it cannot be read ({one_line(error)}): write it anew"
        ) from error


def _batch_rows(metadata: Any, max_megabytes: int) -> int:
    """Rows that are hardly larger than the limit even where each has the largest value that a column can hold."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    chunks = [group.column(i).total_uncompressed_size for group in groups for i in range(group.num_columns)]
    return max(_FEWEST, min(_MOST, max_megabytes * 10**6 // max([1, *chunks])))


def _values(column: Any, name: str, bad: dict[int, str]) -> list[Any]:
    """The column's values; what cannot be read is added to `bad`."""
    try:
        return [json_value(as_written(value, column.type)) for value in column.to_pylist()]
    except (ValueError, OverflowError):  # text that is not UTF-8 is a ValueError too
        return [_value(scalar, name, row, bad) for row, scalar in enumerate(column, start=1)]


def _value(scalar: Any, name: str, row: int, bad: dict[int, str]) -> Any:
    try:
        return json_value(as_written(scalar.as_py(), scalar.type))
    except UnicodeDecodeError:
        bad.setdefault(row, f"text that is not UTF-8 in {shown(name)}")
    except (ValueError, OverflowError) as error:
        bad.setdefault(row, f"no readable value in {shown(name)}: {error}")
    return None
