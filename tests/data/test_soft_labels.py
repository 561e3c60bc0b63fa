"""Shares of annotators from a file to a trained run."""

from __future__ import annotations

import json
import random

import pytest
import tiny
import torch

import blob_pyro as bp
from blob_pyro.cli import main
from blob_pyro.data import PromptTemplate, Row, collate, encode, examples_from_rows
from blob_pyro.data.formats import BadRowError
from blob_pyro.data.soft_labels import shares_of
from blob_pyro.errors import DataError
from blob_pyro.run_directory import read_json

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
    assert "train: the annotators of 6 items disagree; counted and scored by the largest share, of 1 the first" in out
    history = [json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert len(history) == 4 and read_json(tmp_path / "run" / "metrics.json")
