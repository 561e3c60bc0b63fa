"""A run directory that was damaged is one line, whatever the damage."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
from safetensors.torch import load_file, save_file


def _json(name: str, change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(run: Path) -> None:
        content = json.loads((run / name).read_text())
        change(content)
        (run / name).write_text(json.dumps(content))

    return damage


def _text(name: str, old: str, new: str) -> Callable[[Path], object]:
    def damage(run: Path) -> None:
        content = (run / name).read_text()
        assert old in content
        (run / name).write_text(content.replace(old, new))

    return damage


def _remove(name: str) -> Callable[[Path], object]:
    return lambda run: (run / name).unlink()


def _truncate(name: str) -> Callable[[Path], object]:
    return lambda run: (run / name).write_bytes((run / name).read_bytes()[:60])


def _lose_a_tensor(run: Path) -> None:
    file = run / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    del tensors[min(tensors)]
    save_file(tensors, file)


ALTERED = "expected the description of a posterior; it is incomplete"
DAMAGED: dict[str, tuple[Callable[[Path], object], str]] = {
    "no config": (_remove("config.yaml"), "expected a run directory with config.yaml; it is not there; check the path"),
    "config with an unknown key": (
        _text("config.yaml", "num_steps", "num_stps"),
        "train.num_stps: no such key; did you mean train.num_steps?",
    ),
    "config with another type": (
        _text("config.yaml", "num_samples: 2", "num_samples: many"),
        "config.yaml: expected the configuration of a run",
    ),
    "config without data": (
        lambda run: (run / "config.yaml").write_text("seed: 1"),
        "missing 1 required positional argument: 'data'",
    ),
    "config that is no YAML": (
        lambda run: (run / "config.yaml").write_text("{"),
        "config.yaml: expected the configuration of a run",
    ),
    "config with an unknown task": (
        lambda run: (run / "config.yaml").write_text("data: {task: tweetz}"),
        "got 'tweetz'; did you mean tweets?",
    ),
    "other labels": (
        _text("config.yaml", "' negative'", "' number'"),
        "expected the labels that the posterior was learnt for; got [' number', ' positive']",
    ),
    "more labels": (
        _text("config.yaml", "  - ' negative'", "  - ' What'\n  - ' negative'"),
        "expected the labels that the posterior was learnt for; got [' What', ' negative', ' positive']",
    ),
    "no description": (_remove("posterior.json"), "expected a run directory with posterior.json"),
    "description is no JSON": (
        lambda run: (run / "posterior.json").write_text("{"),
        "posterior.json: expected the description of a posterior; it cannot be read",
    ),
    "description is a list": (
        lambda run: (run / "posterior.json").write_text("[]"),
        "posterior.json: expected a JSON object; got a list",
    ),
    "other version": (
        _json("posterior.json", lambda d: d.update(version=2)),
        "expected blob_pyro.posterior version 1; got blob_pyro.posterior version 2; load it with the version of",
    ),
    "other format": (
        _json("posterior.json", lambda d: d.update(format="x")),
        "expected blob_pyro.posterior version 1; got x version 1",
    ),
    "key missing": (_json("posterior.json", lambda d: d.pop("adapter")), ALTERED + ": adapter missing"),
    "unknown guide": (_json("posterior.json", lambda d: d["guide"].update(name="x")), ALTERED),
    "guide of another shape": (_json("posterior.json", lambda d: d.update(guide="x")), ALTERED),
    "guide settings": (_json("posterior.json", lambda d: d["guide"].update(settings={"a": 1})), ALTERED),
    "token ids": (
        _json("posterior.json", lambda d: d["likelihood"].update(settings={"token_ids": ["a", "b"]})),
        ALTERED,
    ),
    "prior": (
        _json("posterior.json", lambda d: d.update(prior_scale=-1)),
        "prior_scale: expected a number above 0; got -1",
    ),
    "base settings": (_json("posterior.json", lambda d: d.update(base={"x": 1})), ALTERED),
    "base gone": (
        _json("posterior.json", lambda d: d["base"].update(id="/no/such")),
        "model /no/such: expected a hub id, a local folder",
    ),
    "sites": (
        _json("posterior.json", lambda d: d["sites"].popitem()),
        "expected the adapter that posterior.json describes",
    ),
    "posterior truncated": (
        _truncate("posterior.safetensors"),
        "posterior.safetensors: expected a safetensors file; it cannot be read",
    ),
    "posterior missing": (
        _remove("posterior.safetensors"),
        "posterior.safetensors: expected a safetensors file; it cannot be read",
    ),
    "adapter truncated": (_truncate("adapter/adapter_model.safetensors"), "expected an adapter for this base model"),
    "adapter missing": (
        _remove("adapter/adapter_model.safetensors"),
        "expected adapter_model.safetensors in the folder of an adapter; it is not there",
    ),
    "adapter config missing": (
        _remove("adapter/adapter_config.json"),
        "expected adapter_config.json in the folder of an adapter; it is not there",
    ),
    "adapter config is no JSON": (
        lambda run: (run / "adapter" / "adapter_config.json").write_text("{"),
        "expected the settings of an adapter; it cannot be read",
    ),
    "adapter of another rank": (_json("adapter/adapter_config.json", lambda d: d.update(r=4)), "size mismatch"),
    "adapter of more layers": (
        _json("adapter/adapter_config.json", lambda d: d["target_modules"].append("k_proj")),
        "Found missing adapter keys",
    ),
    "adapter of fewer layers": (
        _json("adapter/adapter_config.json", lambda d: d.update(target_modules=["q_proj"])),
        "expected the adapter that posterior.json describes",
    ),
    "adapter without a tensor": (_lose_a_tensor, "Found missing adapter keys"),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Found missing adapter keys")
@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_run_is_one_line(refused, finished, tmp_path, case):
    damage, message = DAMAGED[case]
    run = shutil.copytree(finished / "run", tmp_path / "damaged")
    items = tiny.write_jsonl(tmp_path / "new.jsonl", [{"text": "a nice day"}])
    damage(run)
    assert message in refused("predict", run, items, "--quiet")
