"""What runs are called beside each other: runs that differ in their seed alone are one system."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from blob_pyro.config.file import flat_settings
from blob_pyro.config.methods import method_of
from blob_pyro.config.sections import RunConfig
from blob_pyro.guides import GUIDES
from blob_pyro.storage.run_files import RunFiles

OF_ONE_RUN = ("seed", "output", "model.adapter", "train.save_steps", "train.save_total_limit", "train.trackers")
MOST_SETTINGS = 3


@dataclasses.dataclass(frozen=True)
class System:
    """Runs of one configuration.

    Attributes:
        name: how tables and pictures call it; no two have the same.
        runs: seed -> run, in the order of the seeds.
    """

    name: str
    runs: Mapping[int, RunFiles]

    @property
    def first(self) -> RunFiles:
        """The run of the lowest seed."""
        return next(iter(self.runs.values()))


def title_of(config: RunConfig) -> str:
    """What a run's system is called: as `compare` calls the method that it is of, or else as its guide."""
    method = method_of(config)
    return GUIDES[config.guide.name].title if method is None else method.title


def systems_of(runs: Sequence[RunFiles]) -> list[System]:
    """The runs by configuration, in the order in which they are given.

    Two runs of one configuration and one seed (of other versions, say) are systems of their own.
    """
    groups: dict[str, dict[int, RunFiles]] = {}
    for run in runs:
        key = _key(run)
        while run.config.seed in groups.get(key, {}):
            key += "'"
        groups.setdefault(key, {})[run.config.seed] = run
    found = [dict(sorted(by_seed.items())) for by_seed in groups.values()]
    return [System(name, by_seed) for name, by_seed in zip(_names(found), found, strict=True)]


def run_name(system: System, run: RunFiles, alone: bool) -> str:
    """The name of one run of a system; with its seed, unless it is alone."""
    return system.name if alone else f"{system.name}, seed {run.config.seed}"


def _key(run: RunFiles) -> str:
    """What runs of a system share."""
    settings = _shared_settings(run)
    own = {"title": title_of(run.config), "from adapter": run.config.model.adapter is not None}
    return json.dumps(settings | own, default=str)


def _shared_settings(run: RunFiles) -> dict[str, Any]:
    return {name: value for name, value in flat_settings(run.config).items() if name not in OF_ONE_RUN}


def _names(groups: Sequence[Mapping[int, RunFiles]]) -> list[str]:
    """`title_of` each; where several have it, also the settings in which they differ, or else their directory."""
    firsts = [next(iter(group.values())) for group in groups]
    titles = [title_of(run.config) for run in firsts]
    shared = Counter(titles)
    names = []
    for run, title in zip(firsts, titles, strict=True):
        alike = [other for other, name in zip(firsts, titles, strict=True) if name == title]
        names.append(title if shared[title] == 1 else f"{title} ({_difference(run, alike)})")
    counts = Counter(names)
    paths = [str(run.path) for run in firsts]
    return [name if counts[name] == 1 else f"{name} ({path})" for name, path in zip(names, paths, strict=True)]


def _difference(run: RunFiles, alike: Sequence[RunFiles]) -> str:
    """The settings of a run that are not the same in all, or its directory where there are none or too many."""
    own = _shared_settings(run)
    others = [_shared_settings(other) for other in alike]
    names = [name for name in own if any(other.get(name) != own[name] for other in others)]
    if not names or len(names) > MOST_SETTINGS:
        return str(run.path)
    return ", ".join(f"{name.rpartition('.')[2]} {own[name]}" for name in names)
