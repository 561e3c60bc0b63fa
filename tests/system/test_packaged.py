"""Models and data that come inside packages."""

import sys

import pytest

from blob_pyro.errors import MissingPackageError
from blob_pyro.system.packaged import packaged_file


def test_a_packaged_file_is_found_without_importing_its_package(monkeypatch):
    monkeypatch.delitem(sys.modules, "pytest", raising=False)
    path = packaged_file("pytest", "pytest/py.typed", "pip install pytest")
    assert path.is_file()
    assert "pytest" not in sys.modules


def test_a_package_that_is_missing_or_lacks_the_file_names_the_command():
    with pytest.raises(MissingPackageError, match="expected the package no-such-package.*run `pip install it`"):
        packaged_file("no-such-package", "a.csv", "pip install it")
    with pytest.raises(MissingPackageError, match=r"expected pytest/none.csv in the package pytest; version .*run `x`"):
        packaged_file("pytest", "pytest/none.csv", "x")
