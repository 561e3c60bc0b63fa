"""The second device is there in every test of this folder, which runs in processes of its own (`make second`)."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import second

BUILT: list[Any] = []


def pytest_configure() -> None:
    """Name the device before anything of it is imported: it stays for the whole process."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])  # ninja's
    if shutil.which("c++") and shutil.which("ninja"):
        BUILT.append(second.install())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without a compiler there is no such device."""
    if not BUILT:
        for item in items:
            item.add_marker(pytest.mark.skip(reason="no C++ compiler, or no ninja: the second device is not built"))


@pytest.fixture
def device() -> Any:
    """The extension: `waits()` counts, `forbid(True)` raises where the host waits, `own_generators(True)`."""
    yield BUILT[0]
    BUILT[0].forbid(False)
    BUILT[0].own_generators(False)
