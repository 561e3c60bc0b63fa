"""A seeded generator of files in forms that people bring and that cannot be read as they are: each is one line."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from malformed import LABELS, PROMPT, csv_lines, joined, json_lines, parquet, sound_rows

from blob_pyro.config.sections import DataConfig
from blob_pyro.data import load_task
from blob_pyro.errors import BlobPyroError

Rows = list[dict[str, Any]]
ENCODINGS = ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252", "latin-1", "mac-roman")


def german(rows: Rows) -> Rows:
    return [{**row, "text": f"für {row['text']}"} for row in rows]


def lines(rows: Rows) -> bytes:
    return joined(json_lines(rows))


def cells(rows: Rows) -> bytes:
    return joined(csv_lines(rows))


def array(rng: random.Random, rows: Rows) -> str:
    return json.dumps(rows, indent=rng.choice([None, 1, 2]), ensure_ascii=rng.random() < 0.5)


def damaged_row(rng: random.Random, rows: Rows, change: Callable[[dict[str, Any]], Any]) -> Rows:
    place = rng.randrange(len(rows))
    return [change(row) if number == place else row for number, row in enumerate(rows)]


# kind -> what makes its file: (name, bytes, further settings), and words that the message must have
Made = tuple[str, bytes, dict[str, Any]]
KINDS: dict[str, tuple[Callable[[random.Random, Rows], Made], str]] = {
    "an array cut": (
        lambda rng, rows: ("x.json", (text := array(rng, rows))[: rng.randrange(2, len(text) - 1)].encode(), {}),
        "expected a JSON array of objects",
    ),
    "an array with a comma too many": (
        lambda rng, rows: ("x.json", array(rng, rows).rstrip("]\n").encode() + b",]", {}),
        "expected a JSON array of objects",
    ),
    "an array with something else": (
        lambda rng, rows: (
            "x.json",
            json.dumps(damaged_row(rng, rows, lambda r: rng.choice([1, "x", None]))).encode(),
            {},
        ),
        "an array of JSON objects",
    ),
    "an array of lists": (
        lambda rng, rows: ("x.json", json.dumps([list(r.values()) for r in rows]).encode(), {}),
        "list",
    ),
    "an array in an object": (
        lambda rng, rows: ("x.json", json.dumps({"v": 1, "data": rows}, indent=rng.choice([None, 1])).encode(), {}),
        "data",
    ),
    "an object of columns": (
        lambda rng, rows: ("x.json", json.dumps({k: [r[k] for r in rows] for k in rows[0]}).encode(), {}),
        "orient='records'",
    ),
    "an array called JSON lines": (
        lambda rng, rows: (rng.choice(["x.jsonl", "x.ndjson"]), array(rng, rows).encode(), {}),
        "name a file that is",
    ),
    "another encoding": (
        lambda rng, rows: (
            *rng.choice([("x.jsonl", lines(german(rows))), ("x.csv", cells(german(rows)))]),
            {"as": rng.choice(ENCODINGS)},
        ),
        "data.encoding",
    ),
    "a wrong encoding": (
        lambda rng, rows: ("x.csv", cells(german(rows)).decode().encode("latin-1"), {"encoding": "ascii"}),
        "ascii",
    ),
    "a chat": (
        lambda rng, rows: (
            "x.jsonl",
            lines([{"text": [{"role": "user", "content": r["text"]}], "label": r["label"]} for r in rows]),
            {},
        ),
        "{text.0.content}",
    ),
    "a path that leads nowhere": (
        lambda rng, rows: (
            "x.jsonl",
            lines(damaged_row(rng, [{"text": "a", "m": {"t": "b"}, "label": "bad"}] * 5, lambda r: {**r, "m": {}})),
            {"prompt": "{m.t} is"},
        ),
        "m.t",
    ),
    "null alone": (
        lambda rng, rows: ("x.jsonl", lines(damaged_row(rng, rows, lambda r: {**r, "text": None})), {}),
        "null",
    ),
    "nothing but gaps": (
        lambda rng, rows: (
            "x.csv",
            cells([{**r, **rng.choice([{"text": ""}, {"label": " "}])} for r in rows]),
            {"skip_empty": True},
        ),
        "at least one that is not empty",
    ),
    "no id": (
        lambda rng, rows: (
            "x.jsonl",
            lines(damaged_row(rng, rows, lambda r: {**r, "id": rng.choice([None, " "])})),
            {"id_field": "id"},
        ),
        "expected an id",
    ),
    "labels of numbers with a fraction": (
        lambda rng, rows: (
            *rng.choice([("x.csv", cells), ("x.jsonl", lines), ("x.parquet", parquet)]),
            {"rows": [{**r, "label": rng.randrange(1, 9) + 0.5} for r in rows], "labels": None},
        ),
        "a float",
    ),
    "labels that are names": (
        lambda rng, rows: (
            "x.jsonl",
            lines([{"text": "a", "label": f"u{i}"} for i in range(rng.randrange(13, 40))]),
            {"labels": None},
        ),
        "labels that items share",
    ),
    "a packed file without an end": (
        lambda rng, rows: (
            "x.jsonl.gz",
            gzip.compress(bytes(rng.randrange(1_000_001, 2_000_000))),
            {"max_megabytes": 1},
        ),
        "more than 1 MB",
    ),
    "a large file": (
        lambda rng, rows: (rng.choice(["x.csv", "x.jsonl", "x.parquet"]), b" " * 1_000_001, {"max_megabytes": 1}),
        "1 MB",
    ),
}


def made(kind: str, seed: int) -> Made:
    rng = random.Random(f"{kind} {seed}")
    name, content, settings = KINDS[kind][0](rng, sound_rows(rng))
    if callable(content):
        content = content(settings.pop("rows"))
    encoding = settings.pop("as", None)
    return name, content if encoding is None else content.decode().encode(encoding), settings


@pytest.mark.parametrize("kind", KINDS)
def test_a_form_that_cannot_be_read_is_one_line_with_its_name(tmp_path: Path, kind: str) -> None:
    """Seven files of each kind; in half of them the sound file of another name stands beside it."""
    for seed in range(7):
        name, content, settings = made(kind, seed)
        path = tmp_path / f"{seed}{name}"
        path.write_bytes(content)
        files: Any = str(path)
        if seed % 2 and settings.get("labels", 1) and "encoding" not in settings and "prompt" not in settings:
            sound = tmp_path / f"{seed}sound.jsonl"
            sound.write_bytes(lines([{"text": "a", "label": "bad", "id": 1}, {"text": "b", "label": "good", "id": 2}]))
            files = [str(sound), str(path)]
        with pytest.raises(BlobPyroError) as told:
            load_task(DataConfig(**{"train_file": files, "prompt": PROMPT, "labels": LABELS, **settings}), seed=0)
        text = str(told.value)
        assert str(path) in text and KINDS[kind][1] in text and "\n" not in text and len(text) < 700, text
