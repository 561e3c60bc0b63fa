"""Local copies of the benchmarks as CSV, Parquet and gzip: the examples are those of the JSON lines."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from row_files import file_bytes

from blob_pyro.config.sections import DataConfig
from blob_pyro.data import load_task

REAL = Path(__file__).parents[3] / ".." / "shared" / "data"
FOLDERS = (
    "winogrande",
    "arc_easy",
    "openbookqa",
    "boolq",
    "mmlu/virology",
    "rte",
    "mrpc",
    "cola",
    "wic",
    "commonsense_qa",
)
TASKS = {folder: "winogrande_s" if folder == "winogrande" else folder for folder in FOLDERS}
CHOICES = {"text": ["tea", "milk", 'a, "b"'], "label": ["1", "2", "3"]}
# Two items of each format, for the formats whose real copies are not in the folder, and where there is no folder.
MADE = {
    "winogrande": [
        {"sentence": "The _ is a, b.", "option1": "cup", "option2": "jar", "answer": answer} for answer in "12"
    ],
    "arc_easy": [{"id": "q", "question": "Which?", "choices": CHOICES, "answerKey": key} for key in "31"],
    "openbookqa": [{"id": "q", "question_stem": "It is", "choices": CHOICES, "answerKey": key} for key in "21"],
    "boolq": [{"question": "is it", "passage": 'So "it" is,\nyes.', "answer": answer} for answer in (True, False)],
    "mmlu/virology": [{"question": "Which?", "subject": "v", "choices": list("wxyz"), "answer": i} for i in (3, 0)],
    "rte": [{"premise": "a", "hypothesis": "b", "idx": i, "label": i} for i in (0, 1)],
    "mrpc": [{"sentence1": "a", "sentence2": "b", "label": i, "idx": i} for i in (0, 1)],
    "cola": [{"sentence": "a", "label": i, "idx": i} for i in (0, 1)],
    "wic": [{"word": "w", "sentence1": "a w", "sentence2": "b w", "start1": 2, "label": i, "idx": i} for i in (0, 1)],
    "commonsense_qa": [{"id": "q", "question": "Which?", "choices": CHOICES, "answerKey": key} for key in "31"],
}


def rows_of(folder: str, split: str) -> list[dict]:
    """The first 40 real rows where they are there, else the made ones."""
    for path in (REAL / folder / f"{split}.jsonl", REAL / folder / f"{split}.jsonl.gz"):
        if path.exists():
            data = path.read_bytes()
            text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
            return [json.loads(line) for line in text.split("\n")[:40] if line]
    return MADE[folder]


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_format_gives_the_same_examples(tmp_path, folder):
    splits = {"winogrande": ("train_s", "validation"), "mmlu/virology": ("validation", "test")}
    found = []
    for ending in (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".tsv", ".parquet"):
        place = tmp_path / ending[1:]
        (place / folder).mkdir(parents=True)
        for split in splits.get(folder, ("train", "validation")):
            (place / folder / (split + ending)).write_bytes(file_bytes(rows_of(folder, split), ending))
        for compat in (None, "authors"):
            data = load_task(DataConfig(task=TASKS[folder], data_dir=str(place), compat=compat), seed=0)
            parts = [[(e.prompt, e.label, e.passage) for e in part] for part in (data.train, data.test)]
            assert all(parts)
            found.append((compat, parts))
    assert all(item in found[:2] for item in found)


def test_an_item_without_an_answer_has_none_in_csv_too(tmp_path):
    (tmp_path / "cola").mkdir()
    (tmp_path / "cola" / "train.csv").write_text("sentence,label\na,1\nb,-1\n")
    (tmp_path / "cola" / "validation.csv").write_text("sentence,label\na,1\nb,0\n")
    with pytest.raises(
        ValueError, match="cola train: expected a label in the field 'label' of every row; got none on line 3"
    ):
        load_task(DataConfig(task="cola", data_dir=str(tmp_path)), seed=0)
