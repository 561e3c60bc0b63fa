"""One reader for all files of items: the format is told by the name's ending."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

from blob_pyro.data.rows.contents import MAX_MEGABYTES, as_utf8, read_bytes
from blob_pyro.data.rows.csv_file import csv_rows, tsv_rows
from blob_pyro.data.rows.jsonl import LINES, json_rows, line_rows
from blob_pyro.data.rows.parquet_file import PARQUET, parquet_rows
from blob_pyro.data.rows.row import Row
from blob_pyro.data.rows.saved import is_saved_dataset, read_saved
from blob_pyro.errors import DataError
from blob_pyro.system.hub_errors import one_line

# A name without an ending may be a pipe (/dev/stdin), which carries JSON.
_TEXTS: dict[str, tuple[str, Callable[[Path, bytes], list[Row]]]] = {
    "": (LINES, json_rows),
    ".json": ("JSON", json_rows),
    ".jsonl": (LINES, line_rows),
    ".ndjson": (LINES, line_rows),
    ".csv": ("CSV", csv_rows),
    ".tsv": ("TSV", tsv_rows),
}
SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
"""The endings to give a file; .json (also one array) and .ndjson (all also .gz) are read too."""


def refuse_address(name: str | Path) -> None:
    """Refuse the name of a file that lies elsewhere.

    Raises:
        DataError: it is an address.
    """
    if re.match("[A-Za-z][A-Za-z0-9+.-]+://", str(name)) and not os.path.exists(name):
        raise DataError(
            f"{one_line(str(name))}: expected the name of a file on this machine; got an address: download it, or name "
            "a data set of the hub in data.dataset"
        )


def read_rows(path: str | Path, *, encoding: str | None = None, max_megabytes: int = MAX_MEGABYTES) -> list[Row]:
    """Read a file of items by its ending: .jsonl, .json, .csv, .tsv (also .gz) or .parquet; without an ending JSON.

    A .json is one array of objects, or an object a line. A folder that `datasets.Dataset.save_to_disk` has written is
    read as well.

    Args:
        path: the file.
        encoding: Python's name of a text's encoding; None takes UTF-8, and text that is UTF-8 is no other.
        max_megabytes: most MB (10^6 bytes), packed and unpacked.

    Raises:
        DataError: the ending is another, the file is larger, a device or a pipe that nobody writes to, or it is not
            right (see `read_jsonl`, `read_csv`, `read_tsv`, `read_parquet`); then nothing is returned.
    """
    refuse_address(path)
    path = Path(path)
    if is_saved_dataset(path):
        return read_saved(path, max_megabytes)
    packed = path.suffix.lower() == ".gz"
    ending = Path(path.stem).suffix.lower() if packed else path.suffix.lower()
    if packed and ending == ".parquet":
        raise DataError(f"{path}: expected .parquet without .gz, for Parquet is packed already; unpack it")
    if ending == ".parquet":
        return parquet_rows(path, read_bytes(path, PARQUET, max_megabytes), max_megabytes)
    if ending not in _TEXTS:
        known = ", ".join(name for name in _TEXTS if name)
        raise DataError(
            f"{path}: expected a name that ends in {known} (all also with .gz) or .parquet, or a folder of "
            f"save_to_disk; got {ending!r}: convert or rename the file"
        )
    kind, rows = _TEXTS[ending]
    return rows(path, as_utf8(path, read_bytes(path, kind, max_megabytes), encoding))
