"""Run directories to report on, as a run leaves them, without a model: what a report reads is written here."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
import yaml

import blob_pyro as bp
from blob_pyro.config.file import to_dict
from blob_pyro.storage.answers import write_predictions
from blob_pyro.training.svi import StepResult

HOSTILE = '<script>document.title = "hit"</script><img src="http://evil.example/x.png" onerror="document.title=1">'
NAMES = ("negative", "neutral", "positive")


def steps(count: int = 60, scale: tuple[float, float] | None = (0.002, 0.1), fall: float = 0.0) -> list[StepResult]:
    """A training whose NLL goes up and down about 0.5, and falls by so much over its steps."""
    found = []
    for step in range(1, count + 1):
        share = step / count
        nll = 0.5 + 0.1 * (-1) ** step - fall * share
        spread = None if scale is None else scale[0] + (scale[1] - scale[0]) * share
        found.append(StepResult(nll, 1000.0 / step, 0.5, 1.0, step, scale=spread))
    return found


def answers(
    n: int = 300, num_draws: int = 10, spread: float = 0.2, seed: int = 0, sharp: float = 1.0
) -> bp.Predictions:
    """Answers whose labels are drawn from their means before they are sharpened."""
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, 3, generator=generator)
    draws = (sharp * (logits + spread * torch.randn(num_draws, n, 3, generator=generator))).softmax(-1)
    labels = logits.softmax(-1).multinomial(1, generator=generator)[:, 0]
    return bp.Predictions(draws.mean(0), draws, labels)


def write_run(
    path: Path,
    predictions: bp.Predictions | None = None,
    history: list[StepResult] | None = None,
    notes: tuple[str, ...] = (),
    prompts: dict[int, str] | None = None,
    width: float | None = None,
    **sections: Any,
) -> Path:
    """A run directory whose spread ended at `width`, or as its history does; sections are merged into its own."""
    path.mkdir(parents=True)
    settings: dict[str, Any] = {
        "data": {"train_file": "train.jsonl", "test_file": "test.jsonl", "prompt": "{text}", "labels": list(NAMES)},
        "train": {"num_steps": 60},
        "output": str(path),
    }
    for name, value in sections.items():
        settings[name] = settings.get(name, {}) | value if isinstance(value, dict) else value
    kinds = {"data": bp.DataConfig, "model": bp.ModelConfig, "guide": bp.GuideConfig, "train": bp.TrainConfig,
             "predict": bp.PredictConfig, "tune": bp.TuneConfig}  # fmt: skip
    config = bp.RunConfig(**{name: kinds[name](**v) if name in kinds else v for name, v in settings.items()})
    (path / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    about = {"versions": {"torch": "2"}, "machine": {"device": "cpu"}, "items": {"train": 9}, "notes": list(notes)}
    (path / "about.json").write_text(json.dumps(about))
    (path / "cost.json").write_text(json.dumps({"train_seconds": 12.0, "adapter_parameters": 100}))
    history = steps() if history is None else history
    if width is None and history[-1].scale is not None:
        width = history[-1].scale / config.model.prior_scale
    told = {"mean_scales": {"layers.0.q_proj.lora_A": 0.1}, "width": width}
    (path / "posterior.json").write_text(json.dumps(told))
    write_history(path, history)
    predictions = answers() if predictions is None else predictions
    texts = prompts or {}
    examples = [
        bp.Example(texts.get(i, f"prompt {i}"), int(label), f"line {i}") for i, label in enumerate(predictions.labels)
    ]
    write_predictions(path / "predictions.parquet", predictions, examples, settings["data"]["labels"])
    mean = bp.Predictions(predictions.probs, predictions.probs[None], predictions.labels, predictions.shares)
    draws = len(predictions.draws)
    scores = {"N=0": bp.evaluate(mean).to_dict()}
    if draws > 1:
        scores[f"N={draws}"] = bp.evaluate(predictions).to_dict()
    (path / "metrics.json").write_text(json.dumps(scores))
    return path


def write_history(path: Path, history: list[StepResult]) -> None:
    """As `History` writes it."""
    lines = [{k: v for k, v in dataclasses.asdict(step).items() if v is not None} for step in history]
    text = "".join(json.dumps(line) + "\n" for line in lines).replace("NaN", "null")
    (path / "history.jsonl").write_text(text)
