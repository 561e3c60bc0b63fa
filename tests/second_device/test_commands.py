"""Runs on a second device: each command answers as on the CPU, and a run that was begun on one goes on on the other."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_runs
import torch
import yaml
from safetensors.torch import load_file

import blob_pyro as bp
from blob_pyro.cli import main

PLACE = "second:1"
WHO = "What a lovely day, number 1."


def done(*words: str) -> None:
    assert main([*words, "--quiet"]) == 0


def fitted(folder: Path, place: Any, network: Path | None = None, /, **sections: Any) -> Path:
    """A run by its configuration, on a device."""
    folder.mkdir(exist_ok=True)
    model = {"device_map": place} | sections.pop("model", {})
    config = tiny.settings(folder, network or tiny.llama(), model=model, **sections)
    done("fit", str(tiny.write_yaml(folder / "c.yaml", config)))
    return folder / "run"


def stopping_at(last: int, step: Any) -> Any:
    """`BLoBSVI.step` behind whose `last` call the process is asked to stop."""

    def stepped(svi: bp.BLoBSVI, batch: bp.Batch) -> Any:
        result = step(svi, batch)
        if svi.steps_done == last:
            os.kill(os.getpid(), signal.SIGTERM)
        return result

    return stepped


def metrics(run: Path) -> dict[str, Any]:
    found = json.loads((run / "metrics.json").read_text())
    return {f"{kind} {name}": value for kind, values in found.items() for name, value in values.items()}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One and the same run on each device."""
    return {place: fitted(tmp_path_factory.mktemp("runs") / place[:6], place) for place in ("cpu", PLACE)}


GUIDES = {
    "blob": {},
    "map": {},
    "mle": {},
    "mean_field": {},
    "low_rank": {},
    "scalabl": {},
    "dropout": {},
    "laplace": {},
    "tfb": {},
    "ensemble": {"num_members": 2},
}


@pytest.mark.parametrize("guide", GUIDES)
def test_a_run_of_each_guide_scores_as_on_the_cpu(guide: str, tmp_path: Path) -> None:
    """No item is near a tie: the scores differ by rounding alone."""
    found = [
        metrics(fitted(tmp_path / place[:6], place, guide={"name": guide} | GUIDES[guide])) for place in ("cpu", PLACE)
    ]
    assert found[0] and found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, rel=2e-2, abs=2e-3), name


KINDS: dict[str, dict[str, Any]] = {
    "a classifier": {"network": "bert", "model": tiny_runs.BERT},
    "whole answers": {"data": {"answers": {"negative": " lovely", "positive": " positive"}, "labels": None}},
    "texts": {"data": {"completion": "{label}", "labels": None}, "model": {"likelihood": "causal_lm"}},
    "all layers' B": {"model": {"bayesian": "B"}},
    "the last block": {"model": {"bayesian_layers": [-1]}},
    "4 bit": {"model": {"quantization": "4bit"}},
    "bfloat16": {"model": {"dtype": "bfloat16"}},
    "mixed precision": {"train": {"mixed_precision": "bf16"}},
    "loss scale": {"train": {"mixed_precision": "fp16"}},
    "flipout": {"train": {"flipout": True}},
    "checkpointing": {"model": {"gradient_checkpointing": True}},
    "accumulation": {"train": {"gradient_accumulation_steps": 3}},
}


@pytest.mark.filterwarnings("ignore:labels. . lovely. has several tokens:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_of_each_kind(kind: str, tmp_path: Path) -> None:
    sections = dict(KINDS[kind])
    network = tiny.bert() if sections.pop("network", None) else tiny.llama()
    run = fitted(tmp_path, PLACE, network, **sections)
    assert all(value == value for value in metrics(run).values())
    loaded = bp.load(run, device_map=PLACE)
    assert {str(p.device) for p in loaded.model.network.parameters()} == {PLACE}
    assert PLACE not in (run / "posterior.json").read_text()


COMMANDS: dict[str, list[str]] = {
    "evaluate": ["evaluate", "RUN"],
    "predict": ["predict", "RUN", "FILE", "--output", "OUT/answers.jsonl"],
    "acquire": ["acquire", "RUN", "FILE", "--k", "2", "--output", "OUT/chosen.jsonl"],
    "report": ["report", "RUN", "--output", "OUT/report.html"],
    "mean": ["export", "RUN", "--as", "mean", "--output", "OUT/mean"],
    "merged": ["export", "RUN", "--as", "merged", "--output", "OUT/merged"],
    "draws": ["export", "RUN", "--as", "draws:2", "--output", "OUT/draws"],
    "generate": ["generate", "RUN", WHO, "--max_new_tokens", "3"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_does_there_what_it_does_on_the_cpu(
    name: str, runs: dict[str, Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    left = []
    for place, run in runs.items():
        copy, out = tmp_path / f"run {place[:6]}", tmp_path / place[:6]
        shutil.copytree(run, copy)
        out.mkdir()
        words = {"RUN": str(copy), "FILE": str(run.parent / "test.jsonl")}
        assert main([words.get(word, word.replace("OUT", str(out))) for word in COMMANDS[name]]) == 0
        left.append(sorted(str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()))
    assert left[0] == left[1] and (left[0] or name in ("evaluate", "generate"))
    for file in left[0]:
        if file.endswith(".safetensors"):
            ours, theirs = (load_file(tmp_path / place[:6] / file) for place in runs)
            assert ours.keys() == theirs.keys()
            for key, value in ours.items():
                torch.testing.assert_close(theirs[key], value, rtol=1e-3, atol=1e-4)
        if file.endswith(".jsonl"):
            ours, theirs = (tiny.read_jsonl(tmp_path / place[:6] / file) for place in runs)
            assert [line.keys() for line in ours] == [line.keys() for line in theirs]


@pytest.mark.parametrize("guide", ["blob", "map"])
@pytest.mark.parametrize(("begun", "gone_on"), [("cpu", PLACE), (PLACE, "cpu"), (PLACE, PLACE), (PLACE, "second:0")])
def test_a_run_goes_on_on_another_device(begun: str, gone_on: str, guide: str, tmp_path: Path) -> None:
    """Stopped behind its second step, it comes to the parameters of one that was not, but for rounding."""
    whole = fitted(tmp_path / "whole", "cpu", guide={"name": guide})
    with pytest.MonkeyPatch.context() as patch:  # a Ctrl-C behind the second step
        patch.setattr(bp.BLoBSVI, "step", stopping_at(2, bp.BLoBSVI.step))
        with pytest.raises(AssertionError):
            fitted(tmp_path / "parts", begun, guide={"name": guide})
    run = tmp_path / "parts" / "run"
    config = yaml.safe_load((tmp_path / "parts" / "c.yaml").read_text())
    config["model"]["device_map"] = gone_on
    done("fit", str(tiny.write_yaml(tmp_path / "on.yaml", config)), "--resume")
    assert len(tiny.read_jsonl(run / "history.jsonl")) == 4
    for file in ("adapter/adapter_model.safetensors", "posterior.safetensors"):
        ours, theirs = load_file(whole / file), load_file(run / file)
        for key, value in ours.items():
            torch.testing.assert_close(theirs[key], value, rtol=1e-2, atol=5e-3)


def test_a_base_over_two_devices(tmp_path: Path) -> None:
    """Embedding, first block and its adapters on one, what is behind it on the other."""
    first, other = (
        ("model.embed_tokens", "model.rotary_emb", "model.layers.0"),
        ("model.layers.1", "model.norm", "lm_head"),
    )
    device_map = dict.fromkeys(first, "second:0") | dict.fromkeys(other, "second:1")
    spread, alone = fitted(tmp_path / "two", device_map), fitted(tmp_path / "one", "cpu")
    assert metrics(spread) == pytest.approx(metrics(alone), rel=2e-2, abs=2e-3)
    loaded = bp.load(spread, device_map=device_map)
    assert len({loaded.model.location(site).device for site in loaded.model.sites}) == 2


def test_a_device_that_is_not_there_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = tiny.settings(tmp_path, tiny.llama(), model={"device_map": "second:7"})
    assert main(["fit", str(tiny.write_yaml(tmp_path / "c.yaml", config)), "--quiet"]) == 2
    told = "expected devices of this machine (cpu, second:0, second:1); got second:7\n"
    assert capfd.readouterr().err.endswith(told)
