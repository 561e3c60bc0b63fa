"""Revisions of the hub: each has its own weights and rows, a run keeps the commits, a branch that moves changes none.

The hub's local cache holds two commits of a tiny model and of a data set; the hub itself is out of reach.
"""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers as tf
from hub_cache import hub_cache, keep, point

import blob_pyro as bp
from blob_pyro.cli import main
from blob_pyro.errors import ConfigError, DataError, ModelLoadError
from blob_pyro.model.loading import BaseSource, load_base

MODEL, ROWS = "org/tiny", "org/rows"
FIRST, SECOND = 40 * "a", 40 * "b"
CARD = """---
configs:
- config_name: default
  data_files: [{split: train, path: train.jsonl}, {split: test, path: test.jsonl}]
---
"""


@pytest.fixture(scope="module")
def commits(tmp_path_factory) -> dict[tuple[str, str], Path]:
    """The files of both commits of the model, which differ in their weights, and of the data set, in their rows."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("commits")
    made = {}
    for commit, count in ((FIRST, 12), (SECOND, 8)):
        network = shutil.copytree(tiny.llama(), folder / f"network {commit[0]}")
        config = tf.AutoConfig.from_pretrained(network)
        tf.LlamaForCausalLM(config).save_pretrained(network)
        rows = folder / f"rows {commit[0]}"
        rows.mkdir()
        tiny.write_jsonl(rows / "train.jsonl", tiny.items(count))
        tiny.write_jsonl(rows / "test.jsonl", tiny.items(4, seed=count))
        (rows / "README.md").write_text(CARD)
        made |= {("models", commit): network, ("datasets", commit): rows}
    return made


@pytest.fixture
def cache(commits, tmp_path, monkeypatch) -> Path:
    """The cache with both commits: the branch main and the tag v1 are the first one."""
    found = hub_cache(tmp_path / "hub", monkeypatch)
    for (kind, commit), files in commits.items():
        keep(found, kind, MODEL if kind == "models" else ROWS, commit, files)
    for revision in ("main", "v1"):
        point(found, "models", MODEL, revision, FIRST)
        point(found, "datasets", ROWS, revision, FIRST)
    monkeypatch.chdir(tmp_path)
    return found


def weight(network: Any) -> torch.Tensor:
    return network.get_input_embeddings().weight.detach()


def settings(folder: Path, **sections: Any) -> dict[str, Any]:
    raw = tiny.settings(folder, Path(MODEL), **sections)
    for name in ("train_file", "test_file"):
        raw["data"].pop(name)
    raw["data"] = {"dataset": ROWS, "test_split": "test", "revision": "main"} | raw["data"]
    return raw


def fit(folder: Path, *words: str, **sections: Any) -> Path:
    config = tiny.write_yaml(folder / "own.yaml", settings(folder, **sections))
    assert main(["fit", str(config), "--quiet", *words]) == 0
    return folder / "run"


def answers(run: Path) -> list[Any]:
    items = tiny.write_jsonl(run.parent / "new.jsonl", tiny.items(3, seed=5))
    assert main(["predict", str(run), str(items), "--quiet", "--output", "answers.jsonl"]) == 0
    return tiny.read_jsonl(Path("answers.jsonl"))


@pytest.mark.parametrize(("revision", "commit"), [(None, FIRST), ("v1", FIRST), (SECOND, SECOND), (FIRST, FIRST)])
def test_each_revision_has_its_own_weights(revision, commit, commits, cache):
    tokenizer = bp.load_tokenizer(MODEL, revision)
    likelihood = bp.MultipleChoice(bp.label_token_ids(tokenizer, tiny.LABELS))
    model = bp.BayesianLoRA.from_pretrained(MODEL, likelihood, revision=revision, r=2, target_modules=["q_proj"])
    plain = tf.AutoModelForCausalLM.from_pretrained(commits["models", commit])
    assert torch.equal(weight(model.network), weight(plain))
    assert model.source.revision == commit


@pytest.mark.slow
def test_a_run_keeps_the_commits_and_a_branch_that_moves_changes_nothing(cache, tmp_path, capfd):
    run = fit(tmp_path)
    about = json.loads((run / "about.json").read_text())
    assert about["revisions"] == {"model": FIRST, "data": FIRST} and about["items"]["train"] == 12
    assert "revision: main" in (run / "config.yaml").read_text()  # as it was asked for
    assert json.loads((run / "adapter" / "adapter_config.json").read_text())["revision"] == FIRST
    before, metrics = answers(run), (run / "metrics.json").read_text()
    for kind, name in (("models", MODEL), ("datasets", ROWS)):
        point(cache, kind, name, "main", SECOND)
    assert answers(run) == before
    assert main(["evaluate", str(run), "--quiet"]) == 0
    assert (run / "metrics.json").read_text() == metrics
    assert bp.load(run).model.source.revision == FIRST
    moved = tmp_path / "moved"
    moved.mkdir()
    other = fit(moved)  # a new run takes what main is now
    assert json.loads((other / "about.json").read_text())["revisions"] == {"model": SECOND, "data": SECOND}
    assert answers(other) != before
    folder = bp.export(run, "mean", output=tmp_path / "export")
    assert json.loads((folder / "adapter_config.json").read_text())["revision"] == FIRST
    assert f'revision="{FIRST}"' in (folder / "README.md").read_text()
    assert main(["report", str(run), "--output", str(tmp_path / "report.html")]) == 0
    page = (tmp_path / "report.html").read_text()
    assert f"{MODEL} at {FIRST[:12]}" in page and f"{ROWS} at {FIRST[:12]}" in page


@pytest.mark.slow
@pytest.mark.parametrize("ends", ["stopped", "extended"])
def test_a_run_goes_on_with_what_it_began_with(ends, cache, tmp_path, monkeypatch):
    whole = tmp_path / "whole"
    whole.mkdir()
    fit(whole, "--train.num_steps", "6")
    if ends == "stopped":
        with monkeypatch.context() as broken:
            broken.setattr("blob_pyro.runs.fit._evaluate", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
            config = tiny.write_yaml(tmp_path / "own.yaml", settings(tmp_path))
            assert main(["fit", str(config), "--quiet", "--train.num_steps", "6"]) == 130
    else:
        fit(tmp_path, "--train.num_steps", "3")
    for kind, name in (("models", MODEL), ("datasets", ROWS)):
        point(cache, kind, name, "main", SECOND)
    run = fit(tmp_path, "--train.num_steps", "6", "--resume")
    about = json.loads((run / "about.json").read_text())
    assert about["revisions"] == {"model": FIRST, "data": FIRST}
    if ends == "stopped":
        assert (run / "metrics.json").read_text() == (whole / "run" / "metrics.json").read_text()
    assert bp.load(run).model.source.revision == FIRST


@pytest.mark.slow
def test_an_adapter_of_another_revision_is_told(cache, tmp_path, capfd):
    run = fit(tmp_path)
    later = tmp_path / "later"
    later.mkdir()
    point(cache, "models", MODEL, "main", SECOND)
    told = f"it names revision {FIRST} of {MODEL}, and the base is at {SECOND}: set model.revision to that"
    for revision, warned in (("main", True), (FIRST, False)):
        words = ("--model.adapter", str(run), "--model.revision", revision, "--output", str(later / revision))
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            fit(later, *words)
        assert (told in capfd.readouterr().err) == warned


@pytest.mark.slow
def test_a_base_that_has_moved_keeps_its_commit(cache, commits, tmp_path):
    fit(tmp_path)
    words = ("--train.num_steps", "6", "--resume", "--base", str(commits["models", FIRST]))
    described = json.loads((fit(tmp_path, *words) / "posterior.json").read_text())
    assert (described["base"]["id"], described["base"]["revision"]) == (MODEL, FIRST)


def test_what_is_not_on_the_hub_has_no_revision(cache, tmp_path):
    for place, kind in (("smollm2", "a packaged model"), (str(tiny.llama()), "a local folder")):
        with pytest.raises(ConfigError, match=f"model.revision: expected none beside {kind}; got v1 of .*leave it out"):
            bp.load_tokenizer(place, "v1")
    own = {"train_file": "a.jsonl", "prompt": "{text}:"}
    with pytest.raises(ConfigError, match="expected data.dataset beside data.revision; got none"):
        bp.DataConfig(**own, revision="v1")
    with pytest.raises(ConfigError, match=r"data.revision: expected none beside data.data_dir, .*; got 'v1'"):
        bp.DataConfig(task="boolq", data_dir="here", revision="v1")
    with pytest.raises(ConfigError, match="data.revision: expected none for the task tweets, which is not"):
        bp.load_task(bp.DataConfig(task="tweets", revision="v1"), 0)
    with pytest.raises(ConfigError, match="data.revision: expected none beside a local folder; got v1"):
        bp.load_task(bp.DataConfig(dataset=str(tmp_path), prompt="{text}:", revision="v1"), 0)
    for odd in ("../main", "", "-x", "a b", "a//b"):
        with pytest.raises(ConfigError, match=r"model.revision: expected a branch, tag or commit, or null; got '"):
            bp.ModelConfig(id=MODEL, revision=odd)


def test_a_revision_that_is_not_there_is_one_line(cache):
    with pytest.raises(ModelLoadError, match="model org/tiny at v9: .* not in the hub's local cache, and the hub"):
        bp.load_tokenizer(MODEL, "v9")
    with pytest.raises(ModelLoadError, match="model org/tiny at v9: "):
        load_base(BaseSource(MODEL, revision="v9"), bp.MultipleChoice([1, 2]))
    data = bp.DataConfig(dataset=ROWS, prompt="{text}:", revision="v9")
    with pytest.raises(DataError, match="of org/rows; revision v9 is not in the local cache, and the hub"):
        bp.load_task(data, 0)


def test_a_task_of_the_hub_is_read_at_its_revision(cache, tmp_path):
    rows = [{"question": "is rain wet", "passage": "Rain is.", "answer": True}] * 2
    for commit, count in ((FIRST, 2), (SECOND, 1)):
        files = tmp_path / commit[0]
        files.mkdir()
        for split in ("train", "validation"):
            tiny.write_jsonl(files / f"{split}.jsonl", rows[:count])
        keep(cache, "datasets", "google/boolq", commit, files)
    point(cache, "datasets", "google/boolq", "v1", FIRST)
    for revision, count in (("v1", 2), (SECOND, 1)):
        found = bp.load_task(bp.DataConfig(task="boolq", revision=revision), 0)
        assert (len(found.train), len(found.test)) == (count, count)
