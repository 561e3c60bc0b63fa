"""Choices of an item of one's own: found in its fields, lettered, and the label turned into a letter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from blob_pyro.data.rows.fields import from_cell, label_text
from blob_pyro.data.rows.wording import quoted, shown
from blob_pyro.data.tasks.formats import BadRowError, lettered

SEVERAL = "choices"
"""The field of the prompt that shows the choices where each has a field of its own."""


def prompt_field(choices_field: Sequence[str] | str) -> str:
    """The field of the prompt that shows the lines of choices."""
    return choices_field if isinstance(choices_field, str) else SEVERAL


def with_choices(
    fields: Mapping[str, Any], choices_field: Sequence[str] | str, label_field: str, most: int | None
) -> dict[str, Any]:
    """The fields of an item with its choices as lines "A) text" and its label as a letter.

    A single field holds a list of texts, or {text, label} as arc has it (in CSV the JSON of either); several fields
    hold a choice each, those behind the last choice being empty. The label is one of the choices' own labels (or names
    of fields), a letter, or a position from 0; where choices have labels of their own, it is one of those alone.

    Args:
        fields: one raw item.
        choices_field: the field, or the fields.
        label_field: the field of the label; where it is empty, null or -1 the item has none.
        most: how many choices an item may have; None takes as many as there are letters.

    Raises:
        BadRowError: the choices are too few, too many, empty or not there, or the label is none of them.

    Example:
        >>> row = {"q": "2 + 2?", "a": "3", "b": "4", "c": "", "label": "b"}
        >>> item = with_choices(row, ["a", "b", "c"], "label", most=3)
        >>> item["choices"], item["label"]
        ('A) 3\\nB) 4', 'B')
    """
    choices = choices_of(fields, choices_field)
    letters, lines = lettered(choices.texts, choices.keys, ascii_uppercase)
    if most is not None and len(letters) > most:
        raise BadRowError(f"{len(letters)} choices, where there are {most} answer words")
    label = _letter(fields.get(label_field), letters, choices)
    return {**fields, prompt_field(choices_field): lines, label_field: label}


@dataclass(frozen=True)
class Choices:
    """What an item has to choose from.

    Attributes:
        texts: the choices; of rows that are not right yet, anything.
        keys: what names each.
        have_labels: whether the keys are labels of the choices' own, so that an answer can be nothing else.
    """

    texts: Any
    keys: Any
    have_labels: bool = False


def choices_of(fields: Mapping[str, Any], choices_field: Sequence[str] | str) -> Choices:
    """The choices of a raw item (see `with_choices`).

    Raises:
        BadRowError: they are not there.
    """
    if not isinstance(choices_field, str):
        if SEVERAL in fields and SEVERAL not in choices_field:
            raise BadRowError(f"a field {SEVERAL!r} beside the choices, which the prompt shows under that name")
        texts = [_text(fields, name) for name in choices_field]
        while texts and not texts[-1].strip():
            texts.pop()
        return Choices(texts, list(choices_field[: len(texts)]))
    if choices_field not in fields:
        raise BadRowError(f"no field {choices_field!r}; there is {quoted(fields)}")
    found = from_cell(fields[choices_field])
    if isinstance(found, Mapping):
        if not {"text", "label"} <= set(found):
            raise BadRowError(f"the field {choices_field!r} has no 'text' and 'label'")
        return Choices(_texts(found["text"]), found["label"], have_labels=True)
    if not isinstance(found, list):
        raise BadRowError(f"no list in the field {choices_field!r}, but {shown(found)}")
    return Choices(_texts(found), list(range(len(found))))


def _texts(choices: Any) -> Any:
    """Choices with numbers written as text; what is no list stays, to be refused."""
    if not isinstance(choices, list):
        return choices
    return [str(choice) if isinstance(choice, int | float) else choice for choice in choices]


def _text(fields: Mapping[str, Any], name: str) -> str:
    """The text of a choice that has a field of its own; "" where there is none."""
    if name not in fields:
        raise BadRowError(f"no field {name!r}; there is {quoted(fields)}")
    value = fields[name]
    if not (value is None or isinstance(value, str | int | float)):
        raise BadRowError(f"no text in the field {name!r}")
    return "" if value is None else str(value)


def _letter(value: Any, letters: Sequence[str], choices: Choices) -> str | None:
    """The letter of the choice that a label names, None for no label."""
    label = label_text(value)
    if label in (None, "-1"):
        return None
    own = {str(key).strip(): letter for key, letter in zip(choices.keys, letters, strict=True)}
    names = own
    if not choices.have_labels:
        positions = {str(position): letter for position, letter in enumerate(letters)}
        names = positions | {letter: letter for letter in letters} | own
    if label not in names:
        plain = f"a letter from A to {letters[-1]} or a position from 0 to {len(letters) - 1}"
        raise BadRowError(f"the label is {shown(value)}, not {quoted(own) if choices.have_labels else plain}")
    return names[label]
