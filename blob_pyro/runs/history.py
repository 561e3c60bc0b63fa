"""`History`: what each step of a training saw, a line each, and what is saved when training ends, however it ends."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Iterable
from pathlib import Path

from blob_pyro.data.batches.collate import EncodedDataset
from blob_pyro.errors import BlobPyroError, NonFiniteLossError, RunDirectoryError, Stopped
from blob_pyro.guides import AdapterGuide
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.storage.directory import HISTORY, read_json, write_json
from blob_pyro.storage.saving import save
from blob_pyro.system.files import room_for, write_whole
from blob_pyro.system.processes import Ranks
from blob_pyro.training.checkpoints import Checkpoints
from blob_pyro.training.svi import StepResult


class History:
    """Context manager around a training: writes history.jsonl, and saves adapter and posterior at the end.

    Of several processes the first one alone writes.

    Args:
        path: the run directory.
        train: the items, by whose names an error tells which were in the batch.
        model, guide: what is trained.
        kept: lines of the file that stay, those of the steps before the checkpoint that training goes on from.
        resumable: whether there are checkpoints, so that a message can tell how to go on.
    """

    def __init__(
        self,
        path: Path,
        train: EncodedDataset,
        model: BayesianLoRA,
        guide: AdapterGuide,
        *,
        kept: int = 0,
        resumable: bool = False,
    ) -> None:
        self.path, self.train, self.model, self.guide = path, train, model, guide
        self._kept, self._resumable = kept, resumable
        self._writes = Ranks.here().is_first

    def __enter__(self) -> History:
        if self._writes:
            write_whole(self.path / HISTORY, "".join(self._lines()[: self._kept]))
            self._file = (self.path / HISTORY).open("a", encoding="utf-8")
        return self

    def record(self, result: StepResult) -> None:
        """Append one step; null stands for what was no finite number, or not measured."""
        if not self._writes:
            return
        values = {name: _finite(value) for name, value in dataclasses.asdict(result).items()}
        line = json.dumps({name: value for name, value in values.items() if _is_told(name, value)}) + "\n"
        with room_for(self.path / HISTORY):
            self._file.write(line)
            self._file.flush()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not self._writes:
            return
        self._file.close()
        try:
            save(self.path, self.model, self.guide)
        except Exception:
            if error is None or not isinstance(error, BlobPyroError):
                raise
            return  # a full disk, say: what stopped training tells more
        if isinstance(error, NonFiniteLossError):
            raise NonFiniteLossError(self._where_it_failed(error), error.items) from error
        if isinstance(error, KeyboardInterrupt):
            told = f"{self.path} holds the adapter and posterior after step {self._last_step()}"
            if self._resumable and isinstance(error, Stopped):
                told += ", and a checkpoint: the same command with --resume goes on"
            raise Stopped.after(error, told) from None

    def _lines(self) -> list[str]:
        file = self.path / HISTORY
        if not (self._kept and file.is_file()):
            return []
        try:
            return file.read_text(encoding="utf-8").splitlines(keepends=True)
        except UnicodeDecodeError as error:
            raise RunDirectoryError(
                f"{file}: expected the lines of the steps before; it is not UTF-8: delete it to go on without them"
            ) from error

    def _last_step(self) -> int:
        """Of the last line that was written, since Ctrl-C may come right after writing it; 0 without any."""
        lines = (self.path / HISTORY).read_text(encoding="utf-8").splitlines()
        return int(json.loads(lines[-1])["step"]) if lines else 0

    def _where_it_failed(self, error: NonFiniteLossError) -> str:
        """The message of a loss that is not finite, with the items' names and what was saved."""
        names = ", ".join(self.train.examples[i].id for i in error.items)
        return f"{error} ({names} of the training data); {self.path} holds {self._what_is_saved()}"

    def _what_is_saved(self) -> str:
        """The last step that was not skipped found the parameters before it good."""
        lines = (self.path / HISTORY).read_text(encoding="utf-8").splitlines()
        good = [line["step"] for line in map(json.loads, lines) if not line.get("skipped")]
        return f"the parameters before step {good[-1]}, whose loss was finite" if good else "the untrained parameters"


def _finite(value: float | None) -> float | None:
    return value if value is None or math.isfinite(value) else None


def _is_told(name: str, value: float | None) -> bool:
    """What most steps do not have is left out of their lines."""
    return value is not None if name in ("held_out_nll", "scale") else name != "skipped" or bool(value)


SECONDS = "seconds.json"


class TrainingClock:
    """Runs from when it is made. Steps that were lost between the last checkpoint and a break are not counted.

    Args:
        before: seconds that are behind.
    """

    def __init__(self, before: float = 0.0) -> None:
        self._start, self._before = time.perf_counter(), before

    @property
    def seconds(self) -> float:
        """So far."""
        return self._before + time.perf_counter() - self._start

    def write(self, folder: Path) -> None:
        """Put the seconds so far beside the state of training, into a checkpoint that is being written."""
        write_json(folder / SECONDS, {"train_seconds": self.seconds})

    def go_on_from(self, stores: Iterable[Checkpoints]) -> None:
        """Count what the newest checkpoints of a training tell; those of an ensemble's members tell of all before.

        Raises:
            RunDirectoryError: one holds no seconds.
        """
        newest = [store.path(store.last_step) for store in stores if store.last_step]
        self._before = max((_seconds_of(folder / SECONDS) for folder in newest), default=self._before)


def _seconds_of(file: Path) -> float:
    """Of one checkpoint; 0 without the file, as an older version leaves it."""
    found = read_json(file).get("train_seconds", 0.0)
    if isinstance(found, bool) or not isinstance(found, int | float) or not (0 <= found < math.inf):
        raise RunDirectoryError(f"{file}: expected train_seconds to be a number of at least 0; got {str(found)[:80]}")
    return float(found)
