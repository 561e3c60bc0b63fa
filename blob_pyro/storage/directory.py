"""A run's directory: what is in it, and the configuration that it was made with.

A run directory holds `config.yaml`, `about.json`, `history.jsonl`, `metrics.json`, `cost.json`, `predictions.parquet`,
`reliability.png` and what `blob_pyro.storage.saving` writes (adapter, posterior).
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from blob_pyro.config.file import check_file, flat_settings, to_dict
from blob_pyro.config.sections import RunConfig
from blob_pyro.config.types import expected_type, fits
from blob_pyro.errors import BlobPyroError, ConfigError, DataError, DiskFullError, RunDirectoryError
from blob_pyro.guides.settings import KEYS, check_settings
from blob_pyro.storage.posterior_files import ADAPTER, DESCRIPTION, TENSORS
from blob_pyro.system.files import LONGEST_NAME, WRITTEN, file_in, read_object, strict_json, write_whole
from blob_pyro.system.hub_errors import one_line
from blob_pyro.system.locks import LOCK

CHECKPOINTS, EXTENSION = "checkpoints", ".extension"
COMPARISON = "comparison.md"
CONFIG, HISTORY, METRICS, COST = "config.yaml", "history.jsonl", "metrics.json", "cost.json"
ABOUT, PREDICTIONS, RELIABILITY = "about.json", "predictions.parquet", "reliability.png"
REVISIONS = "revisions"  # in about.json: the commits of the hub
PARTS = (
    CONFIG, ABOUT, HISTORY, METRICS, COST, PREDICTIONS, RELIABILITY, ADAPTER, TENSORS, DESCRIPTION, WRITTEN,
    CHECKPOINTS, EXTENSION,
)  # fmt: skip


def refuse_used_directory(path: str | Path) -> None:
    """Check that a run can be written to `path`, without touching it.

    Raises:
        RunDirectoryError: it holds (parts of) a run, for nothing is ever overwritten; or it is a file.
        DataError: it is a run's own file.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise RunDirectoryError(f"{path}: expected a directory to write to; got a file; choose another --output")
    refuse_part_of_run(path)
    for name in PARTS:
        if (path / name).exists():
            raise RunDirectoryError(
                f"{path}: expected a new run directory; it holds a run ({name}); choose another --output, "
                "delete it, or go on with it by --resume"
            )


def refuse_part_of_run(output: str | Path) -> None:
    """Check that what a command writes is no file of a run, there or missing, and lies in no folder of one.

    Hidden names in the directory of a run or of a comparison are their own, too: a lock, and what is half written.

    Raises:
        DataError: it is one.
    """
    path = Path(output).resolve()
    for folder in path.parents:
        part = path.relative_to(folder).parts[0]
        if part in PARTS and any((folder / name).is_file() for name in (CONFIG, ABOUT, DESCRIPTION)):
            raise DataError(
                f"--output: expected another file than those of a run; got {output}: {part} is one of {folder}'s"
            )
        kept = (ABOUT, DESCRIPTION, COMPARISON, LOCK)
        if part == LOCK or (part.startswith(".") and any((folder / name).is_file() for name in kept)):
            raise DataError(
                f"--output: expected a name without a dot in front, where runs keep files of their own; got {output}"
            )


def refuse_output(output: str | Path) -> None:
    """Check that a file can be written to `output`, of which nothing is said where one is there.

    Raises:
        DataError: its name is too long; it is a folder, or lies in none; or it is a run's (see `refuse_part_of_run`).
    """
    path = Path(output)
    if len(os.fsencode(path.name)) > LONGEST_NAME:
        raise DataError(f"--output: expected a name of at most {LONGEST_NAME} bytes; got {path.name[:40]}...")
    refuse_part_of_run(path)
    if path.is_dir():
        raise DataError(f"--output: expected a file to write to; got the folder {output}")
    if not path.resolve().parent.is_dir():
        raise DataError(f"--output: expected a file in a folder that exists; got {output}")


def holds_run_of(config: RunConfig) -> bool:
    """Whether `config.output` holds a run of this very configuration, finished or not.

    Raises:
        RunDirectoryError: it holds one of another configuration.
    """
    path = Path(config.output)
    if not (path / CONFIG).is_file():
        return False
    found = read_config(path)
    before, now = flat_settings(found), flat_settings(config)
    changed = [f"{name} {before.get(name)!r}, now {now.get(name)!r}" for name in changes(found, config)]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise RunDirectoryError(
            f"{path}: expected the configuration that its run was made with; {'; '.join(changed[:3])}{more}: go on "
            "with the same, or choose another --output"
        )
    return True


def changes(before: RunConfig, now: RunConfig) -> list[str]:
    """Names of the settings in which two configurations differ, but for where their runs lie and the base is put."""
    one, other = flat_settings(before), flat_settings(now)
    places = ("output", "model.device_map")
    return [name for name in one | other if name not in places and one.get(name) != other.get(name)]


def is_finished(config: RunConfig) -> bool:
    """Whether the run in `config.output` has come to its end: with metrics; without test items, with a posterior."""
    path = Path(config.output)
    return (path / (METRICS if config.data.is_tested else COST)).is_file() and not (path / CHECKPOINTS).exists()


def refuse_links(path: str | Path, names: Iterable[str] | None = None) -> None:
    """Check that what is read from a run directory, or written into it, lies in it.

    Args:
        path: the directory.
        names: of the files that are read; None stands for all that is in it.

    Raises:
        RunDirectoryError: one of them is a link that leads out of it.
    """
    path = Path(path)
    inside = path.resolve()
    for entry in path.rglob("*") if names is None else [path / name for name in names]:
        if entry.is_symlink() and not Path(os.path.realpath(entry)).is_relative_to(inside):
            raise RunDirectoryError(
                f"{path}: expected a run directory whose files lie in it; {entry.relative_to(path)} in it is a link "
                "out of it: put a copy in its place (cp -RL copies a directory so)"
            )


def new_run_directory(config: RunConfig) -> Path:
    """Make the run directory, with the configuration in it.

    Raises:
        RunDirectoryError: it holds a run already, or cannot be written.
    """
    path = Path(config.output)
    refuse_used_directory(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        write_yaml(path / CONFIG, to_dict(config))
    except DiskFullError:
        raise
    except OSError as error:
        raise RunDirectoryError(f"{path}: expected a directory to write to; {error.strerror or error}") from error
    return path


def read_config(run_dir: str | Path) -> RunConfig:
    """The configuration that a run was made with.

    Raises:
        RunDirectoryError: there is none, or it is not one of this version.
    """
    file = file_in(Path(run_dir), CONFIG)
    if not file.is_file():
        raise RunDirectoryError(f"{run_dir}: expected a run directory with {CONFIG}; it is not there; check the path")
    try:
        raw = check_file(file, KEYS)
        _check_types(raw)
        config = RunConfig(**{name: _build(KEYS[name], value) for name, value in raw.items()})
        check_settings(config.guide)
        return config
    except (BlobPyroError, TypeError) as error:
        why = one_line(error)
        raise RunDirectoryError(f"{file}: expected the configuration of a run; it cannot be used: {why}") from error


def pinned(config: RunConfig, run_dir: str | Path) -> RunConfig:
    """The configuration with the commits of the hub that a run was made with, in place of the revisions asked for.

    Args:
        config: the run's.
        run_dir: tells the commits in about.json; where it tells none the configuration stays as it is.
    """
    found = read_json(file_in(Path(run_dir), ABOUT)).get(REVISIONS)
    if not isinstance(found, dict):
        return config
    model = dataclasses.replace(config.model, revision=found.get("model", config.model.revision))
    data = dataclasses.replace(config.data, revision=found.get("data", config.data.revision))
    return dataclasses.replace(config, model=model, data=data)


def write_yaml(path: Path, value: Mapping[str, Any]) -> None:
    """A mapping as a YAML file, in its own order."""
    write_whole(path, yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True))


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A mapping as a JSON file; null stands for a number that is not finite."""
    write_whole(path, strict_json(value, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """What `write_json` wrote; nothing where there is no such file.

    Raises:
        RunDirectoryError: the file holds something else.
    """
    try:
        return read_object(path, finite=False) if path.is_file() else {}
    except TypeError as error:
        raise RunDirectoryError(f"{path}: {error}") from error
    except ValueError as error:
        raise RunDirectoryError(f"{path}: expected JSON; it cannot be read: {error}") from error


def _check_types(raw: Mapping[str, Any]) -> None:
    """Raise where a value of a configuration is not of the type of its key; files of `fit` are converted instead."""
    for section, found in raw.items():
        values = {section: found}
        if dataclasses.is_dataclass(KEYS[section]):
            values = {f"{section}.{name}": value for name, value in found.items()}
        for name, value in values.items():
            if not fits(value, KEYS[name]):
                raise ConfigError(f"{name}: expected {expected_type(KEYS[name])}; got {str(value)[:100]}")


def _build(kind: Any, value: Any) -> Any:
    """A section's dataclass from its mapping; any other value as it is."""
    return kind(**value) if isinstance(value, dict) else value
