"""What a trial found, and the file that keeps it, so that a search goes on where it stopped."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from blob_pyro.config.sections import RunConfig
from blob_pyro.runs.tuning.choices import Settings, settings_of
from blob_pyro.storage.directory import CONFIG, HISTORY, changes, read_config
from blob_pyro.storage.posterior_files import ADAPTER, DESCRIPTION, TENSORS
from blob_pyro.system.files import room_for

TRIALS, TUNING = "tuning.jsonl", "tuning.json"
TRIAL_CHECKPOINTS = "tuning_checkpoints"


@dataclass(frozen=True)
class Measured:
    """How a configuration did on the held-out items.

    Attributes:
        nlls: -log p(label) of each held-out item in nats, p averaged over the draws; None where training failed.
        num_blocks: transformer blocks of the network; 0 where they are not in one list.
        seconds: of training and prediction.
    """

    nlls: tuple[float, ...] | None
    num_blocks: int
    seconds: float


Measure = Callable[[RunConfig], Measured]


class TrialLog:
    """Measures configurations, each once: what is in the file already is read from it.

    Args:
        path: the run directory, whose `tuning.jsonl` has one line a trial; made by `measure` if it is not there.
        measure: trains and predicts.

    Attributes:
        num_made: trials that this object measured itself.
    """

    def __init__(self, path: Path, measure: Measure) -> None:
        self.file = path / TRIALS
        self.measure = measure
        self.num_made = 0
        self._known = _read(self.file)

    def __call__(self, config: RunConfig) -> Measured:
        """What `measure` finds, or found; only the searched settings of `config` may differ between calls."""
        settings = settings_of(config)
        if (key := _key(settings)) not in self._known:
            found = self._known[key] = self.measure(config)
            self.num_made += 1
            _append(self.file, settings, found)
        return self._known[key]

    def __len__(self) -> int:
        """Number of trials in the file."""
        return len(self._known)


def is_unfinished_search(config: RunConfig) -> bool:
    """Whether `config.output` holds trials of this very configuration, and no training after them."""
    path = Path(config.output)
    later = (HISTORY, ADAPTER, TENSORS, DESCRIPTION)
    if not config.tune.search or any((path / name).exists() for name in later):
        return False
    return all((path / name).is_file() for name in (CONFIG, TRIALS)) and not changes(read_config(path), config)


@dataclass(frozen=True)
class TrialPlace:
    """Where the checkpoints of a trial are while it is trained.

    Attributes:
        run: the run directory.
        number: of the trial, from 1.
    """

    run: Path
    number: int

    @property
    def folder(self) -> Path:
        """Its checkpoints."""
        return self.run / TRIAL_CHECKPOINTS / f"trial-{self.number}"

    def remove_others(self) -> None:
        """Remove the checkpoints of all other trials."""
        for entry in self.folder.parent.iterdir() if self.folder.parent.is_dir() else ():
            if entry != self.folder:
                shutil.rmtree(entry)


def remove_trial_checkpoints(run: Path) -> None:
    """Remove those of all trials of a run, behind the search."""
    if (run / TRIAL_CHECKPOINTS).is_dir():
        shutil.rmtree(run / TRIAL_CHECKPOINTS)


def _key(settings: Settings) -> str:
    return json.dumps(settings, sort_keys=True)


def _append(file: Path, settings: Settings, found: Measured) -> None:
    line = {"settings": settings, "nlls": found.nlls, "num_blocks": found.num_blocks, "seconds": found.seconds}
    before = file.read_bytes() if file.exists() else b""
    start = "" if before.endswith(b"\n") or not before else "\n"  # after half a line
    with room_for(file), file.open("a", encoding="utf-8") as out:
        out.write(start + json.dumps(line) + "\n")


def _read(file: Path) -> dict[str, Measured]:
    """The trials of a file; a line that a crash cut short is none."""
    known = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        nlls = None if row["nlls"] is None else tuple(row["nlls"])
        known[_key(row["settings"])] = Measured(nlls, row["num_blocks"], row["seconds"])
    return known
