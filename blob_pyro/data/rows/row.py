"""`Row`: one raw item of a file, and the bytes of files."""

from __future__ import annotations

import gzip
import zlib
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
        DataError: the file is missing, a folder, unreadable, or a packed file that is damaged.
    """
    if path.is_dir():
        raise DataError(f"{path}: expected a {kind} file; got a folder: name a file in it")
    if not path.exists():
        raise DataError(f"{path}: expected a {kind} file; there is none: check the path")
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as handle:
            return handle.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: expected a readable file; got {error}: check its rights and that it is whole"
        ) from error
