"""Markdown tables: numbers, alignment and refusals (the layout itself is in the docstrings' examples)."""

from __future__ import annotations

import dataclasses
import math
import statistics

import pytest

from blob_pyro.evaluation import Metrics
from blob_pyro.report.tables import metrics_table, seeds_table

METRICS = Metrics(
    accuracy=0.67,
    nll=1.19,
    ece=0.213,
    brier=0.45,
    entropy=0.5,
    mutual_information=0.1,
    num_items=400,
    num_samples=10,
    num_bins=15,
    accuracy_se=0.0235,
    nll_se=0.061,
    brier_se=0.018,
    ece_se=0.019,
)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")]


def test_each_score_comes_with_its_standard_error() -> None:
    row = metrics_table({"BLoB": METRICS}).splitlines()[2]
    assert cells(row) == ["BLoB", "67.0 ± 2.4", "1.190 ± 0.061", "21.3 ± 1.9", "0.450 ± 0.018"]


def test_rows_keep_their_order_and_all_lines_one_width() -> None:
    lines = metrics_table({"z": METRICS, "a much longer name": METRICS, "ünï | code": METRICS}).splitlines()
    assert [cells(line)[0] for line in lines[2:]] == ["z", "a much longer name", r"ünï \| code"]
    assert len({len(line) for line in lines}) == 1


def test_a_score_without_an_error_stands_alone() -> None:
    single = dataclasses.replace(METRICS, accuracy_se=math.nan)
    assert cells(metrics_table({"one item": single}).splitlines()[2])[1] == "67.0"
    assert cells(seeds_table({"one seed": [METRICS]}).splitlines()[2]) == [
        "one seed", "1", "67.0", "1.190", "21.3", "0.450",
    ]  # fmt: skip


def test_seeds_are_summed_up_by_mean_and_standard_deviation() -> None:
    nlls = [1.0, 1.1, 1.4]
    row = seeds_table({"BLoB": [dataclasses.replace(METRICS, nll=nll) for nll in nlls]}).splitlines()[2]
    assert cells(row)[1:4] == ["3", "67.0 ± 0.0", f"{statistics.fmean(nlls):.3f} ± {statistics.stdev(nlls):.3f}"]


def test_nothing_to_show_is_refused() -> None:
    with pytest.raises(ValueError, match="expected at least one row; got none"):
        metrics_table({})
    with pytest.raises(ValueError, match="expected at least one row; got none"):
        seeds_table({})
    with pytest.raises(ValueError, match="expected metrics of at least one seed; got none for 'BLoB'"):
        seeds_table({"BLoB": []})
