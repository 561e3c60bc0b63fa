"""Files: written whole or not at all, JSON read strictly, digests."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from blob_pyro.errors import DiskFullError, RunDirectoryError
from blob_pyro.system.printing import is_text

MAX_OBJECT_BYTES = 100 * 10**6
"""Largest file that is read as one JSON object."""


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
    if file.stat().st_size > MAX_OBJECT_BYTES:
        raise ValueError(f"{file.name} has more than {MAX_OBJECT_BYTES / 10**6:g} MB")
    value = parse_json(file.read_text(encoding="utf-8"), finite=finite)
    if not isinstance(value, dict):
        raise TypeError(f"expected a JSON object; got a {type(value).__name__}")
    return value


def parse_json(text: str, *, finite: bool = True, unique: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: one value.
        finite: refuse numbers that are not finite; Python writes and reads NaN and Infinity, which JSON has not got.
        unique: refuse a key that an object has twice, of which Python keeps the last without a word.

    Raises:
        ValueError: it is no JSON, or holds what is refused, or is nested too deeply.
    """
    refuse: dict[str, Any] = {}
    if finite:
        refuse |= {"parse_constant": _no_number, "parse_float": _finite, "parse_int": _whole}
    if unique:
        refuse |= {"object_pairs_hook": _unique}
    try:
        return json.loads(text, **refuse)
    except RecursionError as error:
        raise ValueError("brackets are nested too deeply") from error


def strict_json(value: Any, **options: Any) -> str:
    """As `json.dumps`; null stands for a number that is not finite, which JSON has not got.

    Example:
        >>> strict_json({"nll": 0.5, "nll_se": math.nan})
        '{"nll": 0.5, "nll_se": null}'
    """
    return json.dumps(_or_null(value), allow_nan=False, **options)


def _or_null(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _or_null(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_or_null(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _no_number(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _finite(digits: str) -> float:
    if not math.isfinite(number := float(digits)):
        raise ValueError(f"{digits[:20]} is too large")
    return number


def _whole(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:  # beyond some thousand digits, where Python refuses
        raise ValueError(f"{digits[:20]}... is too large") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice[:80]!r} is there twice")
    return value


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def want_of_room(error: BaseException) -> str | None:
    """What the system says where an error is a full disk's, a quota's or a file size's; None where it is none."""
    number = getattr(error, "errno", None)
    if number is None and (told := re.search(r"\(os error (\d+)\)", str(error))):  # what libraries in Rust say
        number = int(told[1])
    return os.strerror(number) if number in _FULL else None


@contextlib.contextmanager
def room_for(path: Path | str) -> Iterator[None]:
    """Writing inside says in a line what there is no room for, whichever library writes.

    Raises:
        DiskFullError: the disk is full, or a quota reached; it names `path`, and its strerror is the system's.
    """
    try:
        yield
    except Exception as error:
        why = error.strerror if isinstance(error, DiskFullError) else want_of_room(error)
        if why is None:
            raise
        full = DiskFullError(f"{path}: expected room to write it; {why}: make room, and start the same command again")
        full.strerror = why
        raise full from error


@contextlib.contextmanager
def new_file(path: Path, mark: str = "") -> Iterator[Path]:
    """A file to write, which gets its name `path` when the block ends without an error; else nothing of it is left.

    A process that is killed at any moment leaves the file that was there, or the new one whole.

    Args:
        path: of the file.
        mark: in the name that it has meanwhile. Processes that may write one file at once need one each: then the last
            counts, whole. Without, the next one writes over what a killed process has left.

    Raises:
        DiskFullError: there is no room for it.
    """
    partial = path.with_name(f".{path.name}{mark}.partial")
    try:
        with room_for(path):
            yield partial
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


@contextlib.contextmanager
def new_files(folder: Path) -> Iterator[Path]:
    """A folder to fill with files, which take the places of those of their names in `folder` when the block ends.

    All are written before the first is renamed, in the order in which they were written; where the block ends with an
    error none is. One process at a time.

    Raises:
        DiskFullError: there is no room for them.
    """
    partial = folder / ".new"
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    try:
        with room_for(folder):
            partial.mkdir()
            yield partial
            for file in sorted(partial.iterdir(), key=lambda file: file.stat().st_mtime_ns):
                file.replace(folder / file.name)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


LONGEST_NAME = 237
"""Bytes in the longest name that `write_output` gives a file: while it is written, it has a longer one (of 255)."""


def write_output(path: Path, content: str | bytes) -> None:
    """`write_whole` of a file that nothing keeps other processes from, as what commands write beside runs."""
    _write(path, content, f".{secrets.token_hex(4)}")


def write_whole(path: Path, content: str | bytes) -> None:
    """A file of these bytes, or of this text in UTF-8, that is there whole or not at all (see `new_file`)."""
    _write(path, content, "")


def _write(path: Path, content: str | bytes, mark: str) -> None:
    with new_file(path, mark) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


_WRITING, WRITTEN = ".saving", ".saved"


@contextlib.contextmanager
def replaced_together(folder: Path) -> Iterator[Path]:
    """A folder to fill with files, which take the places of those of the same names in `folder` when the block ends.

    A process that is killed at any moment leaves all the old ones or all the new ones, where `together_in` says. They
    are written into a hidden folder that does not count, and count as soon as that has its other name; then they are
    copied to their places, and it is removed. What a killed process had still to copy is copied first.

    Args:
        folder: made where it is not there; other files in it stay. One process at a time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    writing = folder / _WRITING
    try:
        if writing.exists():
            shutil.rmtree(writing)
        end_replacing(folder)
        with room_for(folder):
            writing.mkdir()
            yield writing
            writing.rename(folder / WRITTEN)
            end_replacing(folder)
    finally:
        shutil.rmtree(writing, ignore_errors=True)


def replace_together_by(folder: Path, filled: Path) -> None:
    """Let the files of a whole folder take the places of those of the same names in `folder`, all or none of them.

    As by `replaced_together`: a process that is killed leaves the old ones or the new ones, where `file_in` says.

    Args:
        folder: where they go.
        filled: in the same file system; it is gone afterwards.
    """
    end_replacing(folder)
    filled.rename(folder / WRITTEN)
    end_replacing(folder)


def file_in(folder: Path, name: str) -> Path:
    """A file of a folder: what a killed process has still to copy to its place, or else the one in that place."""
    return folder / WRITTEN / name if (folder / WRITTEN / name).is_file() else folder / name


def together_in(folder: Path) -> Path:
    """Where the files are that were replaced together: in `folder`, or in what a killed process has left there."""
    return folder / WRITTEN if (folder / WRITTEN).is_dir() else folder


def end_replacing(folder: Path) -> None:
    """Copy to its place what a killed process has still to; nothing where that is done."""
    written = folder / WRITTEN
    if not written.is_dir():
        return
    for file in [entry for entry in written.rglob("*") if entry.is_file()]:
        place = folder / file.relative_to(written)
        place.parent.mkdir(parents=True, exist_ok=True)
        with new_file(place) as copy:
            shutil.copyfile(file, copy)
    written.rename(folder / _WRITING)
    shutil.rmtree(folder / _WRITING, ignore_errors=True)


def digest(file: Path) -> str:
    """Of a file's bytes, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def refuse_used_folder(path: Path) -> None:
    """Check that a new folder can be made at `path`.

    Raises:
        RunDirectoryError: it is a file, or a folder with anything in it: nothing is ever overwritten; or its name is
            not UTF-8, which safetensors cannot read.
    """
    if not is_text(str(path)):
        raise RunDirectoryError(f"{path}: expected a folder with a name in UTF-8; choose another --output")
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
        DiskFullError: there is no room for it.
    """
    refuse_used_folder(path)
    made = [parent for parent in path.parents if not parent.exists()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    except OSError as error:
        raise RunDirectoryError(f"{path}: expected a folder to write to; {error.strerror or error}") from error
    try:
        with room_for(path):
            yield partial
        partial.chmod(0o777 & ~_umask())  # mkdtemp's is for the user alone
        try:
            os.replace(partial, path)
        except OSError:
            refuse_used_folder(path)  # another process has filled it meanwhile
            raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        remove_empty(made)


def remove_empty(folders: Iterable[Path]) -> None:
    """Remove folders that have stayed empty, in this order."""
    for folder in folders:
        with contextlib.suppress(OSError):  # filled by now
            folder.rmdir()


def _umask() -> int:
    """The process' umask, which can only be read by setting it."""
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
