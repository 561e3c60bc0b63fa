"""A seeded generator of damage to run directories, checkpoints, configuration files and base models.

Each mutation changes files in place. Where it is "forged" the checksums that the library keeps are written anew, as
somebody would who means harm, so that only what is checked of the content stands.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

CANARY_MODULE = "canary_module"
AT_RANDOM = 8


@dataclass(frozen=True)
class Place:
    """Where a mutation acts.

    Attributes:
        folder: the user's: config, data, base model `net`.
        run: the run directory.
        outside: a folder that nothing of a run may touch, or read by a name in it.
        canary: the file that code would make.
    """

    folder: Path
    run: Path
    outside: Path
    canary: Path


Change = Callable[[Place, random.Random], Any]


@dataclass(frozen=True)
class Mutation:
    """Damage of a kind.

    Attributes:
        kind: what is done.
        change: does it.
        seed: of what is left to chance.
    """

    kind: str
    change: Change
    seed: int

    def apply(self, place: Place) -> None:
        self.change(place, random.Random(self.seed))


def mutations(changes: Mapping[str, Change], seed: int) -> list[Mutation]:
    """One of each kind; of those that end in "at random", as many as there are seeds for."""
    rounds = {kind: AT_RANDOM if kind.endswith("at random") else 1 for kind in changes}
    kinds = [kind for kind, count in rounds.items() for _ in range(count)]
    return [Mutation(kind, changes[kind], seed + i) for i, kind in enumerate(kinds)]


# --- JSON ---

Edit = Callable[[Any], None]


def odd_value(rng: random.Random) -> Any:
    """A value that hardly any key expects."""
    deep: list[Any] = []
    for _ in range(60):
        deep = [deep]
    values = [None, True, -1, 0.5, 10**30, -(10**400), 1e308, "", "x", "../../x", "/etc/passwd", "\0", "\ud83d"]
    return rng.choice([*values, [], {}, [[]], {"a": {"b": []}}, deep, "x" * 5000, "${HOME}", float("nan")])


def edited(file: Path, edit: Edit) -> None:
    """A JSON file after a change to its object."""
    found = json.loads(file.read_text())
    edit(found)
    file.write_text(json.dumps(found))


def at_random(found: Any, rng: random.Random) -> None:
    """Change, remove or add a value somewhere in an object."""
    while True:
        keys = list(found) if isinstance(found, dict) else list(range(len(found)))
        key = rng.choice(keys)
        if not (isinstance(found[key], dict | list) and found[key] and rng.random() < 0.7):
            break
        found = found[key]
    what = rng.random()
    if what < 0.6:
        found[key] = odd_value(rng)
    elif what < 0.8:
        del found[key]
    elif isinstance(found, dict):
        found[rng.choice(["evil", "../evil", "__class__"])] = odd_value(rng)
    else:
        found.append(odd_value(rng))


def of_json(name: str, edit: Callable[[Any, Place, random.Random], Any]) -> Change:
    """Of a JSON file of the run."""
    return lambda place, rng: edited(place.run / name, lambda found: edit(found, place, rng))


def bytes_of(name: str, change: Callable[[bytes, random.Random], bytes]) -> Change:
    """Of any file of the run."""

    def apply(place: Place, rng: random.Random) -> None:
        (file := place.run / name).write_bytes(change(file.read_bytes(), rng))

    return apply


# --- safetensors ---


def header_of(content: bytes) -> tuple[dict[str, Any], bytes]:
    size = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + size]), content[8 + size :]


def with_header(edit: Callable[[dict[str, Any], random.Random], Any]) -> Callable[[bytes, random.Random], bytes]:
    def change(content: bytes, rng: random.Random) -> bytes:
        header, rest = header_of(content)
        edit(header, rng)
        text = json.dumps(header).encode()
        return len(text).to_bytes(8, "little") + text + rest

    return change


def flipped(content: bytes, rng: random.Random) -> bytes:
    """A bit of the header flipped."""
    size = 8 + int.from_bytes(content[:8], "little")
    changed = bytearray(content)
    changed[rng.randrange(size)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def a_byte(content: bytes, rng: random.Random) -> bytes:
    """Another byte anywhere."""
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ rng.randrange(1, 256)]) + content[place + 1 :]


def tensor_entry(header: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    found: dict[str, Any] = header[rng.choice([name for name in header if name != "__metadata__"])]
    return found


def doubled_shape(header: dict[str, Any], rng: random.Random) -> None:
    entry = tensor_entry(header, rng)
    entry |= {"dtype": "F16", "shape": [2 * (entry["shape"] or [1])[0], *entry["shape"][1:]]}


def values(change: Callable[[dict[str, Tensor], random.Random], Any]) -> Callable[[bytes, random.Random], bytes]:
    """Other tensors, in a file that is well formed."""

    def apply(content: bytes, rng: random.Random) -> bytes:
        from safetensors.torch import load, save

        tensors = load(content)
        change(tensors, rng)
        return save({name: value.contiguous() for name, value in tensors.items()}, {"format": "pt"})

    return apply


def one(tensors: dict[str, Tensor], rng: random.Random) -> str:
    return rng.choice(sorted(tensors))


def with_nan(number: float) -> Callable[[dict[str, Tensor], random.Random], Any]:
    return lambda tensors, rng: tensors[one(tensors, rng)].view(-1)[:1].fill_(number)


TENSOR_FILES: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "a bit of the header flipped": flipped,
    "cut": lambda content, rng: content[: rng.randrange(len(content))],
    "a longer end": lambda content, rng: content + bytes(rng.randrange(1, 99)),
    "a header of huge length": lambda content, rng: (
        (2 ** rng.randrange(30, 64) - 1).to_bytes(8, "little") + content[8:]
    ),
    "a header of no length": lambda content, rng: bytes(8) + content[8:],
    "a header that is a list": lambda content, rng: (2).to_bytes(8, "little") + b"[]",
    "empty": lambda content, rng: b"",
    "other bytes": lambda content, rng: rng.randbytes(len(content)),
    "integers": with_header(lambda header, rng: tensor_entry(header, rng).update(dtype="I32")),
    "halves": with_header(doubled_shape),
    "an unknown type": with_header(
        lambda header, rng: tensor_entry(header, rng).update(dtype=rng.choice(["F4", "X", 3]))
    ),
    "a shape turned round": with_header(
        lambda header, rng: (e := tensor_entry(header, rng)).update(shape=e["shape"][::-1])
    ),
    "a huge shape": with_header(lambda header, rng: tensor_entry(header, rng).update(shape=[2**40, 2**20])),
    "a negative shape": with_header(lambda header, rng: tensor_entry(header, rng).update(shape=[-2, -32])),
    "offsets beyond the end": with_header(
        lambda header, rng: tensor_entry(header, rng).update(data_offsets=[0, 2**40])
    ),
    "offsets that overlap": with_header(lambda h, r: tensor_entry(h, r).update(data_offsets=[64, 320])),
    "a name that is a path": with_header(
        lambda header, rng: header.update({"../../evil": header.pop(next(iter(header)))})
    ),
    "a tensor more": values(lambda tensors, rng: tensors.update(evil=torch.ones(3))),
    "a tensor fewer": values(lambda tensors, rng: tensors.pop(one(tensors, rng))),
    "a longer tensor": values(
        lambda tensors, rng: tensors.update({(n := one(tensors, rng)): torch.cat([tensors[n]] * 2)})
    ),
    "a tensor cut": values(lambda tensors, rng: tensors.update({(n := one(tensors, rng)): tensors[n][:1]})),
    "a scalar": values(lambda tensors, rng: tensors.update({one(tensors, rng): torch.tensor(1.0)})),
    "NaN": values(with_nan(float("nan"))),
    "infinity": values(with_nan(float("-inf"))),
    "complex numbers": values(lambda tensors, rng: tensors.update({(n := one(tensors, rng)): tensors[n] + 0j})),
    "doubles": values(lambda tensors, rng: tensors.update({(n := one(tensors, rng)): tensors[n].double()})),
}


# --- code ---


class Evil:
    """Makes the canary where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.canary,)


def evil_pickle(place: Place) -> bytes:
    return pickle.dumps({"weight": Evil(place.canary)})


def evil_archive(place: Place, file: Path) -> None:
    """As torch.save writes it."""
    torch.save({"weight": Evil(place.canary)}, file)


def evil_code(place: Place) -> str:
    """A module that makes the canary where it is imported."""
    return f"import os\nos.mkdir({str(place.canary)!r})\nclass Evil:\n    pass\n"


# --- files ---


def replaced(name: str, by: str) -> Change:
    """A file of the run replaced by something that is no file, or by a link."""

    def apply(place: Place, rng: random.Random) -> None:
        file = place.run / name
        shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
        if by == "pipe":
            os.mkfifo(file)
        elif by == "folder":
            file.mkdir()
        elif by == "device":
            file.symlink_to("/dev/zero")
        elif by == "itself":
            file.symlink_to(file.name)
        elif by == "nothing":
            pass
        else:
            file.symlink_to(place.outside / by)

    return apply


def pickled(name: str) -> Change:
    """A pickle in place of a file."""
    return lambda place, rng: (place.run / name).write_bytes(evil_pickle(place))


def beside(name: str, archive: bool = False) -> Change:
    """A pickle, or code, beside the files."""

    def apply(place: Place, rng: random.Random) -> None:
        file = place.run / name
        if name.endswith(".py"):
            file.write_text(evil_code(place))
        elif archive:
            evil_archive(place, file)
        else:
            file.write_bytes(evil_pickle(place))

    return apply


def several(*changes: Change) -> Change:
    def apply(place: Place, rng: random.Random) -> None:
        for change in changes:
            change(place, rng)

    return apply
