"""Whole runs on files of your own: CSV and Parquet in, JSON lines out, and labels that the run keeps."""

from __future__ import annotations

import csv
import json
from datetime import date
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny

from blob_pyro.cli import main
from blob_pyro.config.methods import METHODS
from blob_pyro.experiments.compare import compare
from blob_pyro.experiments.compare.runs import run_config
from blob_pyro.runs.answerer import load_run
from blob_pyro.storage.directory import read_config


def write_csv(path: Path, rows: list[dict]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run trained on CSV, tested on Parquet, whose labels are the training file's own; that file is gone."""
    folder = tmp_path_factory.mktemp("own")
    train = write_csv(folder / "train.csv", tiny.items(9))
    pq.write_table(pa.Table.from_pylist(tiny.items(6, seed=1)), folder / "test.parquet")
    files = {"train_file": str(train), "test_file": str(folder / "test.parquet"), "labels": None, "group_field": "who"}
    config = tiny.write_yaml(folder / "own.yaml", tiny.settings(folder, tiny.llama(), data=files))
    assert main(["fit", str(config), "--quiet"]) == 0
    train.unlink()
    return folder / "run"


def test_a_run_keeps_the_labels_that_it_read(run):
    assert read_config(run).data.labels == list(tiny.LABELS)
    assert load_run(run, tiny.LABELS).model.likelihood.num_classes == 2
    table = pq.read_table(run / "predictions.parquet").to_pylist()
    assert [row["label"] for row in table] == [row["label"] for row in tiny.items(6, seed=1)]


def test_the_same_items_get_the_same_answers_from_every_format(run, tmp_path):
    rows = [{"text": row["text"], "who": row["who"]} for row in tiny.items(4, seed=3)]
    files = [tiny.write_jsonl(tmp_path / "new.jsonl", rows), write_csv(tmp_path / "new.csv", rows)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "new.parquet")
    answers = []
    for file in (*files, tmp_path / "new.parquet"):
        output = tmp_path / f"{file.suffix[1:]}.answers.jsonl"
        assert main(["predict", str(run), str(file), "--output", str(output), "--quiet"]) == 0
        answers.append(tiny.read_jsonl(output))
    assert answers[0] == answers[1] == answers[2]
    assert [{name: row[name] for name in rows[0]} for row in answers[0]] == rows


def test_answers_hold_dates_and_decimals_as_text(run, tmp_path, capsys):
    row = {"text": "a warm day", "day": date(2024, 2, 29), "price": Decimal("1.50"), "tags": ["a"], "none": None}
    pq.write_table(pa.Table.from_pylist([row]), tmp_path / "new.parquet")
    assert main(["predict", str(run), str(tmp_path / "new.parquet"), "--quiet"]) == 0
    answer = json.loads(capsys.readouterr().out)
    told = {"text": "a warm day", "day": "2024-02-29", "price": "1.50", "tags": ["a"], "none": None}
    assert {name: answer[name] for name in row} == told
    assert set(answer) == {*row, "prediction", "probabilities", "confidence", "margin", "entropy", "mutual_information"}


def test_a_bad_row_of_a_file_to_predict_is_one_line(run, tmp_path, capfd):
    (tmp_path / "new.csv").write_text("text,who\nfine,a\nfine,a,b\n")
    assert main(["predict", str(run), str(tmp_path / "new.csv")]) == 2
    err = capfd.readouterr().err
    assert err.startswith(f"blob-pyro: error: {tmp_path}/new.csv: expected comma-separated cells") and "line 3" in err


@pytest.mark.slow
def test_compare_reads_the_labels_for_all_its_runs(tmp_path):
    from tiny_runs import make_config

    config = make_config(tmp_path, data={"labels": None}, output=str(tmp_path / "all"))
    lines: list[str] = []
    compare(config, ["mle"], [0], progress=False, say=lines.append)
    assert f"labels: negative, positive (the values of 'label' in {tmp_path}/train.jsonl)" in lines
    assert read_config(run_config(config, METHODS["mle"], 0).output).data.labels == list(tiny.LABELS)
    compare(config, ["mle"], [0], progress=False, say=lines.append)
    assert any(line.startswith("already done") for line in lines)
