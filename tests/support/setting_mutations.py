"""Values that no setting can have, for every setting there is."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import yaml
from mutations import Change, Place

from blob_pyro.guides.settings import KEYS

IMPOSSIBLE: dict[str, Any] = {
    "a list of lists": [[[]]],
    "a mapping of mappings": {"a": {"b": {"c": 1}}},
    "a huge number": 10**400,
    "a number far below 0": -(10**30),
    "no number": float("nan"),
    "an escape": "\x1b[31mred\x1b[0m",
    "a text that runs backwards": "a\u202eb\u2066c",
    "a NUL": "a\0b",
    "a list of escapes": ["\x1b]0;title\x07"],
    "a very long text": "x" * 100_000,
}


def given(key: str, value: Any) -> Change:
    """A setting of the configuration that `fit` is given, by its whole name."""

    def apply(place: Place, rng: random.Random) -> None:
        file = place.folder / "own.yaml"
        found = yaml.safe_load(file.read_text())
        *section, name = key.split(".")
        part = found.setdefault(section[0], {}) if section else found
        part[name] = value
        file.write_text(yaml.safe_dump(found))

    return apply


def settings(seed: int) -> dict[str, Change]:
    """Every setting with two of these values, which the seed chooses."""
    rng = random.Random(seed)
    leaves = [key for key, kind in KEYS.items() if not dataclasses.is_dataclass(kind)]
    return {
        f"{key}: {kind}": given(key, IMPOSSIBLE[kind]) for key in leaves for kind in rng.sample(sorted(IMPOSSIBLE), 2)
    }
