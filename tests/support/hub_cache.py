"""The hub's local cache as its client lays it out, with several revisions of models and data sets."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


def hub_cache(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty folder the cache of this process, and the hub unreachable."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "datasets")
    return folder


def keep(cache: Path, kind: str, name: str, commit: str, files: Path) -> None:
    """Put the files of a commit of "models" or "datasets" into the cache."""
    shutil.copytree(files, _repository(cache, kind, name) / "snapshots" / commit)


def point(cache: Path, kind: str, name: str, revision: str, commit: str) -> None:
    """Let a branch or a tag be a commit from now on."""
    ref = _repository(cache, kind, name) / "refs" / revision
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(commit)


def _repository(cache: Path, kind: str, name: str) -> Path:
    return cache / f"{kind}--{name.replace('/', '--')}"
