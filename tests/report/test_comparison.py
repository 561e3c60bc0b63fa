"""The table of methods over seeds: what a cell holds, what ± is, what is missing; the CSV file gives it all back."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import statistics

import pytest

from blob_pyro.errors import DataError
from blob_pyro.evaluation import AnnotatorMetrics, Metrics
from blob_pyro.report import Outcome, comparison_csv, comparison_markdown

METRICS = Metrics(0.67, 1.19, 0.213, 0.45, 0.5, 0.1, 1400, 10, 15, 0.0235, 0.061, 0.018, 0.019)
NLLS = (1.0, 1.1, 1.4)


def outcome(nll: float = 1.19, **settings: object) -> Outcome:
    return Outcome(dataclasses.replace(METRICS, nll=nll), **settings)  # type: ignore[arg-type]


def rows_of(text: str) -> dict[str, dict[str, str]]:
    """Method -> heading -> cell of a Markdown table with notes below it."""
    lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in text.split("\n\n")[0].splitlines()]
    return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


def notes_of(text: str) -> str:
    return text.split("\n\n")[1]


def test_several_seeds_are_means_and_standard_deviations() -> None:
    text = comparison_markdown({"BLoB": {seed: outcome(nll) for seed, nll in enumerate(NLLS)}})
    row = rows_of(text)["BLoB"]
    assert row["NLL"] == f"{statistics.fmean(NLLS):.3f} ± {statistics.stdev(NLLS):.3f}"
    assert row["accuracy %"] == "67.0 ± 0.0" and row["seeds"] == "3"
    assert notes_of(text) == "± is the standard deviation over seeds (0, 1, 2)."


def test_one_seed_has_the_errors_over_the_items() -> None:
    text = comparison_markdown({"BLoB": {7: outcome()}, "MLE": {7: outcome(2.0)}})
    assert rows_of(text)["BLoB"] == {
        "method": "BLoB", "accuracy %": "67.0 ± 2.4", "NLL": "1.190 ± 0.061", "ECE %": "21.3 ± 1.9",
        "Brier": "0.450 ± 0.018",
    }  # fmt: skip
    assert notes_of(text) == "± is the standard error over 1,400 test items of one seed (7)."


def test_a_single_run_among_several_seeds_stands_alone_and_missing_ones_are_named() -> None:
    text = comparison_markdown(
        {
            "z": {0: outcome(1.0), 1: outcome(1.2), 2: outcome(1.1)},
            "a": {1: outcome()},
            "gap": {0: outcome(1.0), 1: None, 2: outcome(1.2)},
            "nothing": {0: None},
        }
    )
    rows = rows_of(text)
    assert list(rows) == ["z", "a", "gap", "nothing"]
    assert (rows["a"]["NLL"], rows["a"]["seeds"]) == ("1.190", "1 of 3")
    assert (rows["gap"]["NLL"], rows["gap"]["seeds"]) == ("1.100 ± 0.141", "2 of 3")
    assert set(rows["nothing"].values()) == {"nothing", "0 of 3", "-"}
    assert notes_of(text) == (
        "± is the standard deviation over seeds (0, 1, 2); a single run stands alone. "
        "Missing runs: a (seeds 0, 2), gap (seed 1), nothing (seeds 0, 1, 2)."
    )


def test_costs_and_further_scores_are_columns_only_where_there_are_some() -> None:
    text = comparison_markdown(
        {
            "MLE": {0: outcome(seconds=100.0, num_parameters=460_800, num_samples=0), 1: outcome(seconds=104.0)},
            "BLoB": {seed: outcome(num_samples=10, further={"AUROC": 0.5 + 0.2 * seed}) for seed in (0, 1)},
        }
    )
    rows = rows_of(text)
    assert list(rows["MLE"]) == [
        "method", "N", "seeds", "accuracy %", "NLL", "ECE %", "Brier", "AUROC", "parameters", "train s",
    ]  # fmt: skip
    assert (rows["MLE"]["N"], rows["MLE"]["parameters"], rows["MLE"]["train s"]) == ("0", "460,800", "102 ± 3")
    assert (rows["MLE"]["AUROC"], rows["BLoB"]["AUROC"]) == ("-", "0.600 ± 0.141")
    assert (rows["BLoB"]["N"], rows["BLoB"]["train s"]) == ("10", "-")
    assert set(rows_of(comparison_markdown({"MLE": {0: outcome()}}))["MLE"]) == {
        "method", "accuracy %", "NLL", "ECE %", "Brier",
    }  # fmt: skip


def test_counts_that_differ_between_seeds_are_a_range() -> None:
    text = comparison_markdown({"grown": {s: outcome(num_parameters=p) for s, p in enumerate((1200, 900, 1000))}})
    assert rows_of(text)["grown"]["parameters"] == "900 to 1,200"


def test_all_lines_of_the_table_have_one_width() -> None:
    text = comparison_markdown({"ünï | code": {0: outcome(), 1: outcome()}, "b": {0: outcome()}})
    assert len({len(line) for line in text.split("\n\n")[0].splitlines()}) == 1
    assert r"ünï \| code" in text


def lines_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_the_csv_file_holds_every_run_in_full_precision() -> None:
    nlls = {0: 1 / 3, 1: 0.1 + 0.2, 2: math.pi}
    outcomes = {
        'a, "b"': {s: outcome(nll, seconds=10.5, num_parameters=7, num_samples=5) for s, nll in nlls.items()},
        "gap": {0: None, 2: outcome(further={"AURC": 1 / 7})},
    }
    lines = lines_of(comparison_csv(outcomes))
    runs = {(line["method"], int(line["seed"])): line for line in lines if line["row"] == "run"}
    assert list(runs) == [('a, "b"', 0), ('a, "b"', 1), ('a, "b"', 2), ("gap", 2)]
    for seed, nll in nlls.items():
        line = runs['a, "b"', seed]
        found = Metrics(**{
            name: (int if name.startswith("num_") else float)(line[name])
            for name in METRICS.to_dict()
        })  # type: ignore[arg-type]  # fmt: skip
        assert found == dataclasses.replace(METRICS, nll=nll)
        assert (line["N"], line["parameters"], float(line["train_seconds"]), line["AURC"]) == ("5", "7", 10.5, "")
    assert float(runs["gap", 2]["AURC"]) == 1 / 7 and runs["gap", 2]["train_seconds"] == ""


def test_the_csv_file_sums_up_and_names_what_is_missing() -> None:
    lines = lines_of(comparison_csv({"BLoB": {s: outcome(n, num_samples=10) for s, n in enumerate(NLLS)}, "TFB": {}}))
    kinds = [(line["method"], line["row"], line["seed"]) for line in lines]
    assert kinds == [
        ("BLoB", "run", "0"), ("BLoB", "run", "1"), ("BLoB", "run", "2"), ("BLoB", "mean", ""), ("BLoB", "std", ""),
        ("TFB", "missing", "0"), ("TFB", "missing", "1"), ("TFB", "missing", "2"),
    ]  # fmt: skip
    mean, std = lines[3], lines[4]
    assert (float(mean["nll"]), float(std["nll"])) == (statistics.fmean(NLLS), statistics.stdev(NLLS))
    assert (mean["N"], mean["num_items"], mean["nll_se"]) == ("10", "1400", "")
    assert (std["N"], std["num_items"], std["nll_se"], float(std["ece"])) == ("", "", "", 0.0)
    assert all(lines[-1][name] == "" for name in METRICS.to_dict())


def test_scores_against_annotators_have_columns_where_a_run_has_them() -> None:
    scores = AnnotatorMetrics(0.6, 0.9, 0.1, 0.5, 0.2, 0.7, 0.25, 0.02, 0.03, 0.01, 0.04, 0.05, 0.06)
    with_them = [
        Outcome(dataclasses.replace(METRICS, annotators=dataclasses.replace(scores, expected_nll=nll))) for nll in NLLS
    ]
    outcomes = {"BLoB": dict(enumerate(with_them)), "old": {0: outcome()}}
    table = rows_of(comparison_markdown(outcomes))
    assert table["BLoB"]["expected NLL"] == f"{statistics.fmean(NLLS):.3f} ± {statistics.stdev(NLLS):.3f}"
    assert (table["BLoB"]["DistCE %"], table["old"]["DistCE %"]) == ("25.0 ± 0.0", "-")
    alone = rows_of(comparison_markdown({"BLoB": {0: with_them[0]}}))
    assert alone["BLoB"]["expected accuracy %"] == "60.0 ± 2.0"
    lines = lines_of(comparison_csv(outcomes))
    assert [float(line["expected_nll"]) for line in lines[:3]] == list(NLLS)
    assert all(float(lines[0][name]) == value for name, value in scores.to_dict().items() if name != "expected_nll")
    assert {line["kl"] for line in lines if line["method"] == "old"} == {""}
    with pytest.raises(DataError, match="got 'kl'; rename it"):
        outcome(further={"kl": 1.0})


def test_a_number_that_is_none_is_left_empty() -> None:
    single_item = dataclasses.replace(METRICS, nll_se=math.nan)
    (run, *_) = lines_of(comparison_csv({"one": {0: Outcome(single_item)}}))
    assert run["nll_se"] == "" and run["accuracy_se"] == "0.0235"


def test_nothing_to_compare_is_refused() -> None:
    for write in (comparison_markdown, comparison_csv):
        with pytest.raises(DataError, match="outcomes: expected at least one method; got none"):
            write({})
        with pytest.raises(DataError, match="outcomes: expected at least one seed; got none"):
            write({"BLoB": {}})
    with pytest.raises(DataError, match="further: expected names that no other column has; got 'nll'"):
        outcome(further={"nll": 1.0})
