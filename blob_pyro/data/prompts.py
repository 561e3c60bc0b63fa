"""Prompt templates: from the fields of a row to the text that the network reads."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from string import Formatter
from typing import Any

from blob_pyro.config.checks import check
from blob_pyro.data.rows.fields import field_of
from blob_pyro.data.rows.wording import held_inside, lists_of_objects, quoted
from blob_pyro.errors import ConfigError, DataError
from blob_pyro.system.printing import is_text

_WRITABLE = (str, int, float, bool)


@dataclass(frozen=True)
class PromptTemplate:
    r"""A text with field names in braces; {meta.title} is the field title of the object meta.

    Attributes:
        template: the text, "Tweet: {text}\nSentiment:" say; double a brace that is meant literally.
        truncate_field: the field that may lose tokens from its left when a prompt is too long, or None.
        setting: where the template comes from, for messages.

    Raises:
        ConfigError: it is no text in UTF-8, the braces do not match, no field is named, a field is more than a plain
            name or path, or `truncate_field` is not there exactly once.

    Example:
        >>> template = PromptTemplate("{passage}\nQuestion: {question}\nAnswer:", truncate_field="passage")
        >>> template.fields
        ('passage', 'question')
        >>> template.render({"passage": "It rains.", "question": "Is it dry?"}, where="line 1")
        ('It rains.\nQuestion: Is it dry?\nAnswer:', (0, 9))
    """

    template: str
    truncate_field: str | None = None
    setting: str = "data.prompt"

    def __post_init__(self) -> None:
        check(is_text(self.template), self.setting, "text in UTF-8", self.template)
        names = [name for _, name in self._pieces if name is not None]
        if not names:
            raise ConfigError(
                f'{self.setting}: expected a field in braces, like "{{text}}"; got none in {self.template!r}'
            )
        if self.truncate_field is not None and names.count(self.truncate_field) != 1:
            raise ConfigError(
                f"data.truncate_field: expected a field that the prompt has exactly once, of {quoted(names)}; "
                f"got {self.truncate_field!r}"
            )

    @property
    def noun(self) -> str:
        """What it is a template of, for messages: "prompt"."""
        return self.setting.removeprefix("data.")

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields, each once, in order of appearance."""
        return tuple(dict.fromkeys(name for _, name in self._pieces if name is not None))

    def render(self, row: Mapping[str, Any], where: str) -> tuple[str, tuple[int, int] | None]:
        """The prompt of one row.

        Args:
            row: values by field name; text, a number, true or false. Null is empty text beside a field that has some.
            where: how a message names the row ("line 3").

        Returns:
            The text, and the (start, end) character span in it of `truncate_field`'s value, None without one.

        Raises:
            DataError: the row lacks a field, or its value is something else (a list, half a character, null alone).
        """
        text, span = "", None
        values = {name: self._value(row, name, where) for name in self.fields}
        if not any(value and value.strip() for value in values.values()) and None in values.values():
            raise self._no_text(next(name for name, value in values.items() if value is None), "null", where)
        for literal, name in self._pieces:
            text += literal
            if name is None:
                continue
            value = values[name] or ""
            if name == self.truncate_field:
                span = (len(text), len(text) + len(value))
            text += value
        return text, span

    @functools.cached_property
    def _pieces(self) -> list[tuple[str, str | None]]:
        """The template as pairs (text, name of the field after it or None)."""
        template = self.template
        try:
            pieces = list(Formatter().parse(template))
        except ValueError as error:
            raise ConfigError(
                f"{self.setting}: expected matching braces; got {template!r} ({error}): double a brace that is meant "
                "literally"
            ) from error
        for _, name, spec, conversion in pieces:
            parts = (name or "").split(".")
            plain = all(parts) and not parts[0].isdigit() and not set(name or "") & set("[]")
            if name is not None and (not plain or spec or conversion):
                got = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
                raise ConfigError(
                    f"{self.setting}: expected plain field names in braces; got '{{{got}}}' in {template!r}: "
                    "name a field, and double a brace that is meant literally"
                )
        return [(literal, name) for literal, name, _, _ in pieces]

    def _no_text(self, name: str, got: str, where: str) -> DataError:
        return DataError(f"{where}: expected text, a number, true or false in the field {name!r}; got {got}")

    def _value(self, row: Mapping[str, Any], name: str, where: str) -> str | None:
        """The text of one field; None for null."""
        try:
            value = field_of(row, name)
        except KeyError:
            got = f"{quoted(row)}{held_inside(row)}"
            raise DataError(f"{where}: expected the field {name!r}, which the {self.noun} names; got {got}") from None
        if value is None:
            return None
        if not isinstance(value, _WRITABLE) or (isinstance(value, float) and not math.isfinite(value)):
            got = str(value) if isinstance(value, float) else f"a {type(value).__name__}"
            raise self._no_text(name, got + _one_text(name, value), where)
        text = str(value)
        if not is_text(text):  # JSON can spell half of a surrogate pair, "\\ud800", which no tokenizer takes
            raise DataError(f"{where}: expected text in the field {name!r}; got half of a surrogate pair")
        return text


def _one_text(name: str, value: Any) -> str:
    """What to do with a field that is a list of objects, as the messages of a chat, for the end of a message."""
    if not isinstance(value, list) or not lists_of_objects({name: value}):
        return ""
    part = next((known for known in ("content", "value", *value[0]) if known in value[0]), "text")
    return (
        f" of objects: name one text of them, like {{{name}.0.{part}}}, or write them as one (of a chat with the "
        "tokenizer's apply_chat_template)"
    )
