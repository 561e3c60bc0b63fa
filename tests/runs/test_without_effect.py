"""Settings that would change nothing are told, and a single step trains."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import tiny_runs
import torch
from safetensors.torch import load_file

import blob_pyro as bp
from blob_pyro.runs.fit import fit_run

pytestmark = pytest.mark.slow

NO_KL = "the guide {} is trained without a KL"
UNUSED: dict[str, tuple[dict[str, Any], dict[str, Any], str | None]] = {
    "mle": (
        {"name": "mle"}, {"kl_width": 0.3, "kl_weight": 2.0},
        "note: train.kl_width, train.kl_weight: without effect, " + NO_KL.format("mle"),
    ),
    "fitted to mle": (
        {"name": "tfb"}, {"kl_schedule": "uniform"},
        "note: train.kl_schedule: without effect, " + NO_KL.format("tfb"),
    ),
    "ensemble": (
        {"name": "ensemble", "num_members": 2}, {"kl_lr": 0.1},
        "note: train.kl_lr: without effect, " + NO_KL.format("ensemble"),
    ),
    "elbo": (
        {}, {"recipe": "elbo", "kl_lr": 0.1, "kl_step": "explicit", "kl_weight": 0.5},
        "note: train.kl_lr, train.kl_step: without effect, the recipe elbo has no step of its own on the KL",
    ),
    "a cycle of nothing": (
        {}, {"kl_schedule": "constant", "kl_cycle": 3, "kl_lr": 0.001},
        "note: train.kl_cycle: without effect, the schedule constant has no cycle",
    ),
    "map": ({"name": "map"}, {"kl_lr": 0.1, "kl_weight": 0.5}, None),
    "blob": ({}, {"kl_width": 0.3, "kl_weight": 2.0, "kl_cycle": 2}, None),
    "nothing given": ({"name": "mle"}, {}, None),
}  # fmt: skip


@pytest.mark.parametrize("name", list(UNUSED))
def test_settings_of_the_kl_without_effect_are_told(name: str, tmp_path: Path) -> None:
    guide, train, note = UNUSED[name]
    lines: list[str] = []
    config = tiny_runs.make_config(tmp_path, guide=guide, train={"num_steps": 2} | train)
    fit_run(config, progress=False, say=lines.append)
    assert [line for line in lines if "without effect" in line] == ([note] if note else [])


@pytest.mark.parametrize("warmup_ratio", [0.06, 1.0])
def test_a_single_step_trains_at_the_full_rates(warmup_ratio: float, tmp_path: Path) -> None:
    """B, which starts at 0, is moved by AdamW's rate in each entry; the KL brings the spread to the width asked for."""
    train = {"num_steps": 1, "lr": 0.01, "warmup_ratio": warmup_ratio, "kl_width": 0.4}
    run = Path(tiny_runs.run(tiny_runs.make_config(tmp_path, train=train)).path)
    moved = [
        value for key, value in load_file(run / "adapter" / "adapter_model.safetensors").items() if "lora_B" in key
    ]
    assert all(float(value.abs().max()) == pytest.approx(0.01, rel=0.02) for value in moved)
    assert bp.load(run).guide.width() == pytest.approx(0.4, abs=0.01)
    (line,) = tiny.read_jsonl(run / "history.jsonl")
    assert line["kl_weight"] > 0 and torch.tensor(line["nll"]).isfinite()
