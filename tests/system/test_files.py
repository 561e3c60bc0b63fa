"""Files that are there whole or not at all, and JSON that is read strictly."""

from __future__ import annotations

import errno
import itertools
import math
import os
from pathlib import Path
from typing import Any

import pytest
from interrupting import FAIL, KILL, interrupted

from blob_pyro.errors import DiskFullError, RunDirectoryError
from blob_pyro.system.files import (
    new_file,
    new_files,
    new_folder,
    parse_json,
    read_object,
    room_for,
    strict_json,
    write_whole,
)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "a.txt"
    for content in ("old\n", "ü\u2028\n", b"\xff\0"):
        write_whole(file, content)
        assert file.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    write_whole(file, "old\n")
    with pytest.raises(ZeroDivisionError), new_file(file) as partial:
        partial.write_text("half of the n")
        assert file.read_text() == "old\n" and partial.parent == tmp_path
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["a.txt"] and file.read_text() == "old\n"


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_json_has_null_for_what_is_no_finite_number(number: float) -> None:
    value = {"a": [1, number, {"b": (number, "NaN")}], "c": True, "d": 0.1}
    expected = {"a": [1, None, {"b": [None, "NaN"]}], "c": True, "d": 0.1}
    assert parse_json(strict_json(value, indent=2)) == expected


def both(folder: Path, content: str) -> None:
    with new_files(folder) as new:
        for name in ("b", "a"):
            write_whole(new / name, content)


@pytest.mark.parametrize("way", [KILL, FAIL])
def test_files_that_belong_together_are_written_before_the_first_is_renamed(tmp_path: Path, way: str) -> None:
    """At every operation on files in turn; only between the renames one is new and the other old, each whole."""
    found = []
    for operation in itertools.count(1):
        both(tmp_path, "old")
        if not interrupted(lambda: both(tmp_path, "new"), operation, way):
            break
        found.append("".join((tmp_path / name).read_text() for name in ("b", "a")))
        assert way == KILL or sorted(os.listdir(tmp_path)) in (["a", "b"], [".new", "a", "b"])
    assert [content for content, _ in itertools.groupby(found)] == ["oldold", "newold", "newnew"], found
    assert found.count("newold") == 1
    both(tmp_path, "newest")  # what was left is no obstacle, and is gone
    assert sorted(os.listdir(tmp_path)) == ["a", "b"] and (tmp_path / "a").read_text() == "newest"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "whatever a library says"),
        OSError(errno.EDQUOT, "x", "another file"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),  # Rust's
    ],
)
def test_want_of_room_is_told_with_the_file_that_was_asked_for(tmp_path: Path, error: Exception) -> None:
    number = getattr(error, "errno", errno.ENOSPC)
    with pytest.raises(DiskFullError) as told, new_folder(tmp_path / "folder") as folder, new_file(folder / "inner"):
        raise error
    start = f"{tmp_path}/folder: expected room to write it; {os.strerror(number)}: make room"
    assert str(told.value).startswith(start) and told.value.strerror == os.strerror(number)
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("error", [OSError(errno.EACCES, "no"), ValueError("(os error 13)"), RunDirectoryError("x")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as told, room_for("file"):
        raise error
    assert told.value is error


def test_a_folder_has_its_name_when_it_is_whole(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), new_folder(tmp_path / "above" / "a") as partial:
        (partial / "file").touch()
        raise ZeroDivisionError
    assert not os.listdir(tmp_path)
    with new_folder(tmp_path / "above" / "a") as partial:
        (partial / "file").touch()
        assert not (tmp_path / "above" / "a").exists()
    assert os.listdir(tmp_path / "above" / "a") == ["file"]
    with pytest.raises(RunDirectoryError, match="expected a new or an empty folder"), new_folder(tmp_path / "above"):
        pass


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "NaN": ('{"a": [NaN]}', {}, "^NaN is no number$"),
    "infinite": ("-Infinity", {}, "^-Infinity is no number$"),
    "too large": ("1e999", {}, "^1e999 is too large$"),
    "too many digits": ("9" * 5000, {}, "^9{20}... is too large$"),
    "nested": ("[" * 100_000, {}, "^brackets are nested too deeply$"),
    "nested and lenient": ("[" * 100_000, {"finite": False}, "^brackets are nested too deeply$"),
    "a key twice": ('{"a": {"b": 1, "b": 1}}', {"unique": True}, "^the key 'b' is there twice$"),
    "no JSON": ("{'a': 1}", {}, "Expecting property name"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_python_reads_and_json_is_not(name: str) -> None:
    text, options, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        parse_json(text, **options)


def test_what_is_read(tmp_path: Path) -> None:
    assert parse_json('{"a": [1, -2.5, null, true, "ü"], "b": {"a": 12345678901234567890}}', unique=True) == {
        "a": [1, -2.5, None, True, "ü"],
        "b": {"a": 12345678901234567890},
    }
    assert parse_json('{"a": 1, "a": Infinity}', finite=False) == {"a": float("inf")}
    write_whole(tmp_path / "a.json", "[1]")
    with pytest.raises(TypeError, match="expected a JSON object; got a list"):
        read_object(tmp_path / "a.json")
    with pytest.raises(FileNotFoundError, match=r"b.json is not there"):
        read_object(tmp_path / "b.json")
