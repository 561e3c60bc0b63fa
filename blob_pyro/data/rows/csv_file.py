"""Reads CSV and TSV files, strictly: every row that is not right is named by its line."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from blob_pyro.data.rows.contents import as_utf8, not_utf8, read_bytes, wide_encoding
from blob_pyro.data.rows.row import Row
from blob_pyro.data.rows.wording import bad_lines, quoted, shown
from blob_pyro.errors import DataError


@dataclass(frozen=True)
class _Kind:
    """What a file's cells are separated by, and what they might be by mistake.

    Attributes:
        name: of the format.
        mark: between two cells.
        cells: the cells in words.
        marks: the mark in words.
        others: marks of other formats, which no name of a lone column should hold.
    """

    name: str
    mark: str
    cells: str
    marks: str
    others: str


_CSV = _Kind("CSV", ",", "comma-separated cells", "commas", ";\t|")
_TSV = _Kind("TSV", "\t", "tab-separated cells", "tabs", ",;|")


def read_csv(path: str | Path) -> list[Row]:
    """Read a UTF-8 file of comma-separated cells below a header; a name that ends in .gz is unpacked.

    Every cell is text, "" where it is empty. A row is named by the line that it begins on, for a cell in double quotes
    may hold line breaks. Blank lines are skipped.

    Raises:
        DataError: the file is missing, a folder, unreadable or without any row; two columns have one name; or lines
            are not UTF-8, hold a NUL byte, are wrongly quoted, or have another number of cells than the header: then
            every bad line is counted and nothing is returned.
    """
    path = Path(path)
    return csv_rows(path, as_utf8(path, read_bytes(path, _CSV.name), None))


def read_tsv(path: str | Path) -> list[Row]:
    """Read a UTF-8 file of tab-separated cells below a header, as `read_csv` reads commas.

    Quoting is that of CSV, too, as spreadsheets write it (Python's "excel-tab"): a cell that begins with a double
    quote ends with one, may hold tabs and line breaks, and doubles the quotes inside it.

    Raises:
        DataError: as `read_csv`.
    """
    path = Path(path)
    return tsv_rows(path, as_utf8(path, read_bytes(path, _TSV.name), None))


def csv_rows(path: Path, data: bytes) -> list[Row]:
    """The rows in the bytes of a CSV file (see `read_csv`)."""
    return _rows(path, data, _CSV)


def tsv_rows(path: Path, data: bytes) -> list[Row]:
    """The rows in the bytes of a TSV file (see `read_tsv`)."""
    return _rows(path, data, _TSV)


def _rows(path: Path, data: bytes, kind: _Kind) -> list[Row]:
    lines, bad = _decoded(data)
    if bad and wide_encoding(data):
        bad[min(bad)] = not_utf8(data)
    records = _records(lines, bad, kind.mark)
    header = next(records, None)
    if header is not None and not bad:
        _check_header(path, header[1], kind)
    rows = []
    for line, cells in records:
        if header is not None and len(cells) != len(header[1]) and line not in bad:
            bad[line] = f"{_cells(len(cells))}, where the header has {len(header[1])}"
        elif header is not None:
            rows.append(Row(line, dict(zip(header[1], cells, strict=False))))
    if bad:
        raise bad_lines(path, f"{kind.cells} in UTF-8, as many as the header has", bad)
    if not rows:
        got = "an empty file" if header is None else "a header alone"
        raise DataError(f"{path}: expected a header and at least one row below it; got {got}: put one item on each row")
    return rows


def _decoded(data: bytes) -> tuple[list[str], dict[int, str]]:
    """The lines as text with their ends, and what is wrong with some of them, by number."""
    lines: list[str] = []
    bad: dict[int, str] = {}
    for number, raw in enumerate(data.splitlines(keepends=True), start=1):
        text = raw.decode("utf-8", errors="replace")
        if b"\0" in raw:
            bad[number] = "a NUL byte"
        elif text.encode("utf-8") != raw:
            bad[number] = not_utf8(data)
        lines.append(text)
    return lines, bad


def _records(lines: Sequence[str], bad: dict[int, str], mark: str) -> Iterator[tuple[int, list[str]]]:
    """Records with the line that each begins on; what cannot be read is added to `bad`."""
    reader = csv.reader(lines, strict=True, delimiter=mark)
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            bad.setdefault(start, _in_our_words(str(error)))
            continue
        if cells:
            yield start, cells


def _in_our_words(message: str) -> str:
    if "unexpected end of data" in message:
        return "a quote that is never closed"
    if "expected after" in message:
        return "text behind a closing quote"
    if "field larger than" in message:
        return f"a cell of more than {csv.field_size_limit():,} characters, or a quote that is never closed"
    return message


def _check_header(path: Path, names: Sequence[str], kind: _Kind) -> None:
    twice = [name for position, name in enumerate(names) if name in names[:position]]
    if twice:
        raise DataError(f"{path}: expected a name of its own for each column; got {shown(twice[0])} twice: rename one")
    if len(names) == 1 and any(mark in names[0] for mark in kind.others):
        raise DataError(
            f"{path}: expected {kind.marks} between the columns; got the header {quoted(names)}: write {kind.marks}"
        )


def _cells(count: int) -> str:
    return f"{count} cell{'' if count == 1 else 's'}"
