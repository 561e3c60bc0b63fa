"""`Caution`: one thing to be wary of."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Caution:
    """One thing to be wary of.

    Attributes:
        text: a sentence or two, with numbers.
        serious: whether the scores may mislead; otherwise it is good to know.
    """

    text: str
    serious: bool = False
