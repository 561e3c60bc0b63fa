"""The single files that commands write: in the format that the name says, and never over what is not their own."""

from __future__ import annotations

import csv
import glob
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from blob_pyro.config.data import files_of
from blob_pyro.errors import DataError, DiskFullError
from blob_pyro.report.tables import csv_text
from blob_pyro.storage.directory import read_config, refuse_output
from blob_pyro.system.files import parse_json, room_for, strict_json, write_output
from blob_pyro.system.printing import escaped_json, tell, tell_aside

_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_ROWS = ("", ".jsonl", ".ndjson", ".json", ".txt", *_DELIMITERS)  # the endings of what `write_rows` writes
# What `predict` (of labels, of completions) and `acquire` add to rows, and what decisions add behind that.
_ADDED = (
    {"prediction", "probabilities", "confidence", "margin", "entropy", "mutual_information"},
    {"log_prob", "num_tokens", "perplexity", "entropy", "mutual_information"},
    {"line", "score"},
)
_DECIDED = {"answered", "set", "ood_p_value"}
_LONGEST_LINE = 10**7  # characters


def check_rows_output(output: str | None, run: str, *inputs: str | None) -> None:
    """Raise unless rows can be written at `output` without losing anything, before hours of work are lost on it.

    Args:
        output: the file; None is standard output.
        run: the run that answers; what it was trained and tested on is not written over.
        inputs: files that are read.
    """
    if output is None:
        return
    check_output(output, _ROWS, "JSON lines, or of a .csv or .tsv", _is_of_rows, inputs)
    data = read_config(run).data
    named = (*files_of(data.train_file), *files_of(data.test_file))
    _refuse_input(output, (file for name in named for file in (name, *glob.glob(name, recursive=True))))


def check_output(
    output: str,
    endings: Sequence[str],
    kind: str,
    is_former: Callable[[Path], bool],
    inputs: Iterable[str | None] = (),
) -> None:
    """Raise unless a file can be written at `output` without losing anything.

    Args:
        output: its name.
        endings: those that tell what is written.
        kind: what is written, in words.
        is_former: whether a file there is what the same command wrote, and may be replaced.
        inputs: files that are read.

    Raises:
        DataError: it is an input, a run's own, a folder, in a folder that is not there, of another ending, or a file
            that is not a former output.
    """
    file = Path(output)
    refuse_output(file)
    _refuse_input(output, (name for name in inputs if name is not None))
    if file.exists() and not file.is_file() and not file.is_block_device():  # a pipe, a terminal: it takes lines
        return
    if file.suffix.lower() not in endings:
        known = ", ".join(ending for ending in endings if ending)
        raise DataError(f"--output: expected the name of a file of {kind} ({known}, or none); got {output}")
    if file.exists() and not (file.is_file() and (not file.stat().st_size or is_former(file))):
        raise DataError(
            f"--output: expected a new file, or a former output to replace; got {output}, which is something else: "
            "choose another --output"
        )


def _refuse_input(output: str, inputs: Iterable[str]) -> None:
    for file in inputs:
        if _is_same(Path(output), Path(file)):
            raise DataError(f"--output: expected another file than the input; got {output} for both")


def _is_same(file: Path, other: Path) -> bool:
    """Whether two paths are one file, by links too."""
    return file.resolve() == other.resolve() or (file.exists() and other.exists() and file.samefile(other))


def _is_of_rows(file: Path) -> bool:
    """Whether a file begins as `write_rows` writes it: with the fields that commands add, none of a user's behind."""
    delimiter = _DELIMITERS.get(file.suffix.lower())
    try:
        with file.open(encoding="utf-8", newline="") as lines:
            if delimiter:
                names = [name.split(".")[0] for name in next(csv.reader(lines, delimiter=delimiter), [])]
            else:
                first = parse_json(lines.readline(_LONGEST_LINE))
                names = list(first) if isinstance(first, dict) else []
    except (OSError, ValueError, csv.Error):  # no text in UTF-8, no JSON, no CSV
        return False
    return any(added.issubset(names) and names[-1] in added | _DECIDED for added in _ADDED)


def write_rows(rows: Sequence[Mapping[str, Any]], output: str | None) -> None:
    """One JSON object a line to standard output; a file is written whole or not at all, a .csv or .tsv as a table."""
    if output is None:
        tell("".join(escaped_json(json_line(row, sys.stdout.encoding or "utf-8")) for row in rows), end="")
        return
    delimiter = _DELIMITERS.get(Path(output).suffix.lower())
    lines = _table(rows, delimiter) if delimiter else "".join(json_line(row, "utf-8") for row in rows)
    file = Path(output).resolve()  # where a link leads, which stays one
    try:
        if file.exists() and not file.is_file():  # a pipe, a device: it takes lines, and cannot be replaced
            file.write_text(lines, encoding="utf-8")
        else:
            with room_for(output):
                write_output(file, lines)
    except DiskFullError:
        raise
    except OSError as error:
        raise DataError(f"--output: expected a file to write to; got {output}: {error.strerror}") from error
    tell_aside(f"wrote {output}: {len(rows)} items")


def _table(rows: Sequence[Mapping[str, Any]], delimiter: str) -> str:
    """Rows as CSV; the user is told which columns of theirs have the name of an answer's part."""
    cells = [_cells(row) for row in rows]
    replaced = Counter(name for row in cells for name, count in Counter(name for name, _ in row).items() if count > 1)
    if replaced:
        names = ", ".join(f"{name!r} (in {count} rows)" for name, count in sorted(replaced.items()))
        tell_aside(f"note: fields of the input are replaced: {names}")
    return csv_text([dict(row) for row in cells], delimiter)


def _cells(row: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """A cell for each field, and for each part of a field that has parts ("probabilities.good"); lists as JSON."""
    parts = [
        (name if part is None else f"{name}.{part}", one)
        for name, value in row.items()
        for part, one in (value.items() if isinstance(value, dict) else [(None, value)])
    ]
    return [
        (name, strict_json(one, ensure_ascii=False) if isinstance(one, list | dict) else one) for name, one in parts
    ]


def json_line(row: Mapping[str, Any], encoding: str) -> str:
    """One line of JSON, with escapes only where the characters cannot be written as they are."""
    line = strict_json(row, ensure_ascii=False)
    try:
        line.encode(encoding)
    except UnicodeEncodeError:
        line = strict_json(row)
    return line + "\n"
