"""JSON files that are read strictly: an object, of finite numbers, not nested without end."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


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
