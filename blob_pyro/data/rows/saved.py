"""Reads the folders of `datasets.Dataset.save_to_disk`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blob_pyro.data.rows.row import Row, as_written, json_value
from blob_pyro.data.rows.wording import quoted
from blob_pyro.errors import DataError
from blob_pyro.system.hub_errors import one_line

_ONE, _SEVERAL = "state.json", "dataset_dict.json"


def is_saved_dataset(path: Path) -> bool:
    """Whether a folder is what `save_to_disk` writes, of one split or of several."""
    return (path / _ONE).is_file() or (path / _SEVERAL).is_file()


def read_saved(path: Path, max_megabytes: int, split: str | None = None) -> list[Row]:
    """The rows of a split, numbered from 1, with the names of labels that are numbers.

    Args:
        path: a folder for which `is_saved_dataset` holds.
        max_megabytes: most MB (10^6 bytes) of the split's tables.
        split: one of several; not used where the folder is of a single one.

    Raises:
        DataError: it cannot be read, is larger, has no row, or has several splits of which none is named.
    """
    import datasets

    folder = path
    if not (path / _ONE).is_file():
        splits = sorted(folder.name for folder in path.iterdir() if (folder / _ONE).is_file())
        if split not in splits:
            raise DataError(
                f"{path}: expected a saved data set of one split; got one of {quoted(splits)}: name "
                f"{path / (splits or ['SPLIT'])[0]}, say"
            )
        folder = path / str(split)
    try:
        found = datasets.Dataset.load_from_disk(str(folder)).with_format(None)
        size = found.data.nbytes  # its tables lie on disk until they are read
        rows = named_rows(found) if size <= max_megabytes * 10**6 else []
    except Exception as error:  # whatever the files' formats raise
        raise DataError(
            f"{folder}: expected a data set as save_to_disk writes it; it cannot be read "
            f"({one_line(error, limit=200)}): save it anew"
        ) from error
    if size > max_megabytes * 10**6:
        raise DataError(
            f"{folder}: expected a data set of at most {max_megabytes:,} MB; got {size / 10**6:,.0f} MB: "
            "set data.max_megabytes where it is meant"
        )
    if not rows:
        raise DataError(f"{folder}: expected at least one row; got none: put one item on each row")
    return rows


def named_rows(found: Any) -> list[Row]:
    """Rows with the names of labels that are numbers; those below 0 are no label."""
    names: dict[str, list[str]] = {name: kind.names for name, kind in found.features.items() if hasattr(kind, "names")}
    kinds = found.features.arrow_schema
    rows = []
    for number, raw in enumerate(found, start=1):
        fields = {name: json_value(as_written(value, kinds.field(name).type)) for name, value in raw.items()}
        for name, words in names.items():
            label = fields[name]
            fields[name] = None if label is None or label < 0 else words[label]
        rows.append(Row(number, fields))
    return rows
