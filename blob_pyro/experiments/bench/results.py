"""What a benchmark found (`BenchResult`), as a record that JSON gives back."""

from __future__ import annotations

import dataclasses
import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blob_pyro.experiments.bench.clock import Line, Spread, difference, fit_line, ratio
from blob_pyro.experiments.bench.memory import Memory
from blob_pyro.experiments.bench.settings import OURS, BenchSettings, Case, as_record, from_record
from blob_pyro.system.files import read_object, write_output

# part -> the axes of its grid
AXES = {"train": ("layers", "tokens"), "predict": ("layers", "num_samples")}


@dataclass(frozen=True)
class Measurement:
    """One case.

    Attributes:
        case: the point of the grid.
        tokens: real tokens in the batch of a round, padding left out.
        seconds: contender -> seconds of each round, in the order of the rounds.
        memory: contender -> its memory; empty where it was not measured.
    """

    case: Case
    tokens: int
    seconds: Mapping[str, Sequence[float]]
    memory: Mapping[str, Memory]

    def median(self, name: str) -> float:
        """Median seconds of a contender."""
        return Spread.of(self.seconds[name]).median

    def pairs(self) -> list[tuple[str, str]]:
        """Ours against each other contender; without ours, each against the first."""
        names = list(self.seconds)
        ours = [name for name in names if name in OURS]
        if not ours:
            return [(name, names[0]) for name in names[1:]]
        return [(one, other) for one in ours for other in names if one != other and (one, other) != OURS]

    def ratio(self, one: str, other: str) -> Spread:
        """Spread of the ratios of each round's seconds."""
        return ratio(self.seconds[one], self.seconds[other])

    def memory_ratio(self, one: str, other: str) -> float | None:
        """Ratio of the peaks; None where they were not measured."""
        if one not in self.memory or other not in self.memory:
            return None
        return self.memory[one].peak / self.memory[other].peak

    def bookkeeping(self) -> Spread | None:
        """What our step costs beyond plain LoRA, in seconds; None outside the bookkeeping part."""
        if self.case.part != "bookkeeping" or not {"blob", "lora"} <= set(self.seconds):
            return None
        return difference(self.seconds["blob"], self.seconds["lora"])

    def at(self, axis: str) -> int:
        """Where the case lies on an axis of its part's grid."""
        return self.tokens if axis == "tokens" else getattr(self.case, axis)


@dataclass(frozen=True)
class Growth:
    """How a contender's median time grows along one axis of the grid.

    Attributes:
        part: one of `PARTS`.
        contender: whose time.
        axis: "layers", "tokens" (of the batch) or "num_samples".
        fixed: the value of each other axis.
        points: value on the axis -> median seconds.
        line: least-squares line through them.
    """

    part: str
    contender: str
    axis: str
    fixed: Mapping[str, int]
    points: Mapping[int, float]
    line: Line


@dataclass(frozen=True)
class BenchResult:
    """Everything a benchmark found, and where.

    Attributes:
        settings: what was asked for.
        command: the command line; "" where it was called from Python.
        date: when it began, ISO 8601, UTC.
        machine: processor, threads, versions.
        measurements: one for each case.
    """

    settings: BenchSettings
    command: str
    date: str
    machine: Mapping[str, str | int]
    measurements: tuple[Measurement, ...]

    def growth(self) -> list[Growth]:
        """A line for each contender along each axis on which at least two cases lie."""
        return [found for part, axes in AXES.items() for axis in axes for found in self._along(part, axis)]

    def shares(self) -> list[tuple[Measurement, float]]:
        """Training cases with the share of our step that is bookkeeping with the model's own sites."""
        own = {
            m.case.layers: extra.median
            for m in self.measurements
            if m.case.own_sites and (extra := m.bookkeeping()) is not None
        }
        return [
            (m, own[m.case.layers] / m.median("blob"))
            for m in self.measurements
            if m.case.part == "train" and "blob" in m.seconds and m.case.layers in own
        ]

    def save(self, path: str | Path) -> None:
        """Write a JSON file; `BenchResult.load` reads it again."""
        write_output(Path(path), json.dumps(self.record(), indent=1) + "\n")

    @classmethod
    def load(cls, path: str | Path) -> BenchResult:
        """Read what `save` wrote."""
        record = json.loads(Path(path).read_text(encoding="utf-8"))
        return cls(
            settings=BenchSettings(**from_record(record["settings"])),
            command=record["command"],
            date=record["date"],
            machine=record["machine"],
            measurements=tuple(_measurement(entry) for entry in record["measurements"]),
        )

    def record(self) -> dict[str, Any]:
        """JSON types: the fields, and beside them the medians, ratios, lines and shares made of them."""
        return {
            "command": self.command,
            "date": self.date,
            "machine": dict(self.machine),
            "settings": as_record(self.settings),
            "measurements": [_entry(measurement) for measurement in self.measurements],
            "growth": [dataclasses.asdict(found) for found in self.growth()],
            "bookkeeping_share": [{"case": as_record(m.case), "share": share} for m, share in self.shares()],
        }

    def _along(self, part: str, axis: str) -> Iterator[Growth]:
        others = [other for other in AXES[part] if other != axis]
        groups: dict[tuple[int, ...], list[Measurement]] = {}
        for measurement in self.measurements:
            if measurement.case.part == part:
                groups.setdefault(tuple(measurement.at(other) for other in others), []).append(measurement)
        for values, group in groups.items():
            for name in group[0].seconds:
                points = {measurement.at(axis): measurement.median(name) for measurement in group}
                line = fit_line(points)
                if line is not None:
                    yield Growth(part, name, axis, dict(zip(others, values, strict=True)), points, line)


def is_result(file: Path) -> bool:
    """Whether a file is what `BenchResult.save` wrote."""
    try:
        return {"command", "machine", "settings", "measurements"}.issubset(read_object(file))
    except (OSError, ValueError, TypeError):
        return False


def now() -> str:
    """ISO 8601, UTC, to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


def _entry(measurement: Measurement) -> dict[str, Any]:
    extra = measurement.bookkeeping()
    return {
        "case": as_record(measurement.case),
        "tokens": measurement.tokens,
        "seconds": {name: list(values) for name, values in measurement.seconds.items()},
        "memory": {name: dataclasses.asdict(memory) for name, memory in measurement.memory.items()},
        "median": {name: measurement.median(name) for name in measurement.seconds},
        "ratios": {
            f"{one} / {other}": dataclasses.asdict(measurement.ratio(one, other))
            | {"memory": measurement.memory_ratio(one, other)}
            for one, other in measurement.pairs()
        },
        "bookkeeping": None if extra is None else dataclasses.asdict(extra),
    }


def _measurement(entry: Mapping[str, Any]) -> Measurement:
    return Measurement(
        case=Case(**from_record(entry["case"])),
        tokens=entry["tokens"],
        seconds=entry["seconds"],
        memory={name: Memory(**memory) for name, memory in entry["memory"].items()},
    )
