"""A new folder that is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from blob_pyro.errors import RunDirectoryError


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
