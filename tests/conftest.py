"""Every test starts from an empty Pyro param store and the same seed."""

from __future__ import annotations

from collections.abc import Iterator

import pyro
import pytest
from torch.distributions import Distribution


@pytest.fixture(autouse=True)
def fresh_pyro() -> Iterator[None]:
    """Forget what other tests left in Pyro, and seed Python, NumPy and torch.

    Whether laws check their values is put back after a test: torch._dynamo turns that off when it is imported, and
    `pyro.render_model` leaves it on.
    """
    pyro.clear_param_store()
    pyro.set_rng_seed(0)
    checks = Distribution._validate_args
    yield
    Distribution.set_default_validate_args(checks)
