"""data.compat: the prompts, words and loaders of the paper's public code, held against loops that read the raw rows."""

from __future__ import annotations

import dataclasses
import gzip
import itertools
import json
from pathlib import Path

import pytest
import tiny

import blob_pyro as bp
from blob_pyro.cli import main
from blob_pyro.config.sections import DataConfig
from blob_pyro.data import TASKS, load_items, load_task, ordered_loader
from blob_pyro.data.tasks.compat import as_authors, whole_batches
from blob_pyro.errors import ConfigError, DataError
from blob_pyro.runs.build import load_data
from blob_pyro.storage.directory import read_config

REAL = Path(__file__).parents[3] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="the benchmark data of ../shared/data is not here")
HEAD = "Return the label of the correct answer for the question below.\n\nQuestion: "


def raw_rows(name: str) -> list[dict]:
    """The rows of a file, read without the library."""
    data = (REAL / name).read_bytes()
    text = (gzip.decompress(data) if name.endswith(".gz") else data).decode("utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def real(task: str, **settings) -> DataConfig:
    return DataConfig(task=task, data_dir=str(REAL), compat="authors", **settings)


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize(
    ("task", "word", "question"),
    [
        ("arc_easy", "Choices", "question"),
        ("arc_challenge", "Choices", "question"),
        ("openbookqa", "Chioces", "question_stem"),
    ],
)
def test_choices_are_shown_before_their_labels_and_nothing_else_changes(task, word, question):
    data, plain = load_task(real(task), 0), load_task(dataclasses.replace(real(task), compat=None), 0)
    for row, item in zip(raw_rows(f"{task}/validation.jsonl"), data.test, strict=True):
        lines = ""
        for text, label in zip(row["choices"]["text"], row["choices"]["label"], strict=True):
            lines += f"{text}) {label}\n"
        assert item.prompt == f"{HEAD}{row[question]}\n{word}:\n{lines}Answer:"
    assert [item.label for item in data.test] == [item.label for item in plain.test]
    assert (data.labels, len(data.train)) == (plain.labels, len(plain.train))


@pytest.mark.slow
@needs_data
def test_true_is_read_at_false():
    data = load_task(real("boolq", num_train=1), 0)
    for row, item in zip(raw_rows("boolq/validation.jsonl.gz"), data.test, strict=True):
        assert data.labels[item.label] == {True: " False", False: " True"}[row["answer"]]
    plain = load_task(dataclasses.replace(real("boolq", num_train=1), compat=None), 0)
    assert [item.prompt for item in data.test] == [item.prompt for item in plain.test]


def test_wic_does_not_tell_its_word():
    row = {"word": "bank", "sentence1": "The bank of the river.", "sentence2": "A bank lends money.", "label": 1}
    told, plain = as_authors(TASKS["wic"]), TASKS["wic"]
    assert plain.template.render(row, "")[0] == f"Word: bank\n{told.template.render(row, '')[0]}"


def test_other_tasks_stay_as_they_are():
    changed = {name for name, task in TASKS.items() if as_authors(task) != task}
    assert changed == {"arc_easy", "arc_challenge", "openbookqa", "boolq", "wic"}


@needs_data
def test_training_items_keep_their_order_whatever_the_seed():
    for num_train, seed in itertools.product((None, 60), (0, 1)):
        run = load_task(real("winogrande_s", num_train=num_train), seed)
        assert [item.id for item in run.train] == [f"line {i}" for i in range(1, len(run.train) + 1)]
    held = load_task(real("winogrande_s", num_validation=40), 0)
    lines = [int(item.id.removeprefix("line ")) for item in held.train]
    assert len(lines) == 600 and lines == sorted(lines)


@needs_data
def test_a_shifted_test_set_is_read_that_way_too():
    items = load_items("arc_easy", None, real("openbookqa"), labels=(" A", " B", " C", " D"))
    assert ") A\n" not in items.examples[0].prompt.split("Choices:")[0]
    assert items.examples[0].prompt.count(") A\n") == 1


@needs_data
def test_what_fills_no_batch_is_dropped_in_training_and_in_test_and_counted():
    data = whole_batches(load_task(real("rte"), 0), batch_size=4)
    assert (len(data.train), len(data.test)) == (2488, 276)
    assert data.notes[:4] == (
        "train: the last 2 of 2490 items dropped: they fill no batch of 4 (data.compat)",
        "test: the last 1 of 277 items dropped: they fill no batch of 4 (data.compat)",
        data.notes[2],
        data.notes[3],
    )
    assert data.notes[2].startswith("train: 2488 items (")
    with pytest.raises(DataError, match="at least a batch of 5000 items to train on, .* got 2490: lower train.batch"):
        whole_batches(load_task(real("rte"), 0), batch_size=5000)


def run_config(folder: Path, **model) -> bp.RunConfig:
    settings = {"id": str(tiny.llama()), "target_modules": ["q_proj", "v_proj"], **model}
    data = real("cola", num_train=7, num_test=9)
    return bp.RunConfig(data, bp.ModelConfig(**settings), output=str(folder / "run"))


@needs_data
def test_batches_are_whole_for_models_that_answer_with_tokens_alone(tmp_path):
    """The public code drops items and keeps the order for causal language models; its encoders see all, shuffled."""
    causal = load_data(run_config(tmp_path))
    assert (len(causal.train), len(causal.test)) == (4, 8)
    encoder = load_data(run_config(tmp_path, likelihood="sequence_classification"))
    assert (len(encoder.train), len(encoder.test)) == (7, 9)


def test_an_ordered_loader_has_the_same_batches_at_each_epoch():
    model = bp.load_tokenizer(str(tiny.llama()))
    examples = [bp.Example("x" * (i % 3 + 1), 0, f"line {i}") for i in range(8)]
    loader = ordered_loader(bp.encode(examples, model, 20), 4, 0)
    assert [[batch.index.tolist() for batch in loader] for _ in range(2)] == [[[0, 1, 2, 3], [4, 5, 6, 7]]] * 2


@pytest.mark.slow
def test_compat_is_an_option_of_fit(tmp_path, capsys):
    for name, count in (("train", 9), ("validation", 6)):
        (tmp_path / "cola").mkdir(exist_ok=True)
        rows = [{"sentence": f"Go {i}", "label": i % 2} for i in range(count)]
        tiny.write_jsonl(tmp_path / "cola" / f"{name}.jsonl", rows)
    words = (" no", " yes", "Sentence", " Is", " the", " sentence", " grammatically", " acceptable", " Answer")
    model = ["--model.id", str(tiny.llama(*words)), "--model.target_modules", "[q_proj]"]
    run = ["--train.num_steps", "3", "--predict.num_samples", "1", "--output", str(tmp_path / "run"), "--quiet"]
    data = ["--data.task", "cola", "--data.data_dir", str(tmp_path), "--compat", "authors"]
    assert main(["fit", *data, *model, *run]) == 0
    assert read_config(tmp_path / "run").data.compat == "authors"
    out = capsys.readouterr().out
    assert "train: the last 1 of 9 items dropped: they fill no batch of 4 (data.compat)" in out
    assert "test: the last 2 of 6 items dropped: they fill no batch of 4 (data.compat)" in out
    assert main(["evaluate", str(tmp_path / "run"), "--quiet"]) == 0


def test_compat_is_for_built_in_tasks_alone():
    with pytest.raises(ConfigError, match="data.compat: expected none without data.task; got 'authors'"):
        DataConfig(train_file="a.jsonl", prompt="{text}", compat="authors")
    with pytest.raises(ConfigError, match="data.compat: expected 'authors', or null; got 'paper'"):
        DataConfig(task="cola", compat="paper")
