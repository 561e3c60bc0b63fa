"""Splits of a published data set: from a folder of local copies, or from the hub through `datasets`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blob_pyro.data.rows.contents import MAX_MEGABYTES
from blob_pyro.data.rows.files import SUFFIXES, read_rows
from blob_pyro.data.rows.row import Row
from blob_pyro.data.rows.saved import is_saved_dataset, named_rows, read_saved
from blob_pyro.errors import ConfigError, DataError
from blob_pyro.system.hub_errors import one_line, refusal
from blob_pyro.system.terminal import no_dataset_bars

HUB_TIMEOUT = 10.0  # seconds


@dataclass(frozen=True)
class HubSource:
    """Where the splits of a data set are.

    Attributes:
        path: the data set's name on the hub.
        config: its configuration there, or None.
        folder: the folder of its local copy, below data.data_dir.
        files: split -> name of its local file without suffix, where that is not the split's own name.
        revision: branch, tag or commit; None is the main branch.
    """

    path: str
    config: str | None
    folder: str
    files: Mapping[str, str] = field(default_factory=dict)
    revision: str | None = None

    def file(self, split: str) -> str:
        """The local file of a split below data.data_dir, without suffix."""
        return f"{self.folder}/{self.files.get(split, split)}"

    def __str__(self) -> str:
        """Its name on the hub, with the configuration in parentheses."""
        return self.path if self.config is None else f"{self.path} ({self.config})"


def read_split(source: HubSource, split: str, data_dir: str | None, task: str) -> list[Row]:
    """The rows of one split in official order.

    Args:
        source: the data set.
        split: the split's name on the hub.
        data_dir: folder with local copies; None asks the hub.
        task: the task's name, for messages.

    Returns:
        Rows numbered from 1, by line of the file or position on the hub.

    Raises:
        DataError: there is no such file, it cannot be read, or the hub cannot be.
    """
    if data_dir is not None:
        return read_rows(local_file(source, split, data_dir, task))
    return _read_hub(source, split, task)


def local_file(source: HubSource, split: str, data_dir: str, task: str) -> Path:
    """The file of a split in a folder of local copies.

    Raises:
        DataError: there is none.
    """
    if not Path(data_dir).is_dir():
        raise DataError(f"{task}: expected a folder in data.data_dir; got {data_dir!r}, which is none: check the path")
    found = [path for suffix in SUFFIXES if (path := Path(data_dir, source.file(split) + suffix)).exists()]
    if not found:
        raise DataError(
            f"{task}: expected {source.file(split)}.jsonl, .csv, .tsv (or .gz of these) or .parquet in data.data_dir; "
            f"{data_dir} has none: put it there, or leave data.data_dir out to ask the hub"
        )
    return found[0]


def _read_hub(source: HubSource, split: str, task: str) -> list[Row]:
    def rows_of(found: Any) -> list[Row]:
        return [Row(number, dict(fields)) for number, fields in enumerate(found, start=1)]

    try:
        return _load(source.path, source.config, split, rows_of, source.revision)
    except _NoDataError as error:
        raise DataError(
            f"{task}: expected the split {split!r} of {source} on the hub; {error}; without it, set data.data_dir to "
            f"a folder that holds {source.file(split)}.jsonl"
        ) from error


def read_dataset(
    path: str, config: str | None, split: str, *, revision: str | None = None, max_megabytes: int = MAX_MEGABYTES
) -> list[Row]:
    """The rows of a data set of one's own choice, numbered from 1.

    A label that the data set stores as a number with a name (`datasets.ClassLabel`) comes as its name; other values
    come as JSON has them.

    Args:
        path: its name on the hub, or a local folder (of `save_to_disk`, too, where one of a single split has no name).
        config: its configuration, or None.
        split: the split's name; "train[:100]" works as in `datasets`.
        revision: on the hub: branch, tag or commit; None is the main branch.
        max_megabytes: most MB (10^6 bytes) of a folder of `save_to_disk`.

    Raises:
        DataError: it cannot be read; the message says how to use a local copy.
        ConfigError: a revision of a local folder.
    """
    if revision is not None and Path(path).is_dir():
        raise ConfigError(f"data.revision: expected none beside a local folder; got {revision} of {path}: leave it out")
    if is_saved_dataset(Path(path)):
        return read_saved(Path(path), max_megabytes, split)
    named = path if config is None else f"{path} ({config})"
    try:
        rows = _load(path, config, split, named_rows, revision)
    except _NoDataError as error:
        raise DataError(
            f"data.dataset: expected the split {split!r} of {named}; {error}; without the hub, name the "
            "data set's local folder, or save it as a file (to_json, to_csv, to_parquet) for data.train_file"
        ) from error
    if not rows:
        raise DataError(f"data.dataset: expected at least one row in the split {split!r} of {named}; got none")
    return rows


class _NoDataError(Exception):
    """A data set cannot be read; the message is a few words that say why."""


def _load(
    path: str, config: str | None, split: str, rows_of: Callable[[Any], list[Row]], revision: str | None = None
) -> list[Row]:
    """The split as `datasets` loads it: from the hub, or from its own cache where the hub does not answer.

    That cache does not ask for a revision, so that one is read from the hub's local cache.
    """
    import datasets

    _, why = _asked(path, revision)
    place: dict[str, Any] = {"path": path, "revision": revision}
    if why and revision is not None:
        place = {"path": _snapshot(path, revision)}
        if place["path"] is None:
            raise _NoDataError(f"revision {revision} is not in the local cache, and {why}")
    elif why and not _is_cached(path):
        raise _NoDataError(why)
    try:
        with no_dataset_bars():
            return rows_of(datasets.load_dataset(name=config, split=split, **place))
    except Exception as error:  # whatever the HTTP library, the file formats and the cache raise
        refused = refusal(error) or ("" if why else _refused(path))
        raise _NoDataError(refused or f"it cannot be read ({one_line(error, limit=200)})") from error


def commit_of(path: str, revision: str | None) -> str | None:
    """The commit that a revision of a data set of the hub is now; None where that cannot be told.

    Of the main branch the hub alone tells it: the rows that `datasets` keeps may be of another commit than the hub's
    local cache.

    Args:
        path: its name, or a local folder.
        revision: branch, tag or commit; None is the main branch.
    """
    if revision is not None and re.fullmatch("[0-9a-f]{40}", revision):
        return revision
    commit, why = _asked(path, revision)
    found = _snapshot(path, revision) if why and revision is not None else None
    return commit if found is None else Path(found).name


def _asked(path: str, revision: str | None) -> tuple[str | None, str]:
    """The commit that the hub gives; and why it does not answer, or refuses to, or "".

    Left to itself `datasets` asks an unreachable hub six times, for half a minute.
    """
    from huggingface_hub import HfApi

    if Path(path).is_dir():  # `datasets` prefers a folder of that name
        return None, ""
    try:
        return HfApi().dataset_info(path, revision=revision, timeout=HUB_TIMEOUT).sha, ""
    except Exception as error:  # no network, offline mode, a proxy in between
        return None, refusal(error) or f"the hub cannot be asked ({one_line(error, limit=200)})"


def _snapshot(path: str, revision: str) -> str | None:
    """The folder of a revision in the hub's local cache; None where it is not there."""
    from huggingface_hub import snapshot_download

    try:
        return str(snapshot_download(path, repo_type="dataset", revision=revision, local_files_only=True))
    except (OSError, ValueError):  # it is not there; this is no name on the hub
        return None


def _refused(path: str) -> str:
    """Why the hub keeps the files of a data set to itself, or "".

    It tells whoever asks about a gated one, and `datasets` drops the error that its files are refused with.
    """
    from huggingface_hub import HfApi

    if Path(path).is_dir():
        return ""
    try:
        HfApi().auth_check(path, repo_type="dataset")
    except Exception as error:
        return refusal(error)
    return ""


def _is_cached(path: str) -> bool:
    """Whether `datasets` has loaded something of this name before."""
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE, path.replace("/", "___")).is_dir()
