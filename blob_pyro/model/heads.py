"""Classification heads that were trained before: what their outputs are called, and of what size they are."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

from blob_pyro.errors import ModelLoadError

Mismatch = tuple[str, Sequence[int], Sequence[int]]
"""Name of a tensor, its shape in the files and in the network."""


def output_names(config: Any) -> list[str] | None:
    """What the outputs of a model's head are called, in their order; None where nobody has named them.

    Args:
        config: a transformers configuration.
    """
    names = _names(config)
    return None if are_numbered(names) else names


def trained_names(config: Any) -> list[str] | None:
    """As `output_names`, but for the LABEL_n, transformers' own, of a head that the model's files hold.

    Args:
        config: as its files tell it.
    """
    holds_head = any("ForSequenceClassification" in name for name in getattr(config, "architectures", None) or ())
    return (holds_head and _names(config)) or output_names(config)


def are_numbered(names: Iterable[str]) -> bool:
    """Whether outputs have no other names than a number each: LABEL_0, LABEL_1."""
    return all(re.fullmatch(r"LABEL_\d+", name) for name in names)


def _names(config: Any) -> list[str]:
    named: dict[Any, Any] = getattr(config, "id2label", None) or {}
    return [str(name) for _, name in sorted(named.items())]


def matched_outputs(names: Sequence[str], labels: Sequence[str]) -> tuple[int, ...] | None:
    """The head's output of each label, by name; case and spaces around do not count. None where the names differ.

    A label that is a number is that of LABEL_n.

    Example:
        >>> matched_outputs(["Positive", "Negative"], [" negative", " positive"]), matched_outputs(["a"], ["b"])
        ((1, 0), None)
        >>> matched_outputs(["LABEL_0", "LABEL_1"], ["1", "0"])
        (1, 0)
    """
    places = {_plain(name): place for place, name in enumerate(names)}
    wanted = [_plain(label) for label in labels]
    if are_numbered(names) and all(map(str.isdecimal, wanted)):
        wanted = [f"label_{int(label)}" for label in wanted]
    if len(places) != len(names) or sorted(places) != sorted(wanted):
        return None
    return tuple(places[label] for label in wanted)


def _plain(name: str) -> str:
    return name.strip().casefold()


def check_sizes(mismatched: Iterable[Mismatch], network: Any, id_or_path: str, names: Any, *, ignored: bool) -> None:
    """Raise where tensors in a model's files have other shapes than the network's, unless a fresh head was asked for.

    Args:
        mismatched: those that transformers left random.
        network: the network.
        id_or_path: what the user calls it.
        names: what its own head's outputs are called; None where they have no names.
        ignored: whether a head of another size is to be made anew.

    Raises:
        ModelLoadError: says which, and the cure.
    """
    found = sorted(mismatched, key=lambda one: one[0])
    if not found:
        return
    other = [one for one in found if one[0].startswith(f"{network.base_model_prefix}.") or network.can_generate()]
    if other:
        name, stored, expected = other[0]
        raise ModelLoadError(
            f"model {id_or_path}: expected tensors of the sizes that its configuration tells; its files have {name} of "
            f"shape {tuple(stored)} for {tuple(expected)}: the files are not of one model"
        )
    size, wanted = found[0][1][0], found[0][2][0]
    if not ignored:
        called = f" ({', '.join(names)})" if names else ""
        raise ModelLoadError(
            f"model {id_or_path}: expected a trained head of {wanted} classes, as many as labels; got one of {size}"
            f"{called}: take its labels as data.labels, or set model.ignore_mismatched_sizes: true for a fresh head"
        )
    warnings.warn(f"model {id_or_path}: its head of {size} classes is left out; a fresh one has {wanted}", stacklevel=3)
