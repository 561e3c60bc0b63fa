"""The CSV files of comparisons, tables and figures have the bytes that they had when each had a writer of its own."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pytest
import torch

import blob_pyro as bp
from blob_pyro.evaluation.annotators import AnnotatorMetrics
from blob_pyro.experiments.paper import cost_table, writing
from blob_pyro.experiments.paper.figures import growth
from blob_pyro.experiments.paper.measuring import Cost
from blob_pyro.experiments.paper.writing import Section
from blob_pyro.report.comparison import Outcome, comparison_csv

KEPT = Path(__file__).parent / "csv"
METRICS = bp.Metrics(0.67, 1.19, 0.213, 0.45, 0.5, 0.1, 1400, 10, 15, 0.0235, 0.061, 0.018, 0.019)
TOKENS = bp.TokenMetrics(1.5, 4.48, 20.1, 1.2, 0.02, 0.1, 300, 20, 5, 0.44, 1.3)
SHARES = AnnotatorMetrics(*(0.1 * place + 0.03 for place in range(len(dataclasses.fields(AnnotatorMetrics)))))


def metrics(**changes: float) -> bp.Metrics:
    return dataclasses.replace(METRICS, **changes)


PLAIN: dict[str, dict[int, Outcome | None]] = {
    "BLoB N=10": {
        0: Outcome(metrics(nll=0.1 + 0.2), 12.3456, 1000, 10), 3: Outcome(metrics(nll=1 / 3), 99.1, 1000, 10), 1: None,
    },
    'odd, "name" †\nx': {0: Outcome(metrics(nll=math.nan, num_samples=3), None, None, 0)},
    "none": {0: None, 1: None},
}  # fmt: skip
ANNOTATED: dict[str, dict[int, Outcome | None]] = {
    "a": {
        0: Outcome(dataclasses.replace(METRICS, annotators=SHARES), 1.0, 5, 2, {"auroc": 0.7, "=x": 1e-300}),
        1: Outcome(METRICS, further={"auroc": 0.9}),
    },
    "b": {1: Outcome(dataclasses.replace(METRICS, annotators=dataclasses.replace(SHARES, kl=2.5)))},
}
COSTS = {
    "mle": {0: Cost(1.5, 2.5, 3, 4, 5), 1: Cost(1.7, 2.25, 31, 4, 5)},  # type: ignore[arg-type]
    "blob": {0: Cost(3.1, 2.7, 30, 41, 5), 2: Cost(3.3, 2.9, 30, 41, 5)},  # type: ignore[arg-type]
    "map": {},
}
WRITTEN = {
    "paper": lambda: writing._csv(
        [
            Section("winogrande_s", PLAIN),
            Section("boolq", ANNOTATED),
            Section("arc", {"a": {0: None}}, ("x",)),
            Section("empty", {}),
        ]
    ),
    "tokens": lambda: comparison_csv(
        {"a": {0: Outcome(TOKENS, 1, 2, 3), 1: Outcome(dataclasses.replace(TOKENS, nll=2.25, num_tokens=301))}}
    ),
    "cost": lambda: cost_table._csv(COSTS),
    "growth": lambda: growth._csv({"a, b": torch.tensor([0.1, 0.2, 1 / 3]), "c": torch.tensor([1.0, 2.0, 3e-20])}),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_file_is_what_it_was(name: str) -> None:
    assert WRITTEN[name]().encode() == (KEPT / f"{name}.csv").read_bytes()
