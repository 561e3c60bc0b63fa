"""One reader for every format: the same items come out of each, and what each format alone can get wrong is named."""

from __future__ import annotations

import json
import math
import random
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from row_files import file_bytes

from blob_pyro.config.sections import DataConfig
from blob_pyro.data import Row, load_task, read_rows
from blob_pyro.data.rows.row import json_value
from blob_pyro.errors import DataError

FORMATS = ("jsonl", "jsonl.gz", "json", "csv", "csv.gz", "tsv", "tsv.gz", "parquet")


def write(folder: Path, name: str, rows: list[dict]) -> Path:
    path = folder / name
    path.write_bytes(file_bytes(rows, name.split(".", 1)[1]))
    return path


# --- the law: the same items in every format ---

TEXTS = (
    "plain",
    "a\ttab",
    ' "quoted", with a comma ',
    "two\nlines",
    "a\r\nb\rc",
    "ü\u2028 🙂",
    "[1",
    "007",
    "1e3",
    "null",
    "",
)
LABELS = {
    "words": ["bad", "good", "so so"],
    "numbers": [0, 1, 2],
    "truth": [True, False],
    "choices": None,
    "arc": None,
    "columns": None,
}


def random_rows(kind: str, seed: int) -> list[dict]:
    """20 to 40 items: a title, a text that may be empty, numbers of every sort, a group and a label or choices."""
    rng = random.Random(seed)
    rows = []
    for number in range(rng.randrange(20, 41)):
        row = {"title": f"item {number}", "text": rng.choice(TEXTS), "count": number, "share": rng.random()}
        row |= {"sure": rng.random() < 0.5, "who": f"user {rng.randrange(6)}"}
        choices = [f"choice {rng.randrange(100)} {i}" for i in range(rng.randrange(2, 5))]
        answer = rng.randrange(len(choices))
        if kind == "choices":
            row |= {"choices": choices, "label": rng.choice(["ABCD"[answer], str(answer)])}
        elif kind == "arc":
            keys = rng.choice(["ABCD", "1234"])[: len(choices)]
            row |= {"choices": {"text": choices, "label": list(keys)}, "label": keys[answer]}
        elif kind == "columns":
            row |= dict(zip("wxyz", [*choices, "", ""][:4], strict=True)) | {"label": "wxyz"[answer]}
        else:
            row["label"] = LABELS[kind][number % len(LABELS[kind])]
        rows.append(row)
    return rows


def naive_prompt(row: dict, kind: str) -> str:
    prompt = f"{row['title']}, {row['count']}, {row['share']}, {row['sure']}: {row['text']}\n"
    if kind in ("choices", "arc", "columns"):
        texts = row["choices"] if kind == "choices" else row["choices"]["text"] if kind == "arc" else None
        texts = texts or [row[name] for name in "wxyz" if row[name]]
        prompt += "".join(f"{letter}) {text}\n" for letter, text in zip("ABCD", texts, strict=False))
    return prompt + "is"


def naive_label(row: dict, kind: str) -> str:
    label = str(row["label"])
    if kind == "columns":
        return "ABCD"["wxyz".index(label)]
    if kind == "arc":
        return "ABCD"[row["choices"]["label"].index(label)]
    return "ABCD"[int(label)] if kind == "choices" and label.isdigit() else label


def config(folder: Path, kind: str, ending: str, **settings) -> DataConfig:
    shown = "{choices}\n" if kind in ("choices", "arc", "columns") else ""
    field = {"choices": "choices", "arc": "choices", "columns": list("wxyz")}.get(kind)
    return DataConfig(
        train_file=str(write(folder, f"train.{ending}", random_rows(kind, 1))),
        test_file=str(write(folder, f"test.{ending}", random_rows(kind, 2))),
        prompt="{title}, {count}, {share}, {sure}: {text}\n" + shown + "is",
        truncate_field="text",
        choices_field=field,
        **settings,
    )


def seen(examples) -> list[tuple]:
    """Everything about the items but their line: a header and line breaks in cells move it."""
    return [(example.prompt, example.label, example.passage) for example in examples]


@pytest.mark.parametrize("kind", LABELS)
def test_the_same_items_come_out_of_every_format(tmp_path, kind):
    first = None
    for ending in FORMATS:
        data = load_task(config(tmp_path, kind, ending), seed=0)
        for examples, seed in ((data.train, 1), (data.test, 2)):
            rows = random_rows(kind, seed)
            assert [example.prompt for example in examples] == [naive_prompt(row, kind) for row in rows]
            words = [data.labels[example.label] for example in examples]
            assert words == [" " + naive_label(row, kind) for row in rows]
        drawn = load_task(config(tmp_path, kind, ending, num_train=8, num_validation=7, group_field="who"), seed=3)
        parts = [data.labels, *map(seen, (data.train, data.test, drawn.train, drawn.validation))]
        first = first or parts
        assert parts == first, ending


def test_a_row_of_csv_is_named_by_the_line_it_begins_on(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'\xef\xbb\xbftext,label\r\n\r\n"two\r\nlines",1\r\nx,\r\n')
    assert read_rows(tmp_path / "a.csv") == [
        Row(3, {"text": "two\r\nlines", "label": "1"}),
        Row(5, {"text": "x", "label": ""}),
    ]


def test_rows_of_parquet_are_counted_from_1(tmp_path):
    rows = [{"text": "a", "label": 1}, {"text": "b", "label": None}]
    assert read_rows(write(tmp_path, "a.parquet", rows)) == [Row(i, row) for i, row in enumerate(rows, start=1)]


def test_a_name_without_an_ending_is_json_lines_as_a_pipe_has_it(tmp_path):
    (tmp_path / "pipe").write_text('{"a": 1}\n')
    assert read_rows(tmp_path / "pipe") == [Row(1, {"a": 1})]


def test_a_header_without_name_is_a_name_as_an_index_column_has_it(tmp_path):
    (tmp_path / "a.csv").write_text(",text\n0,a\n")
    assert read_rows(tmp_path / "a.csv") == [Row(2, {"": "0", "text": "a"})]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n1\n1,2,3\n", r"on lines 3, 4 .line 3: 1 cell, where the header has 2.: mend or delete them"),
        (b'a,b\n"x"y,2\n1,"open\n2,3\n', r"on lines 2, 3 .line 2: text behind a closing quote"),
        (b'a,b\n1,"open\n2,3\n', r"on line 2 .line 2: a quote that is never closed"),
        (b"a,b\n1,\xe4\n\x00,2\n", r"on lines 2, 3 .line 2: not UTF-8"),
        (b"a,a\n1,2\n", "expected a name of its own for each column; got 'a' twice: rename one"),
        (b"a;b\n1;2\n", "expected commas between the columns; got the header 'a;b': write commas"),
        (b"a\n" + b"x" * 140_000 + b"\n", "line 2: a cell of more than 131,072 characters"),
        (b"a,b\n\n", "at least one row below it; got a header alone"),
        (b"a,b\n" + b"1\n" * 14, r"on lines 2, .*, 11, \.\.\. \(14 in all\)"),
    ],
)
def test_every_row_of_csv_that_is_not_right_is_named(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=message) as told:
        read_rows(tmp_path / "a.csv")
    assert str(told.value).startswith(str(tmp_path / "a.csv")) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\tb\n1\t2\n1\n1\t2\t3\n", r"on lines 3, 4 .line 3: 1 cell, where the header has 2.: mend or delete them"),
        (b'a\tb\n"x"y\t2\n1\t"open\n2\t3\n', r"on lines 2, 3 .line 2: text behind a closing quote"),
        (b"a\tb\n1\t\xe4\n\x00\t2\n", r"expected tab-separated cells in UTF-8, .* on lines 2, 3 .line 2: not UTF-8"),
        (b"a\ta\n1\t2\n", "expected a name of its own for each column; got 'a' twice: rename one"),
        (b"a,b\n1,2\n", "expected tabs between the columns; got the header 'a,b': write tabs"),
        (b"", "expected a header and at least one row below it; got an empty file"),
    ],
)
def test_every_row_of_tsv_that_is_not_right_is_named(tmp_path, content, message):
    (tmp_path / "a.tsv").write_bytes(content)
    with pytest.raises(DataError, match=message) as told:
        read_rows(tmp_path / "a.tsv")
    assert str(told.value).startswith(str(tmp_path / "a.tsv")) and "\n" not in str(told.value)


def test_quotes_of_tsv_are_those_of_csv(tmp_path):
    """A quote inside a cell that does not begin with one is a quote; commas are text."""
    (tmp_path / "a.TSV").write_bytes(b'\xef\xbb\xbftext\tlabel\r\n"a\t""b""\nc"\tgood, bad\r\n5" pipe\t\r\n')
    assert read_rows(tmp_path / "a.TSV") == [
        Row(2, {"text": 'a\t"b"\nc', "label": "good, bad"}),
        Row(4, {"text": '5" pipe', "label": ""}),
    ]


# --- values that JSON has no word for ---


def test_values_of_parquet_are_those_of_json(tmp_path):
    row = {
        "day": date(2024, 2, 29),
        "moment": datetime(2024, 2, 29, 12, 30, tzinfo=UTC),
        "clock": time(12, 30),
        "price": Decimal("1.50"),
        "score": math.inf,
        "data": b"\xff\x00",
        "text": b"\xc3\xbc",
        "parts": [{"day": date(2024, 1, 1), "rate": math.nan}],
    }
    (found,) = read_rows(write(tmp_path, "a.parquet", [row]))
    assert json.loads(json.dumps(found.fields, allow_nan=False)) == {
        "day": "2024-02-29",
        "moment": "2024-02-29T12:30:00+00:00",
        "clock": "12:30:00",
        "price": "1.50",
        "score": "inf",
        "data": "/wA=",
        "text": "ü",
        "parts": [{"day": "2024-01-01", "rate": None}],
    }


def test_dates_that_python_does_not_have_are_named_by_their_row(tmp_path):
    days = pa.array([0, 10**9, 5], pa.int32()).cast(pa.date32())
    pq.write_table(pa.table({"day": days}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="something else on line 2 .line 2: no readable value in 'day'"):
        read_rows(tmp_path / "a.parquet")


def test_every_value_that_json_value_gives_can_be_written():
    for value in (1, "a", None, True, 2.5, {1: {2}}, (b"x", Decimal(3)), {"a": math.nan}):
        json.dumps(json_value(value), allow_nan=False)
