"""A folder, a finished run and a configuration to use commands on; every mistake is one line and exit code 2."""

from __future__ import annotations

import pytest
import tiny

from blob_pyro.cli import main


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    """Run in `tmp_path`, without a network."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished run in a folder with its files; tests that alter it take a copy."""
    folder = tmp_path_factory.mktemp("finished")
    config = tiny.write_yaml(folder / "own.yaml", tiny.settings(folder, tiny.llama()))
    assert main(["fit", str(config), "--quiet"]) == 0
    return folder


@pytest.fixture
def config(tmp_path):
    """The YAML file of a quick run."""
    return tiny.write_yaml(tmp_path / "own.yaml", tiny.settings(tmp_path, tiny.llama()))


@pytest.fixture
def refused(capfd):
    """Runs a command line that must be refused: returns its one line, without "blob-pyro: error: "."""

    def run(*words: object) -> str:
        capfd.readouterr()
        assert main([str(word) for word in words]) == 2
        out, err = capfd.readouterr()
        assert err.startswith("blob-pyro: error: ") and err.endswith("\n") and err.count("\n") == 1, err
        assert "Traceback" not in out + err
        return err.removeprefix("blob-pyro: error: ").rstrip("\n")

    return run
