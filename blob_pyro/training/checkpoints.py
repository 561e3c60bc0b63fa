"""`Checkpoints`: the state of training on disk, whole or not there at all.

    checkpoints/step-00000120/
        training.safetensors    the tensors of `TrainingState`
        training.json           its numbers, what they belong to, the versions that wrote them, and checksums
        ...                     whatever `also` writes beside them (a run: adapter and posterior)

A checkpoint is written into a folder of another name, flushed to the disk, and then renamed: a process that is killed
at any moment leaves the older checkpoints as they were, and no half of a new one. Nothing in a checkpoint is executed,
and no name in it is used as a path.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

from blob_pyro.errors import CheckpointError
from blob_pyro.system.files import digest, read_object, write_whole
from blob_pyro.system.hub_errors import one_line
from blob_pyro.system.machine import versions
from blob_pyro.system.processes import Ranks
from blob_pyro.training.state_checks import check_state
from blob_pyro.training.training_state import TrainingState

FORMAT, VERSION = "blob_pyro.training", 1
TENSORS, DESCRIPTION = "training.safetensors", "training.json"
_NAME = re.compile(r"step-([0-9]{8,18})")
_UNFINISHED = (".writing-", ".removing-")


class Checkpoints:
    """The checkpoints of one training.

    Args:
        folder: where they are; made when the first is written.
        keep: how many of the newest stay.
        belongs_to: name -> value of what must be the same for training to go on from them (model, guide, recipe);
            JSON types only.
        also: writes what else a checkpoint should hold into a folder.

    Raises:
        ValueError: keep is below 1.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        keep: int = 2,
        belongs_to: Mapping[str, Any] | None = None,
        also: Callable[[Path], None] | None = None,
    ) -> None:
        if keep < 1:
            raise ValueError(f"keep: expected at least 1; got {keep}")
        self.folder, self._keep, self._also = Path(folder), keep, also
        self._belongs_to = json.loads(json.dumps(dict(belongs_to or {})))  # as it comes back from a file

    def steps(self) -> list[int]:
        """Steps of the checkpoints that are there, ascending."""
        if not self.folder.is_dir():
            return []
        return sorted(int(found[1]) for entry in self.folder.iterdir() if (found := _NAME.fullmatch(entry.name)))

    @property
    def last_step(self) -> int:
        """Step of the newest one; 0 without any."""
        return (self.steps() or [0])[-1]

    def path(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.folder / f"step-{step:08d}"

    def save(self, state: TrainingState, ranks: Ranks) -> None:
        """Write a checkpoint, and remove all but the newest. Every process calls it, the first one writes.

        Raises:
            CheckpointError: it could not be written; those that were there are as before.
        """
        failure = None
        if ranks.is_first:
            try:
                self._write(state, ranks)
            except (OSError, SafetensorError) as error:
                failure = one_line(getattr(error, "strerror", None) or error)
        failure = ranks.gather(failure)[0]
        if failure is not None:
            whole = f"the one of step {self.steps()[-1]} is whole" if self.steps() else "there is no older one"
            raise CheckpointError(
                f"{self.path(state.step)}: expected to write a checkpoint; {failure}; {whole}: make room, and go on "
                "with --resume"
            )

    def load(self, ranks: Ranks, step: int | None = None) -> TrainingState | None:
        """The newest checkpoint, or that of a step; None where there is none.

        Of one that other versions of the libraries wrote a warning tells: with them numbers may be rounded otherwise.

        Raises:
            CheckpointError: it is altered, incomplete, of another format version, or belongs to something else. Older
                ones are not touched: without the bad one's folder the next older is the newest.
        """
        steps = self.steps()
        if not steps:
            return None
        path = self.path(steps[-1] if step is None else step)
        described = _verified(path)
        self._check(path, described, ranks)
        changed = _changes(described["versions"], versions())
        if changed and ranks.is_first:
            warnings.warn(
                f"resumed under other versions than the checkpoint's ({changed}): training goes on, but need not end "
                "bit by bit as without a break",
                stacklevel=2,
            )
        try:
            state = TrainingState(load_file(path / TENSORS), described["numbers"])
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            raise _bad(path, one_line(error)) from error
        try:
            check_state(state.tensors, state.numbers)
            if self.path(state.step) != path:
                raise ValueError(f"it is the state after step {state.step}")
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
            raise _bad(path, f"{type(error).__name__}: {one_line(error, 200)}") from error
        return state

    def remove(self) -> None:
        """Remove all of them, and the folder."""
        if self.folder.is_dir():
            shutil.rmtree(self.folder)

    def _write(self, state: TrainingState, ranks: Ranks) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._clear()
        final = self.path(state.step)
        if final.exists():
            return
        temporary = self.folder / f"{_UNFINISHED[0]}{final.name}"
        try:
            temporary.mkdir()
            if self._also is not None:
                self._also(temporary)
            write_whole(temporary / TENSORS, to_bytes(state.tensors))
            content = {
                "format": FORMAT,
                "version": VERSION,
                "belongs_to": self._belongs_to | {"num_processes": ranks.num},
                "numbers": state.numbers,
                "versions": versions(),
                "sha256": {str(file.relative_to(temporary)): digest(file) for file in _files(temporary)},
            }
            description = {"content": content, "sha256": _digest_of(content)}
            write_whole(temporary / DESCRIPTION, json.dumps(description) + "\n")
            _flush(temporary)
            temporary.rename(final)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        _flush_entry(self.folder)
        for step in self.steps()[: -self._keep]:
            self._remove(step)

    def _remove(self, step: int) -> None:
        """Under another name first, so that no half of it is taken for a checkpoint."""
        leaving = self.folder / f"{_UNFINISHED[1]}{self.path(step).name}"
        self.path(step).rename(leaving)
        shutil.rmtree(leaving)

    def _clear(self) -> None:
        """Remove what a process that was killed has left half done."""
        for entry in self.folder.iterdir():
            if entry.name.startswith(_UNFINISHED):
                shutil.rmtree(entry)

    def _check(self, path: Path, described: Mapping[str, Any], ranks: Ranks) -> None:
        found, expected = described["belongs_to"], self._belongs_to | {"num_processes": ranks.num}
        for name in sorted(found.keys() | expected.keys()):
            if found.get(name) != expected.get(name):
                raise CheckpointError(
                    f"{path}: expected a checkpoint of this run; its {name.replace('_', ' ')} is "
                    f"{_short(found.get(name))}, here it is {_short(expected.get(name))}"
                )


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """What has another version now; "torch 2.12.0, now 2.13.0"."""
    changed = [
        f"{name} {one_line(str(before.get(name)), 40)}, now {version}"
        for name, version in now.items()
        if before.get(name) != version
    ]
    return "; ".join(changed)


def _verified(path: Path) -> dict[str, Any]:
    """The description of a checkpoint all of whose files are as they were written."""
    try:
        described = read_object(path / DESCRIPTION)
        content, written = described["content"], described["sha256"]
        kind, number, sums = content["format"], content["version"], _mapping(content, "sha256")
        _mapping(content, "versions"), _mapping(content, "belongs_to"), _mapping(content, "numbers")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _bad(path, f"{DESCRIPTION} cannot be read ({one_line(error, 200)})") from error
    if (kind, number) != (FORMAT, VERSION):
        raise CheckpointError(
            f"{path}: expected {FORMAT} version {VERSION}; got {_short(kind)} version {_short(number)}; go on with the "
            "version of blob_pyro that wrote it"
        )
    if written != _digest_of(content):
        raise _bad(path, f"{DESCRIPTION} is not as it was written")
    found = {str(file.relative_to(path)): file for file in _files(path) if file.name != DESCRIPTION}
    if odd := sorted(found.keys() ^ sums.keys()):
        raise _bad(path, f"{odd[0]} {'is missing' if odd[0] in sums else 'was added'}")
    for name, file in found.items():
        if digest(file) != sums[name]:
            raise _bad(path, f"{name} is not as it was written")
    verified: dict[str, Any] = content
    return verified


def _mapping(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    if not isinstance(content[name], dict):
        raise TypeError(f"{name} is a {type(content[name]).__name__}")
    return dict(content[name])


def _bad(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: expected a whole checkpoint; {why}; delete this folder to go on from the one before it"
    )


def _files(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.rglob("*") if entry.is_file())


def _digest_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _flush(folder: Path) -> None:
    """Put every file and folder below onto the disk."""
    for entry in (*folder.rglob("*"), folder):
        _flush_entry(entry)


def _flush_entry(entry: Path) -> None:
    descriptor = os.open(entry, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."
