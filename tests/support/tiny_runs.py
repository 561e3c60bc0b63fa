"""Runs of `tiny` models by their configuration, and what they leave."""

from __future__ import annotations

from pathlib import Path

import tiny

import blob_pyro as bp
from blob_pyro.runs.evaluate import RunResult
from blob_pyro.runs.fit import fit_run

BERT = {"likelihood": "sequence_classification", "target_modules": ["query", "value"]}


def make_config(folder: Path, **sections) -> bp.RunConfig:
    """`tiny.settings` as a RunConfig."""
    raw = tiny.settings(folder, sections.pop("network", tiny.llama()), **sections)
    kinds = {"data": bp.DataConfig, "model": bp.ModelConfig, "guide": bp.GuideConfig}
    kinds |= {"train": bp.TrainConfig, "predict": bp.PredictConfig}
    return bp.RunConfig(**{name: kinds[name](**value) if name in kinds else value for name, value in raw.items()})


def run(config: bp.RunConfig) -> RunResult:
    """`fit_run` without a sound."""
    return fit_run(config, progress=False, say=lambda line: None)


def adapter_bytes(path: Path) -> bytes:
    return (path / "adapter" / "adapter_model.safetensors").read_bytes()
