"""SHA-256 of files: whether they are as they were written."""

from __future__ import annotations

import hashlib
from pathlib import Path


def digest(file: Path) -> str:
    """Of a file's bytes, in hexadecimal digits."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
