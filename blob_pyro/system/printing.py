"""The one way to a terminal: what could steer it is spelt out, be it of a name, a label, a file or a model."""

from __future__ import annotations

import json
import sys


def printable(text: str) -> str:
    r"""The text with control characters spelt out, but for new lines and tabs: they could steer a terminal.

    So are marks that turn the direction of writing, and what else has no shape of its own.

    Example:
        >>> print(printable("a bell: " + chr(7)))
        a bell: \x07
    """
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def is_text(value: str) -> bool:
    """Whether all of a text is characters: bytes of a command line that are not UTF-8 are halves of surrogate pairs.

    Example:
        >>> is_text("café"), is_text("caf\\udce9")
        (True, False)
    """
    try:
        return value.encode() is not None
    except UnicodeEncodeError:
        return False


def tell(text: str, *, end: str = "\n", flush: bool = False) -> None:
    """Print to standard output."""
    print(printable(text), end=end, flush=flush)


def on_one_line(text: str) -> str:
    r"""The text with new lines spelt out: one in a label or a path would begin a line that looks like another's.

    Example:
        >>> print(on_one_line("labels: good" + chr(10) + "blob-pyro: error: none"))
        labels: good\nblob-pyro: error: none
    """
    return text.replace("\n", r"\n")


def tell_line(text: str) -> None:
    """Print one line to standard output."""
    tell(on_one_line(text))


def tell_aside(text: str) -> None:
    """Print one line to standard error, where standard output holds the answers."""
    print(printable(on_one_line(text)), file=sys.stderr, flush=True)


def escaped_json(line: str) -> str:
    r"""A JSON text, of the same value, in which what `printable` spells out is escaped as JSON has it.

    Example:
        >>> print(escaped_json('"one ' + chr(0x9b) + '"'))
        "one \u009b"
    """
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in line)
