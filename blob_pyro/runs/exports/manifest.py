"""manifest.json: what an exported folder is, how to use it, and the digest of each of its files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from blob_pyro.errors import RunDirectoryError
from blob_pyro.system.files import digest, read_object, strict_json, write_whole

MANIFEST, FORMAT, VERSION = "manifest.json", "blob_pyro.export", 1


def write_manifest(folder: Path, entries: Mapping[str, Any]) -> None:
    """Describe a folder that holds all of its files.

    Args:
        folder: the exported folder.
        entries: what is said beside format, version and digests.
    """
    files = {name: digest(folder / name) for name in _files(folder)}
    manifest = {"format": FORMAT, "version": VERSION, **entries, "sha256": files}
    write_whole(folder / MANIFEST, strict_json(manifest, indent=2) + "\n")


def check_manifest(folder: str | Path) -> dict[str, Any]:
    """The manifest of an exported folder whose files are those that were exported; others may lie beside them.

    Raises:
        RunDirectoryError: it is no exported folder, a file is missing or altered, or another version wrote it.
    """
    path = Path(folder)
    file = path / MANIFEST
    if not file.is_file():
        raise RunDirectoryError(f"{path}: expected an exported folder with {MANIFEST}; it is not there; check the path")
    try:
        manifest = read_object(file)
    except (OSError, ValueError, TypeError) as error:
        raise RunDirectoryError(f"{file}: expected the manifest of an export; it cannot be read: {error}") from error
    digests = manifest.get("sha256")
    if (manifest.get("format"), manifest.get("version")) != (FORMAT, VERSION) or not isinstance(digests, dict):
        raise RunDirectoryError(f"{file}: expected {FORMAT} version {VERSION} with digests; got another version")
    present = set(_files(path))
    for name, written in digests.items():
        # a name is compared with those of the folder, never opened as it stands
        if name not in present or digest(path / name) != written:
            why = "it was altered" if name in present else "it is not there"
            raise RunDirectoryError(f"{path}: expected the file {name} as it was exported; {why}; export the run again")
    return manifest


def _files(folder: Path) -> list[str]:
    files = (file.relative_to(folder) for file in folder.rglob("*") if file.is_file() and not file.is_symlink())
    return sorted(file.as_posix() for file in files if file.as_posix() != MANIFEST and not _hidden(file))


def _hidden(file: Path) -> bool:
    """Whether it lies in a hidden folder: git and the hub's client keep their own there."""
    return any(part.startswith(".") for part in file.parts)
