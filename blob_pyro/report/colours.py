"""Text on colours that tell how uncertain each of its tokens is, for terminals."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise

from blob_pyro.system.printing import printable

# Colours of the 256 that terminals have had for decades, pale yellow to red, with black to write on them: both are set,
# so that the text can be read whatever the terminal's own background is. The first is the terminal's own.
BACKGROUNDS = ("", "229", "222", "215", "203")


def wants_colour(is_terminal: bool, environment: Mapping[str, str]) -> bool:
    """Whether to write colours: to a terminal that can show them, unless NO_COLOR (no-color.org) is set.

    Example:
        >>> wants_colour(True, {"TERM": "xterm"}), wants_colour(True, {"NO_COLOR": "1"}), wants_colour(False, {})
        (True, False, False)
    """
    return is_terminal and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def dim(text: str) -> str:
    """The text in a terminal's pale print, for what stands beside the answer."""
    return f"\x1b[2m{printable(text)}\x1b[0m"


def painted(texts: Sequence[str], values: Sequence[float], edges: Sequence[float]) -> str:
    """Texts behind one another, each on the colour of its value; on a colour, a new line has an arrow before it.

    Args:
        texts: what each token adds.
        values: how uncertain each token is.
        edges: where the next of the colours begins, four numbers.
    """
    colours = [BACKGROUNDS[bisect_right(edges, value)] for value in values]
    return "".join(map(_on, colours, texts))


def legend(edges: Sequence[float]) -> str:
    """The colours, each with the values that it stands for."""
    between = [f"{low:g} to {high:g}" for low, high in pairwise(edges)]
    ranges = [f"below {edges[0]:g}", *between, f"{edges[-1]:g} or more"]
    return " ".join(_on(colour, f" {text} ") for colour, text in zip(BACKGROUNDS, ranges, strict=True))


def _on(background: str, text: str) -> str:
    """The text on a colour; a colour ends with its line, or it would fill the terminal's width."""
    text = printable(text)
    if not background or not text:
        return text
    lines = text.replace("\n", "↵\n").split("\n")
    return "\n".join(f"\x1b[38;5;16;48;5;{background}m{line}\x1b[0m" if line else "" for line in lines)
