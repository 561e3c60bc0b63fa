"""What is odd about labels: spellings of one word, classes of a single item."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence

from blob_pyro.data.examples import Example
from blob_pyro.data.rows.wording import name_words, quoted

_FEW = 12  # items, of which it is no wonder that they share few labels


def odd_labels(train: Sequence[Example], labels: Sequence[str], told_by: str) -> Iterator[str]:
    """Lines on labels that differ in nothing that is read aloud, and on classes of a single item.

    Args:
        train: the items to train on, and to hold out of.
        labels: in class order.
        told_by: the field that holds them.

    Example:
        >>> next(odd_labels([], [" Yes", " no", " yes"], "label"))
        "labels: 'Yes', 'yes' differ in case, spaces or spelling of characters alone, and are classes of their own"
    """
    spellings: dict[str, list[str]] = {}
    for label in labels:
        spellings.setdefault(_plain(label), []).append(label.strip())
    for several in spellings.values():
        if len(several) > 1:
            alike = "differ in case, spaces or spelling of characters alone, and are classes of their own"
            yield f"labels: {quoted(several)} {alike}"
    counts = Counter(example.label for example in train)
    lone = [label.strip() for k, label in enumerate(labels) if counts[k] == 1]
    if len(train) > _FEW and 2 * len(lone) > len(labels):
        yield f"labels: {len(lone)} of {len(labels)} classes have a single item ({name_words(lone)}): is {told_by!r} " \
              "the field that holds them?"  # fmt: skip


def _plain(label: str) -> str:
    """A label without what hardly shows: case, white space, composed or full-width characters, what has no width."""
    text = unicodedata.normalize("NFKC", label).casefold()
    return "".join(one for one in text if not one.isspace() and unicodedata.category(one) != "Cf")
