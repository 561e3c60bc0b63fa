"""What a file of items holds: its bytes within bounds, and text of any encoding as UTF-8."""

from __future__ import annotations

import codecs
import re
import warnings
import zlib
from pathlib import Path

from blob_pyro.errors import DataError
from blob_pyro.system.bounded import OutOfBoundsError, bytes_within

MAX_MEGABYTES = 1000
"""Largest file, packed and unpacked, in MB (10^6 bytes): data.max_megabytes where nobody sets it."""


def read_bytes(path: Path, kind: str, max_megabytes: int = MAX_MEGABYTES) -> bytes:
    """The bytes of a file; those of a name that ends in .gz are unpacked.

    Args:
        path: the file, or a pipe, which is read once.
        kind: what it should be, for messages ("CSV").
        max_megabytes: most MB (10^6 bytes), packed and unpacked.

    Raises:
        DataError: the file is missing, a folder, a device, unreadable, larger, a pipe that was read before or that
            nobody writes to, or a packed file that is damaged.
    """
    if path.is_dir():
        raise DataError(f"{path}: expected a {kind} file; got a folder: name a file in it, or one of save_to_disk")
    if not path.exists():
        raise DataError(f"{path}: expected a {kind} file; there is none: check the path")
    try:
        content = bytes_within(path, max_megabytes * 10**6)
    except OutOfBoundsError as error:
        cure = "set data.max_megabytes where it is meant" if "MB" in str(error) else "name a file"
        raise DataError(f"{path}: expected a {kind} file; got {error}: {cure}") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: expected a readable file; got {error}: check its rights and that it is whole"
        ) from error
    if not content and not path.is_file():
        raise DataError(
            f"{path}: expected a {kind} file; got a pipe with nothing in it, or nothing left, for it is read once: "
            "write a file, and name that"
        )
    return content


def as_utf8(path: Path, data: bytes, encoding: str | None) -> bytes:
    """The same text in UTF-8, without a byte-order mark.

    Text that is UTF-8 and not plain ASCII is no other: what Python would read as another encoding without an error
    would be other characters. A warning tells that it was read as UTF-8.

    Args:
        path: its file, for messages.
        data: text.
        encoding: Python's name of its encoding; None takes UTF-8, and leaves bytes that are not to the reader.

    Raises:
        DataError: the bytes are of another encoding.
    """
    if encoding is None or codecs.lookup(encoding).name in ("utf-8", "utf-8-sig"):
        return data.removeprefix(codecs.BOM_UTF8)
    if _is_utf8(data):
        warnings.warn(f"{path}: read as UTF-8, which it is, and not as {encoding} (data.encoding)", stacklevel=2)
        return data.removeprefix(codecs.BOM_UTF8)
    wide = wide_encoding(data) or encoding
    if codecs.lookup(encoding).name == "utf-16" and wide.startswith("utf-16-"):  # without a byte-order mark
        encoding = wide
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
        _warn_of_controls(path, text, encoding)
        return text.encode()
    except UnicodeError as error:  # of a lone half of a surrogate pair, too
        where = f" at byte {error.start}" if isinstance(error, UnicodeDecodeError) else ""
        raise DataError(
            f"{path}: expected text in {encoding} (data.encoding); got other bytes{where}: name its encoding"
        ) from error


def _warn_of_controls(path: Path, text: str, encoding: str) -> None:
    """Tell where text of an ISO 8859 has control characters, which it hardly ever means."""
    if codecs.lookup(encoding).name.startswith("iso8859") and (found := re.search("[\x80-\x9f]", text)):
        warnings.warn(
            f"{path}: read as {encoding} (data.encoding), it has control characters ({found[0]!r}): where quotes or "
            "dashes were meant, name cp1252",
            stacklevel=3,
        )


def _is_utf8(data: bytes) -> bool:
    """Whether bytes are UTF-8 and have a character in it that is not ASCII."""
    try:
        return not data.isascii() and bool(data.decode())
    except UnicodeDecodeError:
        return False


def not_utf8(data: bytes) -> str:
    """What is wrong with a line of text that is not UTF-8, and how it is read, for messages.

    Example:
        >>> not_utf8("für".encode("cp1252"))
        'not UTF-8: set data.encoding (cp1252 or latin-1, say), or save it as UTF-8'
        >>> not_utf8("für".encode("utf-16"))
        'not UTF-8 but UTF-16: set data.encoding to utf-16, or save it as UTF-8'
    """
    if name := wide_encoding(data):
        return f"not UTF-8 but {name.upper()}: set data.encoding to {name}, or save it as UTF-8"
    return "not UTF-8: set data.encoding (cp1252 or latin-1, say), or save it as UTF-8"


def wide_encoding(data: bytes) -> str | None:
    """The encoding of two or four bytes a character that text is in by all appearance, or None."""
    start = data[:1000]
    if start.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return "utf-32"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    even, odd = start[::2].count(0), start[1::2].count(0)  # of what is mostly ASCII every other byte
    if 4 * max(even, odd) <= len(start):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"
