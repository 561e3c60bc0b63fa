"""docs/data.md: its configurations are read, and those on files are run up to the items."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from blob_pyro.config.file import check_file
from blob_pyro.config.sections import DataConfig
from blob_pyro.data import load_task
from blob_pyro.data.rows.files import SUFFIXES
from blob_pyro.guides.settings import KEYS

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
BLOCKS = {named[1]: named[0] for named in re.finditer(r"```yaml\n# (\S+)\n.*?```", PAGE, re.S)}


def config_of(name: str, folder: Path) -> DataConfig:
    path = folder / name
    path.write_text(BLOCKS[name].removeprefix("```yaml\n").removesuffix("```"), encoding="utf-8")
    return DataConfig(**check_file(path, KEYS)["data"])


@pytest.mark.parametrize("name", BLOCKS)
def test_a_configuration_of_the_page_is_read(tmp_path, name):
    assert config_of(name, tmp_path).prompt


def test_own_data_takes_three_lines(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.csv").write_text("text,sentiment\nLovely,good\nDull,bad\n")
    assert len(yaml.safe_load(BLOCKS["own.yaml"].strip("`").removeprefix("yaml"))["data"]) == 3
    data = load_task(config_of("own.yaml", tmp_path), seed=0)
    assert [(e.prompt, data.labels[e.label]) for e in data.train] == [
        ("Review: Lovely\nSentiment:", " good"),
        ("Review: Dull\nSentiment:", " bad"),
    ]


def test_choices_as_the_page_has_them(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = re.search(r"# ({.*})", BLOCKS["choices.yaml"])
    assert row
    (tmp_path / "train.jsonl").write_text(row[1] + "\n")
    data = load_task(config_of("choices.yaml", tmp_path), seed=0)
    assert (data.train[0].prompt, data.train[0].label) == ("2 + 2?\nA) 3\nB) 4\nAnswer:", 1)
    assert json.loads(row[1])["answer"] == "B"


def test_the_page_names_keys_that_there_are_and_every_ending():
    table = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ", PAGE.split("## File formats")[0], re.M)
    named = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}
    assert len(named) > 8 and {f"data.{name}" for name in named} <= set(KEYS)
    assert all(f"`{'.' + suffix.split('.')[1]}`" in PAGE for suffix in SUFFIXES)
