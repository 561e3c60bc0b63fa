"""What is odd about labels: spellings of one word, classes of a single item."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence

from blob_pyro.data.examples import Example
from blob_pyro.data.rows.fields import same_number
from blob_pyro.data.rows.wording import name_words, quoted

_OWN = "and are classes of their own"
_FEW = 12  # items, of which it is no wonder that they share few labels


def odd_labels(train: Sequence[Example], labels: Sequence[str], told_by: str) -> Iterator[str]:
    """Lines on labels that differ in nothing that is read aloud, or are one number, and on classes of a single item.

    Args:
        train: the items to train on, and to hold out of.
        labels: in class order.
        told_by: the field that holds them.

    Example:
        >>> next(odd_labels([], [" Yes", " no", " yes"], "label"))
        "labels: 'Yes', 'yes' differ in case, spaces or spelling of characters alone, and are classes of their own"
    """
    for several in _alike(labels, _plain):
        yield f"labels: {quoted(several)} differ in case, spaces or spelling of characters alone, {_OWN}"
    for several in _alike(labels, lambda label: same_number(label.strip())):
        yield f"labels: {quoted(several)} are one number, {_OWN}"
    counts = Counter(example.label for example in train)
    lone = [label.strip() for k, label in enumerate(labels) if counts[k] == 1]
    if len(train) > _FEW and 2 * len(lone) > len(labels):
        yield f"labels: {len(lone)} of {len(labels)} classes have a single item ({name_words(lone)}): is {told_by!r} " \
              "the field that holds them?"  # fmt: skip


def _alike(labels: Sequence[str], of: Callable[[str], Hashable]) -> list[list[str]]:
    """Labels of which something is the same, without the white space around them."""
    found: dict[Hashable, list[str]] = {}
    for label in labels:
        found.setdefault(of(label), []).append(label.strip())
    return [several for key, several in found.items() if key is not None and len(several) > 1]


def _plain(label: str) -> str:
    """A label without what hardly shows: case, white space, composed or full-width characters, what has no width."""
    text = unicodedata.normalize("NFKC", label).casefold()
    return "".join(one for one in text if not one.isspace() and unicodedata.category(one) != "Cf")
