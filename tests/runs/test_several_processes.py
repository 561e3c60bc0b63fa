"""Whole runs in two real processes: trained, evaluated, killed and gone on with together."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from processes import Process, finished, free_port, together
from several import in_processes

from blob_pyro.runs.evaluate import evaluate_run

pytestmark = pytest.mark.slow

COMPARED = ("history.jsonl", "metrics.json", "adapter/adapter_model.safetensors", "posterior.safetensors")


def config_in(folder: Path, **sections: Any) -> Path:
    """A run on seven test items, which two processes cannot share evenly."""
    tiny.write_jsonl(folder / "seven.jsonl", tiny.items(7, seed=1))
    data = {"test_file": str(folder / "seven.jsonl"), "num_validation": 3} | sections.pop("data", {})
    train = {"num_steps": 8, "save_steps": 3, "batch_size": 3, "lr": 0.01} | sections.pop("train", {})
    raw = tiny.settings(folder, tiny.llama(), data=data, train=train, **sections)
    if raw["model"].get("likelihood") == "causal_lm":
        raw["data"].pop("labels")
    return tiny.write_yaml(folder / "own.yaml", raw)


def evaluated(run: str) -> tuple[dict[str, Any], Any]:
    result = evaluate_run(run, progress=False, say=lambda line: None)
    return {name: found.to_dict() for name, found in result.metrics.items()}, result.predictions


CAUSAL = {"data": {"completion": " {label}"}, "model": {"likelihood": "causal_lm"}}


@pytest.mark.parametrize(
    "sections",
    [
        {},
        {"model": {"shard_base": True}},
        {"model": {"shard_base": True, "gradient_checkpointing": True, "dtype": "bfloat16"}},
        CAUSAL,
        {"train": {"eval_steps": 2}, "predict": {"temperature": True}},
    ],
    ids=["classes", "sharded", "sharded and checkpointed", "texts", "evaluated"],
)
def test_a_run_of_two_processes_is_one_run(sections: dict[str, Any], tmp_path: Path) -> None:
    """The first one writes and speaks; no test item is missing or there twice; one process finds the same scores."""
    config = config_in(tmp_path, **sections)
    (code, out, err), (other_code, other_out, other_err) = together("fit", config)
    assert (code, other_code) == (0, 0), err + other_err
    assert out.count("\nwrote ") == 1 and other_out == ""
    run = tmp_path / "run"
    assert [line["step"] for line in tiny.read_jsonl(run / "history.jsonl")] == list(range(1, 9))
    metrics = json.loads((run / "metrics.json").read_text())
    predictions = (run / "predictions.parquet").read_bytes()
    found, _ = evaluated(str(run))
    assert found.keys() == metrics.keys()
    for name, scores in found.items():
        assert scores == {key: pytest.approx(value, rel=1e-4, nan_ok=True) for key, value in metrics[name].items()}
    assert predictions
    both = in_processes(2, evaluated, str(run))
    for own, at in both:
        for name, scores in own.items():
            assert scores == {key: pytest.approx(value, rel=1e-4, nan_ok=True) for key, value in found[name].items()}
        assert all(len(value) > 0 for value in at.values())


def test_predictions_come_in_the_order_of_the_items(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    assert finished("fit", config)[0] == 0
    _, expected = evaluated(str(tmp_path / "run"))
    for _, found in in_processes(3, evaluated, str(tmp_path / "run")):
        for name, predictions in expected.items():
            assert torch.equal(found[name].labels, predictions.labels)
            torch.testing.assert_close(found[name].draws, predictions.draws)


def test_two_processes_that_are_killed_go_on_as_if_they_had_not_been(tmp_path: Path) -> None:
    config = config_in(tmp_path)
    assert [code for code, _, _ in together("fit", config, "--output", tmp_path / "whole")] == [0, 0]
    run = tmp_path / "broken"
    port = free_port()
    started = [Process("fit", config, "--output", run, launched_as=(rank, 2, port)) for rank in range(2)]
    started[0].wait_for_lines(run / "history.jsonl", 5)
    for process in started:
        process.send(signal.SIGKILL)
    for process in started:
        process.wait()
    assert [code for code, _, _ in together("fit", config, "--output", run, "--resume")] == [0, 0]
    for name in COMPARED:
        assert (run / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_sharding_alone_is_refused_in_one_line(tmp_path: Path) -> None:
    code, _, err = finished("fit", config_in(tmp_path, model={"shard_base": True}))
    assert code == 2 and err.count("\n") == 1
    assert "model.shard_base: expected several processes; got one: start them with a launcher" in err
    assert not (tmp_path / "run").exists()
