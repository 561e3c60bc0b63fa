"""Pushing, by the real command and the hub's own client, to a hub of this machine; and what it refuses."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from commit_hub import Hub, hub
from saved_runs import saved

import blob_pyro as bp
from blob_pyro.errors import HubError, RunDirectoryError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("push") / "run"
    saved(path)
    return path


@pytest.fixture
def server() -> Iterator[Hub]:
    with hub() as found:
        yield found


def command(run_dir: Path, *words: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `blob-pyro export`, in a process that knows that hub alone."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    env = kept | {"HF_HOME": str(run_dir.parent / "no_tokens")} | environment
    line = [sys.executable, "-m", "blob_pyro", "export", str(run_dir), *words]
    done = subprocess.run(line, capture_output=True, text=True, env=env, timeout=120, check=False)
    return done.returncode, done.stdout, done.stderr


def test_an_export_arrives_whole(run_dir: Path, server: Hub, tmp_path: Path) -> None:
    """Every file of the folder, byte for byte, in a private repository; the token is written nowhere."""
    folder = tmp_path / "out"
    words = ("--as", "draws:2", "--output", str(folder), "--push_to_hub", "me/it", "--private", "--quiet")
    code, out, err = command(run_dir, *words, HF_ENDPOINT=server.endpoint, HF_TOKEN=server.token)
    assert (code, err) == (0, ""), err
    assert out.splitlines()[-1] == f"pushed to {server.endpoint}/me/it/commit/1"
    assert server.repositories["me/it"]["visibility"] == "private"
    here = {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    assert server.files == here and {"README.md", "manifest.json", "draw_1/adapter_model.safetensors"} <= set(here)
    assert all(server.token.encode() not in content for content in here.values())
    assert server.tokens == {f"Bearer {server.token}"}


@pytest.mark.parametrize("token", ["hf_another", None])
def test_a_token_that_may_not_write(token: str | None, run_dir: Path, server: Hub, tmp_path: Path) -> None:
    """One line that says what to do; what was exported stays."""
    folder = tmp_path / "out"
    environment = {"HF_ENDPOINT": server.endpoint} | ({"HF_TOKEN": token} if token else {})
    code, _, err = command(run_dir, "--output", str(folder), "--push_to_hub", "me/it", **environment)
    assert code == 2 and err.count("\n") == 1
    assert "me/it: expected a repository of the hub to write to; the hub refuses (401): log in with `hf auth" in err
    assert f"the folder {folder} is there, push it with bp.push_to_hub" in err
    assert (folder / "adapter_model.safetensors").is_file() and not server.files


def test_a_hub_that_does_not_answer(run_dir: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:  # bound, and not listening: the port refuses
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}"
        words = ("--output", str(tmp_path / "out"), "--push_to_hub", "me/it")
        code, _, err = command(run_dir, *words, HF_ENDPOINT=endpoint, HF_TOKEN="hf_x")
    assert code == 2 and err.count("\n") == 1
    assert "expected a repository of the hub to write to; its client says: " in err and "refused" in err


def test_without_a_network_at_all(run_dir: Path, tmp_path: Path) -> None:
    words = ("--output", str(tmp_path / "out"), "--push_to_hub", "me/it")
    code, _, err = command(run_dir, *words, HF_HUB_OFFLINE="1")
    assert code == 2 and err.count("\n") == 1 and "offline mode is enabled" in err


@pytest.mark.parametrize("name", ["it", "a/b/c", "me/it!", "", "me/", "../it/x"])
def test_what_cannot_be_a_repository_is_refused_before_the_export(name: str, run_dir: Path, tmp_path: Path) -> None:
    from blob_pyro.cli import main

    assert main(["export", str(run_dir), "--output", str(tmp_path / "out"), "--push_to_hub", name]) == 2
    assert not (tmp_path / "out").exists()
    with pytest.raises(HubError, match="--push_to_hub: expected ORG/NAME, of letters, digits"):
        bp.push_to_hub(bp.export(run_dir, output=tmp_path / "out"), name)


def test_only_an_export_as_it_was_written_is_pushed(run_dir: Path, tmp_path: Path) -> None:
    """Not a run directory, which names its user's files, and not an altered folder."""
    with pytest.raises(RunDirectoryError, match="expected an exported folder with manifest.json; it is not there"):
        bp.push_to_hub(run_dir, "me/it")
    folder = bp.export(run_dir, output=tmp_path / "out")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(RunDirectoryError, match="expected the file adapter_config.json as it was exported; it was alt"):
        bp.push_to_hub(folder, "me/it")
    (folder / "adapter_config.json").unlink()
    with pytest.raises(RunDirectoryError, match="adapter_config.json as it was exported; it is not there; export the"):
        bp.push_to_hub(folder, "me/it")


def test_what_lies_beside_an_export_stays_here(run_dir: Path, server: Hub, tmp_path: Path) -> None:
    folder = bp.export(run_dir, output=tmp_path / "out")
    (folder / "passwords.txt").write_text("mine")
    code = f"import blob_pyro as bp; print(bp.push_to_hub({str(folder)!r}, 'me/it', token={server.token!r}))"
    env = os.environ | {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home")}
    subprocess.run([sys.executable, "-c", code], env=env, check=True, capture_output=True, timeout=120)
    assert "adapter_model.safetensors" in server.files and "passwords.txt" not in server.files
