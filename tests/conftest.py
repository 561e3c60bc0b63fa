"""Every test starts from an empty Pyro param store and the same seed."""

from __future__ import annotations

import pyro
import pytest


@pytest.fixture(autouse=True)
def fresh_pyro() -> None:
    """Forget what other tests left in Pyro, and seed Python, NumPy and torch."""
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
