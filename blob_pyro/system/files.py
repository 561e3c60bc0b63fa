"""Files: written whole or not at all, JSON read strictly, digests."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from blob_pyro.errors import RunDirectoryError


def read_object(file: Path, *, finite: bool = True) -> dict[str, Any]:
    """The JSON object of a file.

    Args:
        file: its path.
        finite: refuse numbers that are not finite; Python writes and reads NaN and Infinity, which JSON has not got.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no JSON in UTF-8, holds a number that is not finite, or is nested too deeply.
        TypeError: it is something else than an object.
    """
    if not file.is_file():  # a pipe would wait for a writer
        raise FileNotFoundError(f"{file.name} is not there")
    text = file.read_text(encoding="utf-8")
    try:
        found = json.loads(text, parse_constant=_refuse, parse_float=_finite) if finite else json.loads(text)
    except RecursionError as error:
        raise ValueError("brackets are nested too deeply") from error
    if not isinstance(found, dict):
        raise TypeError(f"expected a JSON object; got a {type(found).__name__}")
    return found


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{digits[:20]} is too large")
    return number


def _write_whole(path: Path, text: str) -> None:
    """A file that is there whole or not at all, also where the process is killed meanwhile."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def digest(file: Path) -> str:
    """Of a file's bytes, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def refuse_used_folder(path: Path) -> None:
    """Check that a new folder can be made at `path`.

    Raises:
        RunDirectoryError: it is a file, or a folder with anything in it: nothing is ever overwritten.
    """
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise RunDirectoryError(f"{path}: expected a folder to write to; got something else; choose another --output")
    if path.is_dir() and any(path.iterdir()):
        raise RunDirectoryError(
            f"{path}: expected a new or an empty folder; it holds files; choose another --output, or delete it"
        )


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which gets its name `path` when the block ends without an error; else nothing is left.

    Raises:
        RunDirectoryError: `path` is used, or cannot be written.
    """
    refuse_used_folder(path)
    made = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise RunDirectoryError(f"{path}: expected a folder to write to; {error.strerror or error}") from error
    try:
        yield partial
        partial.chmod(0o777 & ~_umask())  # mkdtemp's is for the user alone
        os.replace(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        for parent in made:
            with contextlib.suppress(OSError):  # filled by now
                parent.rmdir()


def _umask() -> int:
    """The process' umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
