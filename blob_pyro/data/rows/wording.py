"""Words for messages about rows: which lines are bad, and values and names cut to a readable length."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from blob_pyro.errors import DataError

_SHOWN_NAMES = 20
_SHOWN_CHARACTERS = 80


def name_lines(lines: Sequence[int]) -> str:
    """Line numbers for a message: the first ten, and how many there are where that is not all of them.

    Example:
        >>> name_lines([3]), name_lines([3, 7])
        ('line 3', 'lines 3, 7')
        >>> name_lines(range(1, 13))
        'lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ... (12 in all)'
    """
    shown = ", ".join(str(line) for line in lines[:10])
    rest = f", ... ({len(lines)} in all)" if len(lines) > 10 else ""
    return f"line{'s' if len(lines) > 1 else ''} {shown}{rest}"


def shown(value: Any) -> str:
    """A value as Python writes it, cut where it is long.

    Example:
        >>> shown("a"), len(shown("a" * 10_000))
        ("'a'", 80)
    """
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def quoted(names: Iterable[Any]) -> str:
    """Names for a message: the first twenty, and how many there are where that is not all of them.

    Example:
        >>> quoted(["text", "label"]), quoted([])
        ("'text', 'label'", 'no field at all')
    """
    every = list(names)
    rest = f", ... ({len(every)} in all)" if len(every) > _SHOWN_NAMES else ""
    return ", ".join(map(shown, every[:_SHOWN_NAMES])) + rest or "no field at all"


def and_others(names: Sequence[str]) -> str:
    """The items after the first for a message: the next ten, and how many there are; "" where the first is alone.

    Example:
        >>> and_others(["line 3"]), and_others(["line 3", "line 7"])
        ('', ' (and 1 more item: line 7)')
    """
    others = names[1:]
    if not others:
        return ""
    listed = ", ".join(others[:10]) + (", ..." if len(others) > 10 else "")
    return f" (and {len(others)} more item{'s' if len(others) > 1 else ''}: {listed})"


def lists_of_objects(fields: Mapping[str, Any]) -> list[str]:
    """The fields that hold a list of objects: where one object holds all items, its items.

    Example:
        >>> lists_of_objects({"version": "1.1", "data": [{"text": "a"}], "tags": ["b"]})
        ['data']
    """
    return [
        name
        for name, value in fields.items()
        if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value)
    ]


def held_inside(fields: Mapping[str, Any]) -> str:
    """What to do with a row that holds all items in a list, for the end of a message; "" for others."""
    lists = lists_of_objects(fields)
    return f" (items that lie in {quoted(lists)}? take them out, with jq -c '.{lists[0]}[]', say)" if lists else ""


def name_words(words: Sequence[str]) -> str:
    """Answer words for a message: the first twenty, and how many there are where that is not all of them.

    Example:
        >>> name_words(["bad", "good"])
        'bad, good'
    """
    rest = f", ... ({len(words)} in all)" if len(words) > _SHOWN_NAMES else ""
    return ", ".join(word[:_SHOWN_CHARACTERS] for word in words[:_SHOWN_NAMES]) + rest


def bad_lines(source: object, expected: str, bad: Mapping[int, str]) -> DataError:
    """The error that names every bad line of a file, and tells what is wrong with the first.

    Args:
        source: name of the file.
        expected: what its lines should be.
        bad: line number -> what is wrong there, in a few words.
    """
    lines = sorted(bad)
    return DataError(
        f"{source}: expected {expected}; got something else on {name_lines(lines)} "
        f"(line {lines[0]}: {bad[lines[0]]}): mend or delete them"
    )
