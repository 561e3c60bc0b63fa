"""Files of your own: labels that the file tells, choices, groups, and data sets in place of files."""

from __future__ import annotations

import dataclasses
import itertools
import json
import random
from pathlib import Path

import datasets
import pytest

from blob_pyro.config.sections import DataConfig
from blob_pyro.data import Row, examples_for, load_task
from blob_pyro.data.tasks.own_files import with_labels
from blob_pyro.errors import ConfigError, DataError


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def own(folder: Path, train: list[dict], test: list[dict] | None = None, **settings) -> DataConfig:
    test_file = None if test is None else write(folder / "test.jsonl", test)
    files = {"train_file": write(folder / "train.jsonl", train), "test_file": test_file}
    return DataConfig(**{**files, "prompt": "{text}:", **settings})


def items(*labels: object) -> list[dict]:
    return [{"text": f"item {number}", "label": label} for number, label in enumerate(labels)]


# --- labels ---


def test_labels_that_are_left_out_are_the_files_own_sorted_and_said(tmp_path):
    data = load_task(own(tmp_path, items("so so", "good", "bad", "good"), items("good")), seed=0)
    assert data.labels == (" bad", " good", " so so")
    assert [example.label for example in data.train] == [2, 1, 0, 1]
    assert data.notes[0] == f"labels: bad, good, so so (the values of 'label' in {tmp_path}/train.jsonl)"


@pytest.mark.parametrize(("prompt", "space"), [("{text}:", " "), ("{text} is ", ""), ("{text}\n", ""), ("{text}", " ")])
def test_an_answer_word_follows_its_prompt(tmp_path, prompt, space):
    data = load_task(own(tmp_path, items(True, False), prompt=prompt), seed=0)
    assert data.labels == (f"{space}False", f"{space}True")


def test_labels_are_read_once_and_kept(tmp_path):
    config, notes, _ = with_labels(own(tmp_path, items(1, 0)))
    assert (config.labels, len(notes)) == ([" 0", " 1"], 1)
    assert with_labels(config) == (config, (), None)
    assert with_labels(DataConfig(task="tweets")) == (DataConfig(task="tweets"), (), None)
    (example,) = examples_for(own(tmp_path, items(1, 0)), [Row(1, {"text": "a"})], with_labels=False, source="new")
    assert (example.prompt, example.label) == ("a:", None)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (["good", "good"], "at least two distinct labels in the field 'label'; got 'good': set data.labels, or data."),
        (["good", None, ""], "expected a label in the field 'label' of every row; got none on lines 2, 3: add it"),
        ([1, 0.5, 2.5], "a word, a whole number, true or false in the field 'label'; got .* on lines 2, 3 .*a float"),
        (["good", ["bad"]], "got something else on line 2 .line 2: a list"),
        (["good", "\ud800"], "got something else on line 2 .line 2: half of a surrogate pair"),
    ],
)
def test_values_that_cannot_serve_as_labels_are_named(tmp_path, labels, message):
    with pytest.raises(DataError, match=message):
        load_task(own(tmp_path, items(*labels)), seed=0)


def test_a_label_that_training_does_not_have_is_refused_or_told(tmp_path):
    message = "test.jsonl: expected in the field 'label' one of .'bad', 'good'.; got something else on line 2 .* 'fine'"
    with pytest.raises(DataError, match=message):
        load_task(own(tmp_path, items("good", "bad"), items("bad", "fine")), seed=0)
    labels = [" bad", " fine", " good"]
    notes = load_task(own(tmp_path, items("good", "bad"), items("bad", "fine", "fine"), labels=labels), seed=0).notes
    assert "test: 2 items have a label that no training item has (fine)" in notes


# --- prompts ---


def test_a_template_error_names_the_field_the_columns_and_every_line(tmp_path):
    with pytest.raises(DataError, match="train.jsonl line 1: expected the field 'body', which the prompt names; got "
                       "'text', 'label' .in all, bad rows on lines 1, 2.: mend them, or data.prompt"):  # fmt: skip
        load_task(own(tmp_path, items("a", "b"), prompt="{body}:"), seed=0)
    rows = [{"text": "x", "more": "", "label": "a"}, {"text": " ", "more": "", "label": "b"}]
    with pytest.raises(DataError, match="line 2: expected text in a field of the prompt; got none in 'text', 'more'"):
        load_task(own(tmp_path, rows, prompt="{text}{more}:"), seed=0)


# --- choices ---

PROMPT = "{text}\n{choices}\nAnswer:"


def test_choices_are_lettered_and_items_may_have_different_numbers_of_them(tmp_path):
    rows = [
        {"text": "q1", "choices": ["x", "y", "z"], "label": "C"},
        {"text": "q2", "choices": ["x", "y"], "label": 0},
        {"text": "q3", "choices": {"text": ["p", "q", "r", "s"], "label": ["1", "2", "3", "4"]}, "label": 4},
    ]
    data = load_task(own(tmp_path, rows, rows[:1], prompt=PROMPT, choices_field="choices"), seed=0)
    assert data.labels == (" A", " B", " C", " D")
    assert [example.prompt for example in data.train] == [
        "q1\nA) x\nB) y\nC) z\nAnswer:",
        "q2\nA) x\nB) y\nAnswer:",
        "q3\nA) p\nB) q\nC) r\nD) s\nAnswer:",
    ]
    assert [example.label for example in data.train] == [2, 0, 3]
    assert data.notes[0] == f"labels: A, B, C, D (letters for the choices in {tmp_path}/train.jsonl)"


def test_choices_may_have_a_field_each(tmp_path):
    rows = [
        {"q": "q1", "a": "x", "b": "y", "c": 5, "label": "c"},
        {"q": "q2", "a": "x", "b": "y", "c": "", "label": "B"},
    ]
    config = own(tmp_path, rows, prompt="{q}\n{choices}\n", choices_field=["a", "b", "c"])
    data = load_task(config, seed=0)
    assert data.labels == ("A", "B", "C")
    assert [(example.prompt, example.label) for example in data.train] == [
        ("q1\nA) x\nB) y\nC) 5\n", 2),
        ("q2\nA) x\nB) y\n", 1),
    ]
    (new,) = examples_for(config, [Row(1, {"q": "q3", "a": "x", "b": "y", "c": None})], with_labels=False, source="new")
    assert (new.prompt, new.label) == ("q3\nA) x\nB) y\n", None)


def test_choices_may_be_numbers(tmp_path):
    rows = [
        {"text": "2 + 2", "choices": [3, 4.5, "4"], "label": 2},
        {"text": "1 + 1", "choices": {"text": [2, 3], "label": ["x", "y"]}, "label": "x"},
    ]
    data = load_task(own(tmp_path, rows, prompt=PROMPT, choices_field="choices"), seed=0)
    assert data.train[0].prompt == "2 + 2\nA) 3\nB) 4.5\nC) 4\nAnswer:"
    assert [example.label for example in data.train] == [2, 0]


def test_more_choices_than_answer_words_are_refused(tmp_path):
    two, three = ({"text": "q", "choices": list("xyz")[:count], "label": 0} for count in (2, 3))
    config = own(tmp_path, [two, two], [two, three], prompt=PROMPT, choices_field="choices")
    with pytest.raises(DataError, match="test.jsonl: .* on line 2 .line 2: 3 choices, where there are 2 answer words"):
        load_task(config, seed=0)
    given = own(tmp_path, [two], [two, three], prompt=PROMPT, choices_field="choices", labels=[" A", " B", " C"])
    assert len(load_task(given, seed=0).test) == 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"prompt": "{text}"}, "data.prompt: expected {choices}, which shows the choices of .*; got 'text'"),
        ({"labels": [" yes", " no"]}, "data.labels: expected the letters of the choices, A, B; got ' yes', ' no'"),
        ({"label_field": "gold"}, "expected a label in the field 'gold' of every row; got none on line 1: add it"),
        ({"choices_field": ["choices", "y"]}, "line 1: no text in the field 'choices'"),
        ({"choices_field": ["text", "y"]}, "line 1: a field 'choices' beside the choices, which the prompt shows"),
    ],
)
def test_settings_that_do_not_fit_choices_are_refused(tmp_path, settings, message):
    rows = [{"text": "q", "choices": ["x", "y"], "label": "A"}]
    with pytest.raises((ConfigError, DataError), match=message):
        load_task(own(tmp_path, rows, **{"prompt": PROMPT, "choices_field": "choices", **settings}), seed=0)


# --- groups ---


def grouped_rows(seed: int) -> list[dict]:
    """30 items of some 9 groups, each item's text its number."""
    rng = random.Random(seed)
    return [{"text": str(i), "label": i % 2, "who": rng.randrange(9)} for i in range(30)]


@pytest.mark.parametrize("seed", range(8))
def test_no_group_is_trained_on_and_held_out(tmp_path, seed):
    rows = grouped_rows(seed)
    for num_train, num_validation in itertools.product((None, 12), (1, 6, 9)):
        config = own(tmp_path, rows, group_field="who", num_train=num_train, num_validation=num_validation)
        data = load_task(config, seed)
        parts = [[rows[int(example.prompt[:-1])] for example in part] for part in (data.train, data.validation)]
        assert not {row["who"] for row in parts[0]} & {row["who"] for row in parts[1]}
        assert len(parts[1]) == num_validation and len(parts[0]) == (num_train or len(parts[0]))
        left = 30 - len(parts[0]) - len(parts[1])
        told = [note for note in data.notes if "belong together" in note]
        if num_train is None and left:
            assert told == [f"train: {left} items left out: they belong together with validation items"]
        else:
            assert not told
    other = load_task(own(tmp_path, rows, group_field="who", num_validation=9), seed + 1)
    assert [e.id for e in other.validation] != [e.id for e in load_task(config, seed).validation]


def test_groups_alone_change_nothing_and_each_row_needs_one(tmp_path):
    rows = grouped_rows(0)
    plain, with_groups = (load_task(own(tmp_path, rows, group_field=name), 0) for name in (None, "who"))
    assert plain.train == [dataclasses.replace(example, group=None) for example in with_groups.train]
    assert [example.group for example in with_groups.train] == [str(row["who"]) for row in rows]
    rows[3]["who"] = ""
    del rows[7]["who"]
    for settings in ({}, {"num_validation": 3}):
        with pytest.raises(DataError, match="expected a group in the field 'who' of every row; got none on lines 4, 8"):
            load_task(own(tmp_path, rows, group_field="who", **settings), 0)


@pytest.mark.parametrize("seed", range(6))
def test_test_items_of_groups_that_training_has_are_counted(tmp_path, seed):
    """As a loop counts them; they stay, and nothing is said where no group is shared, or none is given."""
    rng = random.Random(seed)
    rows = grouped_rows(seed)
    test = [{"text": f"t{i}", "label": i % 2, "who": rng.choice([*range(6, 20), "", None])} for i in range(25)]
    del test[-1]["who"]
    settings = {"num_validation": 5, "num_test": 24 if seed % 2 else None}
    data = load_task(own(tmp_path, rows, test, group_field="who", **settings), seed)
    tested = test[: settings["num_test"]]
    expected = []
    for name, part in (("training", data.train), ("validation", data.validation)):
        known = [str(rows[int(example.prompt[:-1])]["who"]) for example in part]
        if count := sum(str(row.get("who")) in known for row in tested):
            expected.append(f"test: {count} of {len(tested)} items share their 'who' with items of {name}")
    missing = sum(row.get("who") in ("", None) for row in tested)
    if missing:
        expected.append(
            f"test: {missing} of {len(tested)} items lack their 'who', so that it cannot be compared with training's"
        )
    assert [note for note in data.notes if "'who'" in note] == expected != []
    assert [example.prompt for example in data.test] == [f"{row['text']}:" for row in tested]
    plain = load_task(own(tmp_path, rows, test, **settings), seed)
    apart = load_task(own(tmp_path, rows, [row | {"who": "new"} for row in test], group_field="who", **settings), seed)
    assert not [note for note in (*plain.notes, *apart.notes) if "'who'" in note]


# --- what is odd about the items ---


@pytest.mark.parametrize("seed", range(10))
def test_overlaps_and_contradictions_are_those_that_loops_count(tmp_path, seed):
    rng = random.Random(seed)
    train, test = ([{"text": str(rng.randrange(n)), "label": rng.choice("ab")} for _ in range(20)] for n in (12, 24))
    data = load_task(own(tmp_path, train, test, labels=["a", "b"], num_validation=6), seed)
    expected = []
    for name, part, other, seen in (
        ("validation", data.validation, "training", data.train),
        ("test", data.test, "training", data.train),
        ("test", data.test, "validation", data.validation),
    ):
        count = 0
        for example in part:
            count += any(example.prompt == known.prompt for known in seen)
        if count:
            expected.append(f"{name}: {count} of {len(part)} prompts also occur in {other}")
    count = 0
    for example in data.train:
        count += any(example.prompt == other.prompt and example.label != other.label for other in data.train)
    if count:
        expected.append(f"train: {count} items share their prompt with an item of another label")
    assert [note for note in data.notes if "occur" in note or "share" in note] == expected


# --- data sets ---


@pytest.fixture
def dataset(tmp_path, monkeypatch) -> str:
    """A data set as a local folder with two splits, its label a number with a name."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    label = datasets.ClassLabel(names=["negative", "positive"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label, "day": datasets.Value("date32")})
    folder = tmp_path / "reviews"
    folder.mkdir()
    for split, labels in (("train", [1, 0, 1]), ("test", [0, 1])):
        rows = {"text": [f"{split} {i}" for i in range(len(labels))], "label": labels, "day": [None] * len(labels)}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(folder / f"{split}.parquet")
    return str(folder)


def test_a_data_set_is_read_by_its_splits_with_the_names_of_its_labels(dataset):
    data = load_task(DataConfig(dataset=dataset, test_split="test", prompt="{text}:"), seed=0)
    assert data.labels == (" negative", " positive")
    assert [(e.prompt, e.label, e.id) for e in data.train] == [
        ("train 0:", 1, "line 1"), ("train 1:", 0, "line 2"), ("train 2:", 1, "line 3"),
    ]  # fmt: skip
    assert [example.label for example in data.test] == [0, 1]
    assert data.notes[0] == f"labels: negative, positive (the values of 'label' in {dataset} train)"
    other = load_task(DataConfig(dataset=dataset, train_split="train[:2]", prompt="{text}:"), seed=0)
    assert len(other.train) == 2 and other.test == []


def test_a_split_that_is_not_there_is_one_line(dataset):
    with pytest.raises(
        DataError, match=r"data.dataset: expected the split 'dev' of .*reviews; it cannot be read .*dev"
    ):
        load_task(DataConfig(dataset=dataset, train_split="dev", prompt="{text}:"), seed=0)


def test_a_hub_that_cannot_be_asked_is_one_line_with_a_way_out(tmp_path, monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    with pytest.raises(DataError) as told:
        load_task(DataConfig(dataset="nobody/reviews", dataset_config="small", prompt="{text}:"), seed=0)
    text = str(told.value)
    assert text.startswith(
        "data.dataset: expected the split 'train' of nobody/reviews (small); the hub cannot be asked"
    )
    assert text.endswith("name the data set's local folder, or save it as a file (to_json, to_csv, to_parquet) for "
                         "data.train_file") and "\n" not in text  # fmt: skip
