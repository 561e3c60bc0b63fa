"""What the user asked to reproduce, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from blob_pyro.config.ranges import LARGEST_SEED, MOST_WORKERS, check_range
from blob_pyro.errors import ConfigError
from blob_pyro.system.terminal import Console

Changes = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Order:
    """One table or figure of the paper, asked for.

    Attributes:
        path: directory of its runs, tables and figures; what is there already is not made again.
        model: hub id, local folder or alias; None takes the paper's at full scale and the packaged one at small.
        scale: "full", the paper's settings, or "small", settings that end on two cores.
        seeds: of the runs.
        tasks: other tasks than the paper's; None takes the paper's.
        methods: other systems than the paper's, names in `METHODS`; None takes the paper's. Only tables have them.
        data_dir: folder with local copies of the tasks; None asks the hub.
        changes: section of the configuration -> {setting: value} where it differs from the scale's own, as in
            {"train": {"num_steps": 20}}; see `settings.CHANGEABLE`.
        workers: runs to make at once, each in a process of its own; the cost table measures one after the other.
        console: shows progress, and receives lines for the user.

    Raises:
        ConfigError: `workers` is below 1 or beyond `MOST_WORKERS`, or a seed is none.
    """

    path: Path
    model: str | None = None
    scale: Literal["full", "small"] = "small"
    seeds: tuple[int, ...] = (0, 1, 2)
    tasks: tuple[str, ...] | None = None
    methods: tuple[str, ...] | None = None
    data_dir: str | None = None
    changes: Changes = field(default_factory=dict)
    workers: int = 1
    console: Console = field(default_factory=Console)

    def __post_init__(self) -> None:
        if self.workers < 1:
            raise ConfigError(f"workers: expected at least 1; got {self.workers}")
        check_range("workers", self.workers, 1, MOST_WORKERS)
        for seed in self.seeds:
            check_range("seeds", seed, 0, LARGEST_SEED)


@dataclass(frozen=True)
class Reproduction:
    """What came out.

    Attributes:
        text: Markdown: a line on what was run, the table, what failed.
        files: the tables and figures that were written.
    """

    text: str
    files: tuple[Path, ...]
