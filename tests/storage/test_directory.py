"""What is read from a run directory, or written into it, lies in it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from blob_pyro.errors import RunDirectoryError
from blob_pyro.storage.directory import refuse_links


def test_a_link_out_of_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run"
    (path / "adapter").mkdir(parents=True)
    (path / "metrics.json").touch()
    (path / "again.json").symlink_to("metrics.json")
    (path / "itself").symlink_to("itself")
    refuse_links(path)
    refuse_links(tmp_path / "not there")
    (path / "adapter" / "secret").symlink_to(tmp_path)
    with pytest.raises(RunDirectoryError, match=re.escape("adapter/secret in it is a link out of it: put a copy")):
        refuse_links(path)
    refuse_links(path, ["metrics.json", "again.json", "not there"])  # of what is read
    with pytest.raises(RunDirectoryError, match="is a link out of it"):
        refuse_links(path, ["metrics.json", "adapter/secret"])
