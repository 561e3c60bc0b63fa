"""Gated and private repositories, and tokens that are refused: the hub's own errors, from a server that answers so.

`huggingface_hub` reads where the hub is when it is imported: everything here runs in processes of their own.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import tiny
from hub_server import Answer, Hub, hub

from blob_pyro.system.hub_errors import one_line, refusal

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TOKEN = "hf_" + 8 * "Tsecret"
OK = Answer(200)
NOT_LOGGED_IN = Answer(401, "GatedRepo", "Access to it is restricted. You must have access and be authenticated.")
NOT_ACCEPTED = Answer(403, "GatedRepo", "Access to it is restricted and you are not in the authorized list.")
PRIVATE = Answer(401, "RepoNotFound", "Repository not found")
BAD_TOKEN = Answer(401, "", "Invalid credentials in Authorization header")
NARROW_TOKEN = Answer(403, "", f"Please enable access in your token settings; the token is {TOKEN}")
BROKEN = Answer(500, "", f"The token was {TOKEN}")
REPOSITORIES = {
    "gated/files": (OK, NOT_LOGGED_IN),
    "gated/not-accepted": (OK, NOT_ACCEPTED),
    "gated/whole": (NOT_LOGGED_IN, NOT_LOGGED_IN),
    "private/repo": (PRIVATE, PRIVATE),
    "bad/token": (BAD_TOKEN, BAD_TOKEN),
    "narrow/token": (NARROW_TOKEN, NARROW_TOKEN),
    "narrow/files": (OK, NARROW_TOKEN),
    "broken/hub": (BROKEN, BROKEN),
}
GATED = "it is gated: accept its licence on its page of the hub, and log in with `hf auth login`"
REFUSES = "the hub refuses access ({}): log in with `hf auth login` and a token that may read it"
SAID = {
    "gated/files": GATED,
    "gated/not-accepted": GATED,
    "gated/whole": GATED,
    "private/repo": "the hub does not know it, or it is private",
    "no/where": "the hub does not know it, or it is private",
    "bad/token": REFUSES.format(401),
    "narrow/token": REFUSES.format(403),
    "narrow/files": REFUSES.format(403),
    "broken/hub": "the hub cannot be asked (Server error '500 Internal Server Error' for url 'http://",
}
PROGRAM = """
import json, sys
from blob_pyro.data.rows.hub import HubSource, read_dataset, read_split
from blob_pyro.errors import BlobPyroError
from blob_pyro.model.likelihoods import CausalLM
from blob_pyro.model.loading import BaseSource, load_base, load_tokenizer
found = {}
for name in sys.argv[1:]:
    for kind, act in {
        "tokenizer": lambda: load_tokenizer(name),
        "base": lambda: load_base(BaseSource(name), CausalLM()),
        "data": lambda: read_dataset(name, None, "train"),
        "task": lambda: read_split(HubSource(name, None, "folder"), "train", None, "rain"),
    }.items():
        try:
            act()
        except BlobPyroError as error:
            found[f"{kind} {name}"] = f"{type(error).__name__}: {error}"
print(json.dumps(found))
"""


def process(server: Hub, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter whose hub is the server, reached with a token."""
    settings = {
        "HF_ENDPOINT": server.url, "HF_TOKEN": TOKEN, "HF_HOME": str(folder),
        "HF_HUB_OFFLINE": "0", "PYTHONPATH": str(ROOT), "NO_PROXY": "*", "no_proxy": "*",
    }  # fmt: skip
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=folder, timeout=300, check=False,
        env={**os.environ, **settings},
    )  # fmt: skip


def told_by(server: Hub, folder: Path) -> Mapping[str, str]:
    done = process(server, folder, "-c", PROGRAM, *SAID)
    assert done.returncode == 0, done.stderr
    assert TOKEN not in done.stdout + done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """What is said of each repository, as a tokenizer, a base, a data set and a task's data set."""
    folder = tmp_path_factory.mktemp("hub")
    with hub(REPOSITORIES) as server:
        found = told_by(server, folder)
        assert f"Bearer {TOKEN}" in server.tokens  # the libraries did use it
    held = [path for path in folder.rglob("*") if path.is_file() and TOKEN.encode() in path.read_bytes()]
    assert not held
    return found


@pytest.mark.parametrize("name", SAID)
def test_a_refusal_says_what_to_do_in_one_line(told: Mapping[str, str], name: str) -> None:
    for kind in ("tokenizer", "base"):
        line = told[f"{kind} {name}"]
        assert line.startswith(f"ModelLoadError: model {name}: expected a ") and SAID[name] in line
        assert "hf auth login" in line or name == "broken/hub"
        assert "local folder" in line and "\n" not in line and len(line) < 400
    for kind, start, way_out in (
        (
            "data",
            "DataError: data.dataset: expected the split 'train' of ",
            "; without the hub, name the data set's local",
        ),
        ("task", "DataError: rain: expected the split 'train' of ", "; without it, set data.data_dir to a folder that"),
    ):
        line = told[f"{kind} {name}"]
        assert line.startswith(start + name) and SAID[name] in line and way_out in line
        assert "\n" not in line and len(line) < 500
    assert not any(TOKEN in line or "Traceback" in line for line in told.values())


def test_a_gated_base_ends_a_run_before_anything_is_written(tmp_path: Path) -> None:
    raw = tiny.settings(tmp_path, Path("gated/files"))
    tiny.write_yaml(tmp_path / "a.yaml", raw)
    with hub(REPOSITORIES) as server:
        done = process(server, tmp_path, "-m", "blob_pyro", "fit", "a.yaml", "--quiet")
    assert done.returncode == 2
    assert done.stderr == (
        f"blob-pyro: error: model gated/files: expected a model that may be downloaded; {GATED}; or name a local "
        "folder that holds it\n"
    )
    assert not (tmp_path / "run").exists() and TOKEN not in done.stdout


LOAD = """
import time
from blob_pyro.model.likelihoods import CausalLM
from blob_pyro.model.loading import BaseSource, load_base, load_tokenizer
load_tokenizer("some/tiny")
start = time.perf_counter()
print(load_base(BaseSource("some/tiny"), CausalLM()).config.model_type, time.perf_counter() - start)
"""


@pytest.mark.parametrize("answer", [None, BROKEN, BAD_TOKEN], ids=["nobody", "500", "401"])
def test_a_model_in_the_cache_is_loaded_at_once_whatever_the_hub_says(answer: Answer | None, tmp_path: Path) -> None:
    """transformers would look for an adapter beside it, six times, for 24 s."""
    kept = tmp_path / "hub" / "models--some--tiny"
    shutil.copytree(tiny.llama(), kept / "snapshots" / (40 * "a"))
    (kept / "refs").mkdir()
    (kept / "refs" / "main").write_text(40 * "a")
    with hub({"some/tiny": (answer or OK, answer or OK)}) as server:
        there = server if answer is not None else Hub("http://127.0.0.1:9")  # the port of a service that nobody runs
        done = process(there, tmp_path, "-c", LOAD)
    assert done.returncode == 0, done.stderr
    kind, seconds = done.stdout.split()
    assert kind == "llama" and float(seconds) < 8
    assert TOKEN not in done.stdout + done.stderr


def test_what_is_secret_is_left_out_of_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    error = OSError(f"no answer from\nhttps://someone:word@a.example/x?token={TOKEN} to me@a.example")
    assert one_line(error, limit=200) == "no answer from https://***@a.example/x?token=*** to me@a.example"
    assert one_line(error, limit=10) == "no answer…" and one_line(ValueError(), limit=10) == "ValueError"
    assert one_line(ValueError(f"a \n {'b' * 1000}")) == one_line(f"a\n{'b' * 1000}") == f"a {'b' * 1000}"


def test_other_errors_are_no_refusal() -> None:
    assert refusal(OSError("cannot be loaded")) == "" and refusal(KeyError("gated")) == ""
