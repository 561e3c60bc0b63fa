"""What files hold: JSON arrays, other encodings, and bounds on what is read."""

from __future__ import annotations

import gzip
import json
import os
import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blob_pyro.data import Row, read_rows
from blob_pyro.errors import DataError
from blob_pyro.system import bounded

ITEMS = [{"text": "für Elise", "label": 1}, {"text": "two\nlines", "label": None}, {"text": "[x]", "label": "a"}]
ROWS = [Row(number, item) for number, item in enumerate(ITEMS, start=1)]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


# --- JSON arrays ---


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("name", ["a.json", "a.json.gz", "a", "A.JSON"])
def test_an_array_has_its_items_counted_from_1(tmp_path, indent, name):
    data = ("\ufeff\n " + json.dumps(ITEMS, indent=indent)).encode()
    assert read_rows(write(tmp_path / name, gzip.compress(data) if name.endswith("gz") else data)) == ROWS


def test_a_json_file_of_lines_is_read_as_before(tmp_path):
    lines = "".join(json.dumps(item) + "\n" for item in ITEMS)
    assert read_rows(write(tmp_path / "a.json", lines)) == read_rows(write(tmp_path / "a.jsonl", lines)) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "[]", "expected at least one row; got an empty array"),
        (
            "a.json",
            '[{"a": 1}, 2, "x"]',
            r"an array of JSON objects, counted like lines; got something else on lines 2",
        ),
        (
            "a.json",
            '[{"a": 1},\n {"a": }]',
            "expected a JSON array of objects; got Expecting value at line 2, column 8",
        ),
        ("a.json", '[{"a": 1, "a": 2}]', "got something else: the key 'a' is there twice"),
        ("a.json", '[{"a": NaN}]', "got something else: NaN is no number"),
        ("a.json", '[{"a": 1}]\n[{"a": 2}]\n', "lines 1, 2 .line 1: a list, not an object"),
        (
            "a.json",
            '{"v": 1,\n "rows": [{"a": 1}]}',
            r"holds them in 'rows': take them out, with jq '.rows' a.json > it",
        ),
        (
            "a.jsonl",
            '[{"a": 1}]',
            "line 1: a list, not an object.: mend or delete them: name a file that is one JSON a",
        ),
    ],
)
def test_json_that_is_no_list_of_items_is_one_line_with_the_cure(tmp_path, name, content, message):
    with pytest.raises(DataError, match=message) as told:
        read_rows(write(tmp_path / name, content))
    assert str(told.value).startswith(str(tmp_path / name)) and "\n" not in str(told.value)


# --- encodings ---

TABLE = "text,label\n für Elise,good\nnaïve,bad\n"
READ = [Row(2, {"text": " für Elise", "label": "good"}), Row(3, {"text": "naïve", "label": "bad"})]


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1", "utf-8-sig"])
@pytest.mark.parametrize("ending", ["csv", "csv.gz", "tsv"])
def test_text_of_another_encoding_is_read_by_its_name(tmp_path, encoding, ending):
    text = TABLE.replace(",", "\t") if ending == "tsv" else TABLE
    data = text.encode(encoding)
    path = write(tmp_path / f"a.{ending}", gzip.compress(data) if ending.endswith("gz") else data)
    assert read_rows(path, encoding=encoding) == READ
    if encoding == "utf-8-sig":
        assert read_rows(path) == READ


@pytest.mark.parametrize("name", ["a.json", "a.jsonl"])
@pytest.mark.parametrize("encoding", ["utf-16", "cp1252"])
def test_json_of_another_encoding(tmp_path, name, encoding):
    lines = "".join(json.dumps(item, ensure_ascii=False) + "\n" for item in ITEMS)
    text = json.dumps(ITEMS, ensure_ascii=False, indent=1) if name == "a.json" else lines
    assert read_rows(write(tmp_path / name, text.encode(encoding)), encoding=encoding) == ROWS


@pytest.mark.parametrize("ending", ["csv", "jsonl", "json"])
@pytest.mark.parametrize(
    ("encoding", "cure"),
    [
        ("utf-16", "not UTF-8 but UTF-16: set data.encoding to utf-16, or save it as UTF-8"),
        ("utf-16-le", "not UTF-8 but UTF-16-LE: set data.encoding to utf-16-le"),
        ("utf-16-be", "not UTF-8 but UTF-16-BE: set data.encoding to utf-16-be"),
        ("utf-32", "not UTF-8 but UTF-32: set data.encoding to utf-32"),
        ("cp1252", "not UTF-8: set data.encoding .cp1252 or latin-1, say., or save it as UTF-8"),
    ],
)
def test_text_that_is_not_utf8_is_refused_with_the_cure(tmp_path, ending, encoding, cure):
    text = TABLE if ending == "csv" else '{"text": "für Elise"}\n'
    with pytest.raises(DataError, match=f"line 1: {cure}|line 2: {cure}") as told:
        read_rows(write(tmp_path / f"a.{ending}", text.encode(encoding)))
    assert "\n" not in str(told.value)


def test_utf8_is_no_other_encoding_and_that_is_said(tmp_path):
    """Under cp1252 it would be "fÃ¼r", without an error."""
    path = write(tmp_path / "a.csv", TABLE)
    with pytest.warns(UserWarning, match=r"a.csv: read as UTF-8, which it is, and not as cp1252 .data.encoding"):
        assert read_rows(path, encoding="cp1252") == READ
    with pytest.raises(DataError, match=r"expected text in ascii .data.encoding.; got other bytes at byte 13"):
        read_rows(write(path, TABLE.encode("latin-1")), encoding="ascii")


@pytest.mark.parametrize("order", ["utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_utf_16_is_read_in_either_order_of_bytes(tmp_path, order, mark):
    """Without a mark the machine's own order was taken, under which the other one is a header of odd characters."""
    assert read_rows(write(tmp_path / "a.csv", (mark + TABLE).encode(order)), encoding="utf-16") == READ


def test_control_characters_of_a_latin_encoding_are_told(tmp_path):
    """What Windows writes for quotes and dashes are control characters there."""
    path = write(tmp_path / "a.csv", "text,label\n\u201cso\u201d \u2026,a\n".encode("cp1252"))
    told = r"a.csv: read as latin-1 .data.encoding., it has control characters .'\\x93'.: .* name cp1252"
    with pytest.warns(UserWarning, match=told):
        assert read_rows(path, encoding="latin-1") == [Row(2, {"text": "\x93so\x94 \x85", "label": "a"})]
    assert read_rows(path, encoding="cp1252") == [Row(2, {"text": "\u201cso\u201d \u2026", "label": "a"})]
    assert read_rows(write(path, TABLE.encode("latin-1")), encoding="latin-1") == READ


# --- bounds ---


@pytest.mark.skipif(not os.access("/proc/kmsg", os.R_OK), reason="only root reads the kernel's messages")
def test_what_waits_for_more_as_a_file_does_not_is_refused_at_once():
    """The kernel's messages: a regular file by its mode, of size 0, that waits at its end."""
    begun = time.monotonic()
    with pytest.raises(
        DataError, match="/proc/kmsg: expected a JSON-lines file; got a file without an end: name a file"
    ):
        read_rows("/proc/kmsg")
    assert time.monotonic() - begun < 5


@pytest.mark.parametrize("name", ["/dev/zero", "link.jsonl"])
def test_a_device_is_refused_at_once(tmp_path, name):
    (tmp_path / "link.jsonl").symlink_to("/dev/urandom")
    with pytest.raises(DataError, match="expected a JSON-lines file; got a device, which may have no end: name a file"):
        read_rows(tmp_path / name)


@pytest.mark.parametrize("ending", ["jsonl", "csv"])
def test_a_file_has_a_largest_size_packed_and_unpacked(tmp_path, ending):
    large = b" " * 1_000_001
    plain, packed = tmp_path / f"a.{ending}", tmp_path / f"b.{ending}.gz"
    plain.write_bytes(large)
    packed.write_bytes(gzip.compress(large))
    for path in (plain, packed):
        told = f"{path}: expected a .* file; got more than 1 MB: set data.max_megabytes where it is meant"
        with pytest.raises(DataError, match=told):
            read_rows(path, max_megabytes=1)
    line = "x" * 997 + ",1\n" if ending == "csv" else '{"a": "' + "x" * 990 + '"}\n'
    assert len(line) == 1000
    assert len(read_rows(write(plain, line * 1000), max_megabytes=1)) == (999 if ending == "csv" else 1000)


def test_a_few_bytes_of_parquet_stand_for_no_more_than_the_limit(tmp_path):
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 5_000, pa.int32()), ["x" * 1000]).cast(pa.string())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet")
    assert (tmp_path / "a.parquet").stat().st_size < 10_000
    with pytest.raises(DataError, match="a Parquet file of at most 2 MB unpacked; got more: set data.max_megabytes"):
        read_rows(tmp_path / "a.parquet", max_megabytes=2)
    assert len(read_rows(tmp_path / "a.parquet")) == 5_000


def test_a_pipe_that_nobody_writes_to_is_not_waited_for_without_end(tmp_path, monkeypatch):
    monkeypatch.setattr(bounded, "PIPE_SECONDS", 0.2)
    os.mkfifo(tmp_path / "a.jsonl")
    with pytest.raises(DataError, match=r"got a pipe that nobody writes to .0.2 s.: name a file"):
        read_rows(tmp_path / "a.jsonl")


@pytest.mark.parametrize("ending", ["jsonl", "csv.gz"])
def test_a_slow_writer_of_a_pipe_is_waited_for(tmp_path, monkeypatch, ending):
    monkeypatch.setattr(bounded, "PIPE_SECONDS", 2.0)
    content = b'{"a": "1"}\n' * 20_000 if ending == "jsonl" else gzip.compress(b"a\n" + b"1\n" * 20_000)
    path = tmp_path / f"a.{ending}"
    os.mkfifo(path)

    def writer() -> None:
        time.sleep(0.1)
        with path.open("wb") as pipe:
            time.sleep(0.1)
            pipe.write(content[:9])
            pipe.flush()
            time.sleep(0.1)
            pipe.write(content[9:])

    thread = threading.Thread(target=writer)
    thread.start()
    rows = read_rows(path)
    thread.join()
    assert len(rows) == 20_000 and {row.fields["a"] for row in rows} == {"1"}
