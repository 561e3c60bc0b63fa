"""Every test starts from an empty Pyro param store and the same seed."""

from __future__ import annotations

import gc
import sys
from collections.abc import Generator, Iterator
from pathlib import Path

import pyro
import pytest
import torch
from torch.distributions import Distribution


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Millions of objects come with what is imported, and stay: no garbage is looked for among them, then or later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """The second device is there for a whole process: its tests are run by their folder's name (`make second`)."""
    if collection_path.name == "second_device" and not any("second_device" in name for name in config.args):
        return True
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first: a process that met one last would work on alone."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True, scope="session")
def no_seed_for_absent_devices() -> Iterator[None]:
    """torch.manual_seed keeps a formatted stack for each kind of device that is not there: milliseconds a seed."""
    with pytest.MonkeyPatch.context() as patch:
        for kind in (torch.cuda, torch.xpu):
            if not kind.is_available():
                patch.setattr(kind, "manual_seed_all", lambda seed: None)
        yield


@pytest.fixture(autouse=True)
def fresh_pyro() -> Iterator[None]:
    """Forget what other tests left in Pyro, and seed Python, NumPy and torch.

    Laws do not check their values once torch._dynamo has been imported, which turns that off; `pyro.render_model`
    leaves it on, and here it is put back.
    """
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    yield
    if "torch._dynamo" in sys.modules:
        Distribution.set_default_validate_args(False)


@pytest.fixture(params=[True, False], ids=["validated", "unvalidated"])
def validation(request: pytest.FixtureRequest) -> Iterator[None]:
    """torch._dynamo turns the validation of distributions off when it is imported: either way must do."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(request.param)
    yield
    Distribution.set_default_validate_args(before)
