"""Splits of a published data set: from a folder of local copies, or from the hub through `datasets`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from blob_pyro.data.sources import Row, read_jsonl
from blob_pyro.errors import DataError

HUB_TIMEOUT = 10.0  # seconds
_SUFFIXES = (".jsonl", ".jsonl.gz")


@dataclass(frozen=True)
class HubSource:
    """Where the splits of a data set are.

    Attributes:
        path: the data set's name on the hub.
        config: its configuration there, or None.
        folder: the folder of its local copy, below data.data_dir.
        files: split -> name of its local file without suffix, where that is not the split's own name.
    """

    path: str
    config: str | None
    folder: str
    files: Mapping[str, str] = field(default_factory=dict)

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
        return read_jsonl(local_file(source, split, data_dir, task))
    return _read_hub(source, split, task)


def local_file(source: HubSource, split: str, data_dir: str, task: str) -> Path:
    """The file of a split in a folder of local copies.

    Raises:
        DataError: there is none.
    """
    if not Path(data_dir).is_dir():
        raise DataError(f"{task}: expected a folder in data.data_dir; got {data_dir!r}, which is none: check the path")
    found = [path for suffix in _SUFFIXES if (path := Path(data_dir, source.file(split) + suffix)).exists()]
    if not found:
        raise DataError(
            f"{task}: expected {source.file(split)}.jsonl or .jsonl.gz in data.data_dir; {data_dir} has neither: "
            "put it there, or leave data.data_dir out to ask the hub"
        )
    return found[0]


def _read_hub(source: HubSource, split: str, task: str) -> list[Row]:
    """The split as `datasets` loads it: from the hub, or from its own cache where the hub does not answer."""
    import datasets

    why = _unreachable(source.path)
    if why and not _is_cached(source.path):
        raise _no_data(source, split, task, f"the hub cannot be asked ({why})")
    try:
        rows = datasets.load_dataset(source.path, source.config, split=split)
        return [Row(number, dict(fields)) for number, fields in enumerate(rows, start=1)]
    except Exception as error:  # whatever the HTTP library, the file formats and the cache raise
        raise _no_data(source, split, task, f"it cannot be read ({_one_line(error)})") from error


def _unreachable(path: str) -> str:
    """Why the hub does not answer, or "".

    Left to itself `datasets` asks an unreachable hub six times, for half a minute.
    """
    from huggingface_hub import HfApi

    if Path(path).is_dir():  # `datasets` prefers a folder of that name
        return ""
    try:
        HfApi().dataset_info(path, timeout=HUB_TIMEOUT)
    except Exception as error:  # no network, offline mode, a proxy in between
        return _one_line(error)
    return ""


def _is_cached(path: str) -> bool:
    """Whether `datasets` has loaded something of this name before."""
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE, path.replace("/", "___")).is_dir()


def _no_data(source: HubSource, split: str, task: str, why: str) -> DataError:
    return DataError(
        f"{task}: expected the split {split!r} of {source} on the hub; {why}: set data.data_dir to a folder that holds "
        f"{source.file(split)}.jsonl"
    )


def _one_line(error: Exception, limit: int = 160) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else text[: limit - 1] + "…"
