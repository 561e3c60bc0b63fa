"""Soft labels: the share of the annotators that each class has."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from blob_pyro.data.rows.wording import quoted, shown
from blob_pyro.data.tasks.formats import BadRowError


def shares_of(value: Mapping[str, Any], classes: Mapping[str, int]) -> tuple[float, ...]:
    """Counts or shares by label as shares that sum to 1, in class order; a label that is left out, or null, has none.

    Args:
        value: label -> number of annotators, or their share.
        classes: label text without white space around it -> class.

    Raises:
        BadRowError: a label is unknown or named twice, a value is no number of at least 0, or all are 0.

    Example:
        >>> shares_of({"good": 3, " bad": 1}, {"bad": 0, "good": 1})
        (0.25, 0.75)
    """
    found = [0.0] * len(classes)
    value = {name: number for name, number in value.items() if number is not None}
    names = [str(name).strip() for name in value]
    for name, number in zip(names, value.values(), strict=True):
        if name not in classes:
            raise BadRowError(f"the label {shown(name)}, which is none of {quoted(classes)}")
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < math.inf:
            raise BadRowError(f"{shown(number)} for {shown(name)}, which is no number of at least 0")
        found[classes[name]] = float(number)
    if len(set(names)) < len(names):
        raise BadRowError(f"a label twice in {quoted(names)}")
    if not (total := sum(found)):
        raise BadRowError("no label with a share above 0")
    return tuple(number / total for number in found)
