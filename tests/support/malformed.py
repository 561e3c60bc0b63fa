"""A seeded generator of files that are not right, each beside the sound file that was damaged."""

from __future__ import annotations

import csv
import dataclasses
import gzip
import io
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Rows = list[dict[str, Any]]
PROMPT, LABELS = "{text} is", [" bad", " good"]
CHOICES_PROMPT = "{text}\n{choices}\nAnswer:"
COMPLETION = " {answer}."


@dataclass(frozen=True)
class Bad:
    """A file that must be refused.

    Attributes:
        kind: what is wrong with it.
        name: of the file.
        content: its bytes; None makes it a folder.
        sound: bytes of the file before the damage.
        lines: the lines that the message must name; empty where the damage is in no line.
        settings: further settings of the data.
    """

    kind: str
    name: str
    content: bytes | None
    sound: bytes
    lines: tuple[int, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        path = folder / self.name
        path.mkdir() if self.content is None else path.write_bytes(self.content)
        return path

    def write_sound(self, folder: Path) -> Path:
        """The sound file, under an ending that fits it."""
        endings = (".jsonl.gz", ".csv.gz", ".tsv.gz", ".jsonl", ".csv", ".tsv", ".parquet")
        ending = ".parquet" if ".parquet" in self.name else next(end for end in endings if self.name.endswith(end))
        path = folder / f"sound{ending}"
        path.write_bytes(self.sound)
        return path


# --- the sound files ---


def sound_rows(rng: random.Random) -> Rows:
    """4 to 30 items of both labels; some texts need quoting in CSV."""
    things = ("tea", 'a "large" cup', "soup, hot", "über", "two\nlines", "x" * 300)
    return [
        {"text": f"{rng.choice(things)} {number}", "label": ("bad", "good")[number % 2]}
        for number in range(rng.randrange(4, 31))
    ]


def choice_rows(rng: random.Random) -> Rows:
    """Items of 2 to 4 choices."""
    rows = []
    for number in range(rng.randrange(4, 12)):
        choices = [f"choice {rng.randrange(100)}" for _ in range(rng.randrange(2, 5))]
        rows.append({"text": f"item {number}", "choices": choices, "label": rng.randrange(len(choices))})
    return rows


def completion_rows(rng: random.Random) -> Rows:
    """Items with a completion: text, a number, true or false."""
    answers = ("tea, please", 'a "large" cup', 7, 0.5, True, "über", "two\nlines")
    return [{"text": f"item {number}", "answer": rng.choice(answers)} for number in range(rng.randrange(4, 12))]


def json_lines(rows: Rows) -> list[bytes]:
    return [json.dumps(row, ensure_ascii=False).encode() for row in rows]


def csv_lines(rows: Rows, mark: str = ",") -> list[bytes]:
    """The header and the records; a record may hold line breaks."""
    records = [list(rows[0]), *(list(row.values()) for row in rows)]
    lines = []
    for record in records:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n", delimiter=mark).writerow(record)
        lines.append(out.getvalue().removesuffix("\n").encode())
    return lines


def parquet(rows: Rows | pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(rows if isinstance(rows, pa.Table) else pa.Table.from_pylist(rows), out)
    return out.getvalue()


def joined(lines: Sequence[bytes]) -> bytes:
    return b"\n".join(lines) + b"\n"


def line_of(lines: Sequence[bytes], position: int) -> int:
    """The line that a record begins on."""
    return 1 + sum(line.count(b"\n") + 1 for line in lines[:position])


# --- a damaged line ---

BAD_JSON: dict[str, Callable[[random.Random, dict[str, Any], bytes], bytes]] = {
    "cut": lambda rng, row, raw: raw[: rng.randrange(1, len(raw))],
    "two objects": lambda rng, row, raw: raw + raw,
    "a list": lambda rng, row, raw: b"[" + raw + b"]",
    "a text": lambda rng, row, raw: b'"text"',
    "a number": lambda rng, row, raw: str(rng.randrange(100)).encode(),
    "single quotes": lambda rng, row, raw: repr(row).encode(),
    "a comma too many": lambda rng, row, raw: raw[:-1] + b",}",
    "no JSON": lambda rng, row, raw: b"text,label",
    "latin-1": lambda rng, row, raw: json.dumps({**row, "text": "für"}, ensure_ascii=False).encode("latin-1"),
    "half of a character": lambda rng, row, raw: raw.replace(b"}", b"\xc3}"),
    "a NUL byte": lambda rng, row, raw: raw[:12] + b"\0" + raw[12:],
    "a control character": lambda rng, row, raw: raw.replace(b'"text": "', b'"text": "\x01'),
    "a broken escape": lambda rng, row, raw: b'{"text": "\\u12", "label": "good"}',
    "a key twice": lambda rng, row, raw: raw[:-1] + b', "text": "again"}',
    "NaN": lambda rng, row, raw: b'{"text": NaN, "label": "good"}',
    "infinity": lambda rng, row, raw: b'{"text": -Infinity, "label": "good"}',
    "a huge number": lambda rng, row, raw: b'{"text": 1e999, "label": "good"}',
    "a very long number": lambda rng, row, raw: b'{"text": ' + b"9" * rng.randrange(5000, 9000) + b', "label": "good"}',
    "too many brackets": lambda rng, row, raw: b'{"text": ' + b"[" * 100_000,
    "no text": lambda rng, row, raw: json.dumps({"label": row["label"]}).encode(),
    "another column": lambda rng, row, raw: json.dumps({"Text": "x", "label": "good"}).encode(),
    "null": lambda rng, row, raw: json.dumps({**row, "text": None}).encode(),
    "a nested text": lambda rng, row, raw: json.dumps({**row, "text": rng.choice([["a"], {"a": {"b": []}}])}).encode(),
    "an empty text": lambda rng, row, raw: json.dumps({**row, "text": rng.choice(["", " \t"])}).encode(),
    "half of a surrogate pair": lambda rng, row, raw: b'{"text": "\\ud83d", "label": "good"}',
    "no label": lambda rng, row, raw: json.dumps({"text": "x"}).encode(),
    "a null label": lambda rng, row, raw: json.dumps({**row, "label": None}).encode(),
    "an empty label": lambda rng, row, raw: json.dumps({**row, "label": " "}).encode(),
    "a label out of range": lambda rng, row, raw: json.dumps({**row, "label": rng.randrange(2, 99)}).encode(),
    "a label of another case": lambda rng, row, raw: json.dumps({**row, "label": "Good"}).encode(),
    "a label that is a list": lambda rng, row, raw: json.dumps({**row, "label": ["good"]}).encode(),
    "a very long label": lambda rng, row, raw: json.dumps({**row, "label": "good " * 9000}).encode(),
    "a label with half of a surrogate pair": lambda rng, row, raw: b'{"text": "x", "label": "\\udfff"}',
}
BAD_CSV: dict[str, Callable[[random.Random, dict[str, Any], bytes], bytes]] = {
    "too many cells": lambda rng, row, raw: raw + b"," * rng.randrange(1, 5),
    "too few cells": lambda rng, row, raw: b"text",
    "text behind a quote": lambda rng, row, raw: b'"text"more,good',
    "a quote that is not doubled": lambda rng, row, raw: b'"a "large" cup",good',
    "a NUL byte": lambda rng, row, raw: b"a\0b,good",
    "latin-1": lambda rng, row, raw: "für,good".encode("latin-1"),
    "half of a character": lambda rng, row, raw: b"\xe2\x82,good",
    "half of a surrogate pair": lambda rng, row, raw: b"\xed\xa0\xbd,good",
    "a huge cell": lambda rng, row, raw: b"x" * 140_000 + b",good",
    "an empty text": lambda rng, row, raw: b",good",
    "an empty label": lambda rng, row, raw: b"text,",
    "a label out of range": lambda rng, row, raw: b"text,7",
    "a label of another case": lambda rng, row, raw: b"text,GOOD",
    "cells in the other order": lambda rng, row, raw: b"good,text",
}
BAD_CHOICES: dict[str, Callable[[random.Random, dict[str, Any]], dict[str, Any]]] = {
    "an empty choice": lambda rng, row: {"choices": ["a", rng.choice(["", " "])], "label": "A"},
    "a null choice": lambda rng, row: {"choices": [None, "b"], "label": "A"},
    "one choice": lambda rng, row: {"choices": ["a"], "label": "A"},
    "no choice": lambda rng, row: {"choices": [], "label": "A"},
    "too many choices": lambda rng, row: {"choices": [f"choice {i}" for i in range(27)], "label": "A"},
    "no list": lambda rng, row: {"choices": "a, b", "label": "A"},
    "no field of choices": lambda rng, row: {"options": ["a", "b"], "label": "A"},
    "a position out of range": lambda rng, row: {"label": len(row["choices"])},
    "a letter out of range": lambda rng, row: {"label": "ABCDEF"[len(row["choices"])]},
    "choices without labels": lambda rng, row: {"choices": {"text": ["a", "b"]}, "label": "A"},
    "choices with one label twice": lambda rng, row: {"choices": {"text": ["a", "b"], "label": ["1", "1"]}, "label": 1},
    "fewer labels than choices": lambda rng, row: {"choices": {"text": ["a", "b"], "label": ["1"]}, "label": "1"},
}


BAD_COMPLETIONS: dict[str, Callable[[random.Random, dict[str, Any]], dict[str, Any]]] = {
    "no completion": lambda rng, row: {"text": row["text"]},
    "a completion under another name": lambda rng, row: {"text": row["text"], "Answer": row["answer"]},
    "an empty completion": lambda rng, row: {**row, "answer": ""},
    "a completion of white space": lambda rng, row: {**row, "answer": " \t "},
    "a null completion": lambda rng, row: {**row, "answer": None},
    "a list as completion": lambda rng, row: {**row, "answer": [row["answer"]]},
    "an object as completion": lambda rng, row: {**row, "answer": {"text": row["answer"]}},
    "half of a surrogate pair as completion": lambda rng, row: {**row, "answer": "\ud83d"},
    "a completion without its prompt": lambda rng, row: {"answer": row["answer"]},
    "a completion for an empty prompt": lambda rng, row: {**row, "text": " "},
}


def _some(rng: random.Random, count: int) -> list[int]:
    """One position, or several."""
    return sorted(rng.sample(range(count), rng.choice([1, 1, 2, min(4, count)])))


def bad_json(kind: str, rng: random.Random) -> Bad:
    lines = json_lines(rows := sound_rows(rng))
    damaged = list(lines)
    places = _some(rng, len(rows))
    for place in places:
        damaged[place] = BAD_JSON[kind](rng, rows[place], lines[place])
    return _packed(rng, kind, ".jsonl", joined(damaged), joined(lines), tuple(place + 1 for place in places))


def bad_csv(kind: str, rng: random.Random) -> Bad:
    lines = csv_lines(rows := sound_rows(rng))
    damaged = list(lines)
    places = [place + 1 for place in _some(rng, len(rows))]
    for place in places:
        damaged[place] = BAD_CSV[kind](rng, rows[place - 1], lines[place])
    named = tuple(line_of(damaged, place) for place in places)
    return _packed(rng, kind, ".csv", joined(damaged), joined(lines), named)


def bad_tsv(kind: str, rng: random.Random) -> Bad:
    """As `bad_csv`, with tabs for the commas of the damaged lines."""
    lines, commas = csv_lines(rows := sound_rows(rng), "\t"), csv_lines(rows)
    damaged = list(lines)
    places = [place + 1 for place in _some(rng, len(rows))]
    for place in places:
        damaged[place] = BAD_CSV[kind](rng, rows[place - 1], commas[place]).replace(b",", b"\t")
    named = tuple(line_of(damaged, place) for place in places)
    return _packed(rng, kind, ".tsv", joined(damaged), joined(lines), named)


def bad_choices(kind: str, rng: random.Random) -> Bad:
    rows = choice_rows(rng)
    place = rng.randrange(len(rows))
    new = BAD_CHOICES[kind](rng, rows[place])
    kept = {} if "options" in new else {"choices": rows[place]["choices"]}
    damaged = [*rows]
    damaged[place] = {"text": "item", **kept, **new}
    settings = {"labels": None, "choices_field": "choices", "prompt": CHOICES_PROMPT}
    return Bad(kind, "x.jsonl", joined(json_lines(damaged)), joined(json_lines(rows)), (place + 1,), settings)


def bad_completions(kind: str, rng: random.Random) -> Bad:
    """Of a file with completions, as JSON lines; what CSV can hold of it, half of the time as CSV or TSV."""
    rows = completion_rows(rng)
    places = _some(rng, len(rows))
    damaged = [BAD_COMPLETIONS[kind](rng, row) if place in places else row for place, row in enumerate(rows)]
    settings = {"labels": None, "completion": COMPLETION}
    plain = all(row.keys() == rows[0].keys() and isinstance(row["answer"], str | int | float) for row in damaged)
    if plain and "surrogate" not in kind and rng.random() < 0.5:
        ending, mark = rng.choice([(".csv", ","), (".tsv", "\t")])
        lines, sound = csv_lines(damaged, mark), csv_lines(rows, mark)
        named = tuple(line_of(lines, place + 1) for place in places)
        bad = _packed(rng, kind, ending, joined(lines), joined(sound), named)
        return dataclasses.replace(bad, settings=settings)
    content = "".join(json.dumps(row) + "\n" for row in damaged).encode()
    bad = _packed(rng, kind, ".jsonl", content, joined(json_lines(rows)), tuple(place + 1 for place in places))
    return dataclasses.replace(bad, settings=settings)


def _packed(rng: random.Random, kind: str, ending: str, content: bytes, sound: bytes, lines: tuple[int, ...]) -> Bad:
    """Some of the files are gzipped."""
    if rng.random() < 0.3:
        return Bad(kind, f"x{ending}.gz", gzip.compress(content), gzip.compress(sound), lines)
    return Bad(kind, f"x{ending}", content, sound, lines)


# --- a file that is wrong as a whole ---


def whole_files(rng: random.Random) -> Iterator[Bad]:
    """Files whose damage is in no line, or in all of them."""
    rows = sound_rows(rng)
    lines, cells, table = joined(json_lines(rows)), joined(csv_lines(rows)), parquet(rows)
    packed, packed_cells = gzip.compress(lines), gzip.compress(cells)
    words = csv_lines(rows)
    every = tuple(range(1, min(len(rows), 10) + 1))
    renamed = [{"text": row["text"], "mark": row["label"]} for row in rows]
    yield Bad("empty", "x.jsonl", b"", lines)
    yield Bad("blank lines", "x.jsonl", b"\n \n\t\n", lines)
    yield Bad("a byte-order mark alone", "x.jsonl", b"\xef\xbb\xbf", lines)
    yield Bad("UTF-16", "x.jsonl", lines.decode().encode("utf-16"), lines, (1, 2))
    yield Bad("an array over many lines", "x.jsonl", json.dumps(rows, indent=1).encode(), lines, (1, 2))
    yield Bad("an array on one line", "x.jsonl", json.dumps(rows).encode(), lines, (1,))
    yield Bad("a folder", "x.jsonl", None, lines)
    yield Bad("no label anywhere", "x.jsonl", joined(json_lines(renamed)), lines, every)
    yield Bad("an empty packed file", "x.jsonl.gz", b"", packed)
    yield Bad("nothing in a packed file", "x.jsonl.gz", gzip.compress(b""), packed)
    yield Bad("a packed file cut", "x.jsonl.gz", packed[: rng.randrange(12, len(packed) - 1)], packed)
    yield Bad("a packed file with other bytes", "x.jsonl.gz", packed[:-8] + b"\0\1\2\3" + packed[-4:], packed)
    yield Bad("a plain file called packed", "x.jsonl.gz", lines, packed)
    yield Bad("a packed file called plain", "x.jsonl", packed, lines)
    yield Bad("empty", "x.csv", b"", cells)
    yield Bad("a byte-order mark alone", "x.csv", b"\xef\xbb\xbf", cells)
    yield Bad("a header alone", "x.csv", words[0] + b"\n\n", cells)
    yield Bad("UTF-16", "x.csv", cells.decode().encode("utf-16"), cells, (1, 2))
    yield Bad("a column twice", "x.csv", joined([words[0].replace(b"label", b"text"), *words[1:]]), cells)
    yield Bad("no label column", "x.csv", joined([words[0].replace(b"label", b"mark"), *words[1:]]), cells)
    yield Bad("no text column", "x.csv", joined([words[0].replace(b"text", b"Text"), *words[1:]]), cells)
    yield Bad("no header", "x.csv", joined(words[1:]), cells)
    yield Bad("semicolons", "x.csv", b"text;label\ntea;good\nsoup;bad\n", cells)
    yield Bad(
        "a quote that is never closed", "x.csv", joined([*words, b'"text,good']), cells, (line_of(words, len(words)),)
    )
    yield Bad("JSON called CSV", "x.csv", lines, cells)
    yield Bad("Parquet called CSV", "x.csv", table, cells)
    yield Bad("a folder", "x.csv", None, cells)
    yield Bad("a packed file cut", "x.csv.gz", packed_cells[: rng.randrange(12, len(packed_cells) - 1)], packed_cells)
    yield Bad("a plain file called packed", "x.csv.gz", cells, packed_cells)
    tabs = csv_lines(rows, "\t")
    tabbed = joined(tabs)
    yield Bad("empty", "x.tsv", b"", tabbed)
    yield Bad("a header alone", "x.tsv", tabs[0] + b"\n", tabbed)
    yield Bad("commas", "x.tsv", b"text,label\ntea,good\nsoup,bad\n", tabbed)
    yield Bad("spaces", "x.tsv", b"text    label\ntea    good\n", tabbed)
    yield Bad("TSV called CSV", "x.csv", tabbed, cells)
    yield Bad("a column twice", "x.tsv", joined([tabs[0].replace(b"label", b"text"), *tabs[1:]]), tabbed)
    yield Bad(
        "a quote that is never closed", "x.tsv", joined([*tabs, b'"a\tgood']), tabbed, (line_of(tabs, len(tabs)),)
    )
    yield Bad("a plain file called packed", "x.tsv.gz", tabbed, gzip.compress(tabbed))
    yield Bad("empty", "x.parquet", b"", table)
    yield Bad("cut in the middle", "x.parquet", table[: rng.randrange(5, len(table) - 1)], table)
    yield Bad("its end alone", "x.parquet", table[rng.randrange(60, len(table) - 8) :], table)
    yield Bad("a footer of another length", "x.parquet", table[:-8] + b"\xff\xff\xff\x7f" + table[-4:], table)
    yield Bad("a broken footer", "x.parquet", table[:-60] + bytes(52) + table[-8:], table)
    yield Bad("CSV called Parquet", "x.parquet", cells, table)
    yield Bad("a folder", "x.parquet", None, table)
    yield Bad("packed twice", "x.parquet.gz", gzip.compress(table), table)
    yield Bad("no rows", "x.parquet", parquet(pa.Table.from_pylist(rows).slice(0, 0)), table)
    yield Bad("no label column", "x.parquet", parquet(renamed), table, every)
    yield from bad_columns(rng, rows)
    yield from bad_labels(rng, rows)


def bad_columns(rng: random.Random, rows: Rows) -> Iterator[Bad]:
    """Parquet files with a column that is not right."""
    sound = parquet(rows)
    place = rng.randrange(len(rows))

    def with_value(name: str, value: Any, kind: pa.DataType | None = None) -> bytes:
        table = pa.Table.from_pylist(rows)
        values = [value if i == place else (row[name] if kind is None else None) for i, row in enumerate(rows)]
        return parquet(table.set_column(table.column_names.index(name), name, pa.array(values, kind)))

    def with_column(name: str, values: list[Any]) -> bytes:
        table = pa.Table.from_pylist(rows)
        return parquet(table.set_column(table.column_names.index(name), name, pa.array(values)))

    bytes_ = pa.array([b"\xff\xfe" if i == place else b"text" for i in range(len(rows))], pa.binary())
    no_utf8 = pa.StringArray.from_buffers(len(rows), bytes_.buffers()[1], bytes_.buffers()[2])
    labels = pa.array([row["label"] for row in rows])
    twice = pa.Table.from_arrays([labels, labels, labels], names=["text", "label", "text"])
    first = (1,)
    yield Bad("null", "x.parquet", with_value("text", None), sound, (place + 1,))
    yield Bad("a null label", "x.parquet", with_value("label", None), sound, (place + 1,))
    yield Bad("a label out of range", "x.parquet", with_column("label", [7] * len(rows)), sound, first)
    yield Bad("labels as floats", "x.parquet", with_column("label", [0.5] * len(rows)), sound, first)
    yield Bad("labels as dates", "x.parquet", with_column("label", [date(2024, 1, 1)] * len(rows)), sound, first)
    yield Bad("nested texts", "x.parquet", with_column("text", [[row["text"]] for row in rows]), sound, first)
    yield Bad("structs as texts", "x.parquet", with_column("text", [{"a": row["text"]} for row in rows]), sound, first)
    yield Bad("infinite numbers", "x.parquet", with_column("text", [float("nan")] * len(rows)), sound, first)
    yield Bad("a column twice", "x.parquet", parquet(twice), sound)
    not_utf8 = pa.Table.from_arrays([no_utf8, labels], names=["text", "label"])
    yield Bad("no UTF-8", "x.parquet", parquet(not_utf8), sound, (place + 1,))


def bad_labels(rng: random.Random, rows: Rows) -> Iterator[Bad]:
    """Files whose values cannot serve as labels or groups."""
    lines, unread = joined(json_lines(rows)), {"labels": None}

    def all_with(**fields: Any) -> bytes:
        return joined(json_lines([{**row, **fields} for row in rows]))

    place = rng.randrange(len(rows))
    odd = [{**row, "label": "\udfff" if i == place else row["label"]} for i, row in enumerate(rows)]
    surrogate = "".join(json.dumps(row) + "\n" for row in odd).encode()
    yield Bad("a single label", "x.jsonl", all_with(label="good"), lines, settings=unread)
    yield Bad("floats as labels", "x.jsonl", all_with(label=0.5), lines, (1,), unread)
    yield Bad("lists as labels", "x.jsonl", all_with(label=["good"]), lines, (1,), unread)
    yield Bad("half of a surrogate pair as a label", "x.jsonl", surrogate, lines, (place + 1,), unread)
    grouped = all_with(who="a")
    some = joined([*json_lines([{**row, "who": "a"} for row in rows]), b'{"text": "x", "label": "good", "who": ""}'])
    yield Bad("no group", "x.jsonl", some, grouped, (len(rows) + 1,), {"group_field": "who"})


def malformed(count: int, seed: int) -> list[Bad]:
    """`count` files, of each kind at least one."""
    rng = random.Random(seed)
    lines = [(bad_json, kind) for kind in BAD_JSON] + [(bad_csv, kind) for kind in BAD_CSV]
    lines += [(bad_tsv, kind) for kind in BAD_CSV]
    lines += [(bad_choices, kind) for kind in BAD_CHOICES]
    lines += [(bad_completions, kind) for kind in BAD_COMPLETIONS]
    found = list(whole_files(rng))
    while len(found) < count:
        found += [make(kind, rng) for make, kind in lines]
    return found[:count]
