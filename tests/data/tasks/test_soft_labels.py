"""Shares of annotators from a file to a trained run."""

from __future__ import annotations

import json
import random

import pytest
import tiny
import torch
from row_files import file_bytes

import blob_pyro as bp
from blob_pyro.cli import main
from blob_pyro.data import PromptTemplate, Row, collate, encode, examples_from_rows, read_rows
from blob_pyro.data.tasks.formats import BadRowError
from blob_pyro.data.tasks.labelled import shares_of
from blob_pyro.errors import DataError
from blob_pyro.storage.answers import read_predictions
from blob_pyro.storage.directory import read_json

CLASSES = {"bad": 0, "good": 1, "mixed": 2}
LABELS = [" bad", " good", " mixed"]


def test_counts_become_shares_whatever_their_order() -> None:
    generator = random.Random(0)
    for _ in range(100):
        counts = {name: generator.choice([0, 1, 2, 0.5]) for name in generator.sample(list(CLASSES), 3)}
        if not sum(counts.values()):
            continue
        found = shares_of(counts, CLASSES)
        assert found == tuple(counts[name] / sum(counts.values()) for name in CLASSES)
        assert sum(found) == pytest.approx(1)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"good": 1, "awful": 1}, "the label 'awful', which is none of 'bad', 'good', 'mixed'"),
        ({"good": -1}, "-1 for 'good', which is no number of at least 0"),
        ({"good": "two"}, "'two' for 'good', which is no number"),
        ({"good": True}, "True for 'good', which is no number"),
        ({"good": float("inf")}, "inf for 'good'"),
        ({"good": 1, " good": 1}, "a label twice in 'good', 'good'"),
        ({"good": 0}, "no label with a share above 0"),
        ({}, "no label with a share above 0"),
    ],
)
def test_what_is_no_soft_label_is_refused(value: dict[str, object], message: str) -> None:
    with pytest.raises(BadRowError) as caught:
        shares_of(value, CLASSES)
    assert message in str(caught.value)
    rows = [Row(1, {"text": "a", "label": "good"}), Row(2, {"text": "b", "label": value})]
    with pytest.raises(DataError, match="expected numbers by label in the field 'label'; got something else on line 2"):
        examples_from_rows(rows, PromptTemplate("{text}"), LABELS, "label", require_label=True)


def disputed(count: int) -> list[dict]:
    """Rows with counts of annotators by label; each label has both, none or all of them somewhere."""
    votes = ({"negative": 3, "positive": 1}, {"negative": 1, "positive": 1}, {"negative": 4}, {"positive": 2})
    return [row | {"label": votes[i % 4]} for i, row in enumerate(tiny.items(count))]


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "tsv", "parquet"])
def test_shares_are_the_same_in_every_format(ending: str, tmp_path) -> None:
    """A cell of CSV holds the JSON of the object; Parquet has null for a label that is left out."""
    rows = disputed(8)
    (tmp_path / f"a.{ending}").write_bytes(file_bytes(rows, ending))
    labels, template = [" negative", " positive"], PromptTemplate("{text}")
    found = examples_from_rows(read_rows(tmp_path / f"a.{ending}"), template, labels, "label", require_label=True)
    expected = [shares_of(row["label"], {"negative": 0, "positive": 1}) for row in rows]
    assert [example.shares for example in found] == expected


@pytest.mark.slow
def test_a_run_is_scored_against_its_annotators(tmp_path, monkeypatch, capfd) -> None:
    """Where test items have shares, metrics.json, the file of predictions and the terminal have what they score."""
    monkeypatch.chdir(tmp_path)
    raw = tiny.settings(tmp_path, tiny.llama())
    tiny.write_jsonl(tmp_path / "test.jsonl", disputed(8))
    raw |= {"data": raw["data"] | {"num_validation": 4}, "predict": {"num_samples": 3, "temperature": True}}
    file = str(tiny.write_yaml(tmp_path / "soft.yaml", raw))
    assert main(["fit", file, "--quiet"]) == 0
    out = capfd.readouterr().out
    note = "disagree; counted by the largest share, of 2 the first of equals; scored by it, and by the shares"
    assert f"test: the annotators of 4 items {note}\n" in out
    assert "| against annotators | expected accuracy % |" in out and "is the floor of the expected NLL" in out
    stored = read_predictions(tmp_path / "run" / "predictions.parquet")
    shares = torch.tensor([shares_of(row["label"], {"negative": 0, "positive": 1}) for row in disputed(8)])
    assert stored.shares is not None and torch.equal(stored.shares, shares)
    assert torch.equal(stored.labels, shares.argmax(-1))
    metrics = read_json(tmp_path / "run" / "metrics.json")["N=3"]
    by_hand = -(shares.double() * stored.probs.double().log()).sum(-1).mean()
    assert metrics["expected_nll"] == pytest.approx(float(by_hand), rel=1e-6)
    assert bp.Metrics.from_dict(metrics).annotators is not None
    assert main(["evaluate", "run", "--quiet"]) == 0
    assert out[out.index("| method") : out.index("wrote ")] in capfd.readouterr().out
    assert main(["fit", file, "--quiet", "--resume"]) == 0  # nothing is left to do: the scores are read
    assert capfd.readouterr().out.endswith(out[out.index("| method") :])
    raw["output"] = "both"
    file = str(tiny.write_yaml(tmp_path / "soft.yaml", raw))
    assert main(["compare", file, "--methods", "mle,blob", "--seeds", "0", "--quiet"]) == 0
    assert "| expected accuracy % |  expected NLL |" in capfd.readouterr().out
    header, *_ = (tmp_path / "both" / "comparison.csv").read_text().splitlines()
    assert "expected_nll" in header.split(",") and "dist_ce_se" in header.split(",")


def test_one_soft_label_makes_all_of_them_shares() -> None:
    rows = [Row(1, {"text": "a", "label": "good"}), Row(2, {"text": "b", "label": {"bad": 3, "mixed": 1}})]
    first, second = examples_from_rows(rows, PromptTemplate("{text} is"), LABELS, "label", require_label=True)
    assert (first.label, first.shares) == (1, (0.0, 1.0, 0.0))
    assert (second.label, second.shares) == (0, (0.75, 0.0, 0.25))
    items = encode([first, second], bp.load_tokenizer(str(tiny.llama())), 20)
    batch = collate([items[0], items[1]], pad_token_id=0)
    assert batch.labels is not None and torch.equal(batch.labels, torch.tensor([first.shares, second.shares]))


def test_a_run_learns_from_soft_labels(tmp_path, monkeypatch, capfd) -> None:
    """Half of the items are disputed; a line says so, the test items are scored by the largest share."""
    monkeypatch.chdir(tmp_path)
    rows = tiny.items(12)
    for row in rows[:6]:
        other = "negative" if row["label"] == "positive" else "positive"
        row["label"] = {row["label"]: 3, other: 1}
    rows[0]["label"] = {"negative": 1, "positive": 1}
    raw = tiny.settings(tmp_path, tiny.llama())
    tiny.write_jsonl(tmp_path / "train.jsonl", rows)
    assert main(["fit", str(tiny.write_yaml(tmp_path / "soft.yaml", raw)), "--quiet"]) == 0
    out = capfd.readouterr().out
    assert "train: the annotators of 6 items disagree; counted by the largest share, of 1 the first of equals\n" in out
    assert "expected" not in out  # the test items have one label each
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert len(history) == 4 and read_json(tmp_path / "run" / "metrics.json")
