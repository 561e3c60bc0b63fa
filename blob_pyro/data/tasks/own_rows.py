"""Raw rows of one's own: of one file or several, or of a data set; what is empty in them is left out where asked."""

from __future__ import annotations

import glob
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

from blob_pyro.config.data import files_of
from blob_pyro.config.sections import DataConfig
from blob_pyro.data.prompts import PromptTemplate
from blob_pyro.data.rows.fields import field_of, has_text, lifted
from blob_pyro.data.rows.files import read_rows, refuse_address
from blob_pyro.data.rows.hub import read_dataset
from blob_pyro.data.rows.row import Row
from blob_pyro.data.rows.wording import name_lines, quoted
from blob_pyro.errors import ConfigError, DataError
from blob_pyro.system.printing import is_text


@dataclass(frozen=True)
class SourceRows:
    """Raw rows of one source.

    Attributes:
        rows: as they are in it; of what is trained or tested on with nested fields that settings name at their paths.
        source: its name, for messages.
        left_out: a line that counts the rows that are left out; None where none is.
    """

    rows: list[Row]
    source: str
    left_out: str | None = None


TrainRows = list[SourceRows]
"""The raw rows to train on, source by source."""


def read_train_rows(config: DataConfig) -> TrainRows:
    """The raw rows to train on."""
    if config.dataset is not None:
        return _with_paths(config, [_read_split(config, config.dataset, config.train_split or "train")])
    if config.train_file is None:
        raise ConfigError("data: expected data.train_file, data.prompt and data.labels; got a configuration without")
    return _read_files(config, config.train_file, "data.train_file")


def read_test_rows(config: DataConfig) -> list[SourceRows]:
    """The raw rows to test on; none where there is no such file or split."""
    if config.dataset is not None and config.test_split is not None:
        return _with_paths(config, [_read_split(config, config.dataset, config.test_split)])
    return _read_files(config, config.test_file, "data.test_file")


def _read_files(config: DataConfig, value: list[str] | str | None, setting: str) -> list[SourceRows]:
    return _with_paths(config, [read_items(config, file) for file in named_files(value, setting)])


def _with_paths(config: DataConfig, parts: Sequence[SourceRows]) -> list[SourceRows]:
    names = [config.label_field, config.group_field, config.id_field, *files_of(config.choices_field)]
    return [replace(part, rows=lifted(part.rows, names)) for part in parts]


def read_items(config: DataConfig, file: str, with_labels: bool = True) -> SourceRows:
    """The rows of a file that is read as those of a run.

    Args:
        config: of the run.
        file: its name.
        with_labels: leave out rows without a label, too, where `config` says so.

    Raises:
        DataError: it cannot be read (see `read_rows`), or nothing is left of it.
    """
    rows = read_rows(file, encoding=config.encoding, max_megabytes=config.max_megabytes)
    return _without_empty(config, SourceRows(rows, file), with_labels)


def _read_split(config: DataConfig, dataset: str, split: str) -> SourceRows:
    most = config.max_megabytes
    rows = read_dataset(dataset, config.dataset_config, split, revision=config.revision, max_megabytes=most)
    return _without_empty(config, SourceRows(rows, f"{dataset} {split}"), with_labels=True)


def named_files(value: list[str] | str | None, setting: str) -> list[str]:
    """The files that a setting names: each by its name or by a pattern, whose files come sorted.

    Raises:
        DataError: no file fits a pattern, or one is named twice.
    """
    files: list[str] = []
    for name in files_of(value):
        refuse_address(name)
        has_pattern = glob.has_magic(name) and not os.path.exists(name)
        found = sorted(glob.glob(name, recursive=True)) if has_pattern else [name]
        if not found:
            raise DataError(f"{setting}: expected files that fit {name!r}; there is none: check the pattern")
        files += found
    places: dict[tuple[object, ...], str] = {}
    for file in files:
        other = places.setdefault(_identity(file), file)
        if other is not file:
            told = f"{file} twice" if other == file else f"{other} and {file}, which are one file"
            raise DataError(f"{setting}: expected each file once; got {told}: leave one out")
    return files


def _identity(file: str) -> tuple[object, ...]:
    """The same for all names of one file, by links too."""
    try:
        found = os.stat(file)
    except (OSError, ValueError):  # it is refused when it is read
        return (os.path.abspath(file),)
    return found.st_dev, found.st_ino


def _without_empty(config: DataConfig, found: SourceRows, with_labels: bool) -> SourceRows:
    """The rows that are not empty, where the configuration says so."""
    if not config.skip_empty or config.task is not None:
        return found
    reasons: dict[str, list[int]] = {}
    kept = []
    for row in found.rows:
        if reason := _empty(config, row, with_labels):
            reasons.setdefault(reason, []).append(row.line)
        else:
            kept.append(row)
    if not reasons:
        return found
    words = ", ".join(f"{len(lines)} without {reason} ({name_lines(lines)})" for reason, lines in reasons.items())
    note = (
        f"{found.source}: {len(found.rows) - len(kept)} of {len(found.rows)} rows left out: {words} (data.skip_empty)"
    )
    if not kept:
        raise DataError(f"{note}: expected at least one that is not empty: check data.prompt and data.label_field")
    return replace(found, rows=kept, left_out=note)


def _empty(config: DataConfig, row: Row, with_labels: bool) -> str:
    """What a row has none of that it needs; "" for a row that has all. A field that is not there is not empty."""
    for template, setting in ((config.prompt, "data.prompt"), (config.completion, "data.completion")):
        if template is not None:
            parts = PromptTemplate(template, setting=setting)
            if not _has_some(row, parts.fields):
                return f"text in the {parts.noun}"
    needs_label = with_labels and not config.own_texts
    return "a label" if needs_label and not _has_some(row, [config.label_field]) else ""


def _has_some(row: Row, names: Sequence[str]) -> bool:
    """Whether any of some fields has text; true where one is not there, to be refused."""
    try:
        return any([has_text(field_of(row.fields, name)) for name in names])
    except KeyError:
        return True


def item_ids(config: DataConfig, rows: Sequence[Row], source: str, required: bool) -> list[str] | None:
    """What the items are called in `config.id_field`; None where they are called by their lines.

    Raises:
        DataError: rows have no id, or one that is no text.
    """
    if config.id_field is None:
        return None
    ids = [row.fields.get(config.id_field) for row in rows]
    missing = [row for row, name in zip(rows, ids, strict=True) if not has_text(name)]
    if len(missing) == len(rows) and not required:
        return None
    if missing:
        raise DataError(
            f"{source}: expected an id in the field {config.id_field!r} of every row; got none on "
            f"{name_lines([row.line for row in missing])} (line {missing[0].line} has {quoted(missing[0].fields)}): "
            "add it, or leave data.id_field out"
        )
    if halves := [row.line for row, name in zip(rows, ids, strict=True) if not is_text(str(name))]:
        raise DataError(
            f"{source}: expected text in the field {config.id_field!r}; got half of a surrogate pair on "
            f"{name_lines(halves)}: mend it, or leave data.id_field out"
        )
    return [str(name).strip() for name in ids]
