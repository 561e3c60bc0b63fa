"""JSON lines to a file or to standard output, and words for the user beside them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from blob_pyro.errors import DataError


def check_lines_output(output: str | None, *inputs: str | None) -> None:
    """Raise unless lines can be written to `output` without losing an input, before anything is predicted."""
    if output is None:
        return
    if Path(output).resolve() in [Path(file).resolve() for file in inputs if file is not None]:
        raise DataError(f"--output: expected another file than the input; got {output} for both")
    if not Path(output).resolve().parent.is_dir():
        raise DataError(f"--output: expected a file in a folder that exists; got {output}")


def write_lines(rows: Iterable[Mapping[str, Any]], output: str | None) -> None:
    """One JSON object a line, to standard output for None."""
    encoding = sys.stdout.encoding if output is None else "utf-8"
    lines = "".join(json_line(row, encoding) for row in rows)
    if output is None:
        sys.stdout.write(lines)
        return
    try:
        Path(output).write_text(lines, encoding="utf-8")
    except OSError as error:
        raise DataError(f"--output: expected a file to write to; got {output}: {error.strerror}") from error


def say_aside(line: str) -> None:
    """To standard error, since standard output holds the rows."""
    print(line, file=sys.stderr)


def json_line(row: Mapping[str, Any], encoding: str) -> str:
    """One line of JSON, with escapes only where the characters cannot be written as they are."""
    line = json.dumps(row, ensure_ascii=False)
    try:
        line.encode(encoding)
    except UnicodeEncodeError:
        line = json.dumps(row)
    return line + "\n"
