"""`TrainingClock`: how long a training took, what was done before a break included."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path

from blob_pyro.errors import RunDirectoryError
from blob_pyro.storage.directory import read_json, write_json
from blob_pyro.training.checkpoints import Checkpoints

SECONDS = "seconds.json"


class TrainingClock:
    """Runs from when it is made. Steps that were lost between the last checkpoint and a break are not counted."""

    def __init__(self) -> None:
        self._start, self._before = time.perf_counter(), 0.0

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
        self._before = max((_seconds_of(folder / SECONDS) for folder in newest), default=0.0)


def _seconds_of(file: Path) -> float:
    """Of one checkpoint; 0 without the file, as an older version leaves it."""
    found = read_json(file).get("train_seconds", 0.0)
    if isinstance(found, bool) or not isinstance(found, int | float) or not (0 <= found < math.inf):
        raise RunDirectoryError(f"{file}: expected train_seconds to be a number of at least 0; got {str(found)[:80]}")
    return float(found)
