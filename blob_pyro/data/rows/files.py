"""One reader for all files of items: the format is told by the name's ending."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from blob_pyro.data.rows.csv_file import read_csv, read_tsv
from blob_pyro.data.rows.jsonl import read_jsonl
from blob_pyro.data.rows.parquet_file import read_parquet
from blob_pyro.data.rows.row import Row
from blob_pyro.errors import DataError

# A name without an ending may be a pipe (/dev/stdin), which carries JSON lines.
_READERS: dict[str, Callable[[Path], list[Row]]] = {
    "": read_jsonl,
    ".json": read_jsonl,
    ".jsonl": read_jsonl,
    ".ndjson": read_jsonl,
    ".csv": read_csv,
    ".tsv": read_tsv,
    ".parquet": read_parquet,
}
SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
"""The endings to give a file; .json and .ndjson (also .gz) are read as JSON lines too."""


def read_rows(path: str | Path) -> list[Row]:
    """Read a file of items by its ending: .jsonl, .csv, .tsv (also .gz) or .parquet; without an ending JSON lines.

    Raises:
        DataError: the ending is another, or the file is not right (see `read_jsonl`, `read_csv`, `read_tsv`,
            `read_parquet`); then nothing is returned.
    """
    path = Path(path)
    packed = path.suffix.lower() == ".gz"
    ending = Path(path.stem).suffix.lower() if packed else path.suffix.lower()
    if packed and ending == ".parquet":
        raise DataError(f"{path}: expected .parquet without .gz, for Parquet is packed already; unpack it")
    if ending not in _READERS:
        known = f"{', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}"
        raise DataError(f"{path}: expected a name that ends in {known}; got {ending!r}: convert or rename the file")
    return _READERS[ending](path)
