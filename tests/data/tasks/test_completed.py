"""Texts of one's own to learn token by token: the same items from every format, groups, notes, answer words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from row_files import file_bytes

from blob_pyro.config.sections import DataConfig
from blob_pyro.data import Example, Row, examples_for, load_task
from blob_pyro.data.prompts import PromptTemplate
from blob_pyro.data.tasks.completed import with_answers
from blob_pyro.data.tasks.own_files import with_labels
from blob_pyro.data.tasks.task_data import task_data

ROWS = [
    {"q": "2 + 2?", "a": "4", "who": "x"},
    {"q": "a, b?", "a": 'a "c"\nd', "who": "x"},
    {"q": "über", "a": " ü", "who": "y"},
]


def own(path: Path | str, **settings: Any) -> DataConfig:
    return DataConfig(**{"train_file": str(path), "prompt": "{q}\nA:", "completion": " {a}!", **settings})


def write(folder: Path, rows: list[dict[str, Any]], ending: str = ".jsonl") -> Path:
    path = folder / f"train{ending}"
    path.write_bytes(file_bytes(rows, ending))
    return path


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet"])
def test_every_format_gives_the_same_texts(tmp_path, ending):
    data = load_task(own(write(tmp_path, ROWS, ending)), seed=0)
    assert [(item.prompt, item.completion) for item in data.train] == [
        (f"{row['q']}\nA:", f" {row['a']}!") for row in ROWS
    ]
    assert all(item.label is None for item in data.train)
    assert (data.labels, data.notes) == ((), ("train: 3 items",))


def test_a_data_set_gives_them_too(tmp_path):
    datasets.Dataset.from_list(ROWS).to_parquet(str(tmp_path / "folder" / "train.parquet"))
    data = load_task(own("", train_file=None, dataset=str(tmp_path / "folder")), seed=0)
    assert [item.completion for item in data.train] == [f" {row['a']}!" for row in ROWS]


def test_numbers_and_truth_values_are_text(tmp_path):
    rows = [{"q": "x", "a": value} for value in (4, 0.5, True)]
    data = load_task(own(write(tmp_path, rows)), seed=0)
    assert [item.completion for item in data.train] == [" 4!", " 0.5!", " True!"]


def test_no_labels_are_read_and_a_field_called_label_may_be_learnt(tmp_path):
    config = own(write(tmp_path, [{"q": "x", "label": "one"}]), completion="{label}")
    assert with_labels(config) == (config, (), None)
    (item,) = examples_for(config, [Row(1, {"q": "x", "label": "one"})], with_labels=False, source="new")
    assert item.completion == "one"


def test_groups_and_validation_items_are_held_out(tmp_path):
    rows = [{"q": f"q{i}", "a": str(i), "who": f"user {i // 4}"} for i in range(20)]
    for seed in range(5):
        data = load_task(own(write(tmp_path, rows), num_validation=4, group_field="who"), seed)
        users = [{int(item.completion.strip(" !")) // 4 for item in part} for part in (data.train, data.validation)]
        assert len(data.validation) == 4 and not users[0] & users[1]


def test_groups_of_test_texts_that_training_has_are_told(tmp_path):
    rows = [{"q": f"q{i}", "a": str(i), "who": f"user {i}"} for i in range(6)]
    test = tmp_path / "test.tsv"
    test.write_bytes(
        file_bytes([row | {"q": f"new {row['q']}"} for row in rows[4:]] + [{**rows[0], "who": "z"}], ".tsv")
    )
    data = load_task(own(write(tmp_path, rows), test_file=str(test), group_field="who"), seed=0)
    assert "test: 2 of 3 items share their 'who' with items of training" in data.notes
    assert [item.group for item in data.test] == ["user 4", "user 5", "z"]


def test_prompts_with_several_completions_are_told(tmp_path):
    rows = [{"q": "same", "a": answer} for answer in ("one", "two", "two")] + [{"q": "other", "a": "one"}]
    data = load_task(own(write(tmp_path, rows)), seed=0)
    assert data.notes[1:] == ("train: 3 items share their prompt with an item of another completion",)


def test_a_whole_text_needs_no_completion(tmp_path):
    data = load_task(own(write(tmp_path, ROWS), completion=None, over="text", prompt="{q} {a}"), seed=0)
    assert [(item.prompt, item.completion) for item in data.train] == [(f"{row['q']} {row['a']}", "") for row in ROWS]


def test_answer_words_become_completions_and_the_notes_stay():
    items = [Example("a", 1, "line 1"), Example("b", 0, "line 2")]
    data = task_data(items, items[:1], [], (" no", " yes"), PromptTemplate("{text}"), notes=())
    found = with_answers(data)
    assert [item.completion for item in found.train] == [" yes", " no"] and found.test[0].completion == " yes"
    assert (found.labels, found.notes) == ((), data.notes)
