"""Files of your own as people have them: several, with gaps, nested, named by ids, saved by `datasets`."""

from __future__ import annotations

import json
import os
import re
import shutil
from decimal import Decimal
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from blob_pyro.config.sections import DataConfig
from blob_pyro.data import Row, examples_for, load_task
from blob_pyro.data.rows.fields import field_of
from blob_pyro.data.tasks.own_files import with_labels
from blob_pyro.data.tasks.own_rows import read_items
from blob_pyro.errors import ConfigError, DataError


def write(path: Path, rows: list[dict]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def own(folder: Path, rows: list[dict], **settings) -> DataConfig:
    return DataConfig(**{"train_file": write(folder / "train.jsonl", rows), "prompt": "{text}:", **settings})


def items(*labels: object) -> list[dict]:
    return [{"text": f"item {number}", "label": label} for number, label in enumerate(labels)]


def seen(data) -> list[tuple]:
    return [(example.prompt, data.labels[example.label]) for example in data.train]


# --- the same frame in every format ---


def written(frame: pd.DataFrame, folder: Path) -> list[str]:
    """The frame as pandas writes it."""
    frame.to_csv(folder / "a.csv", index=False)
    frame.to_csv(folder / "a.tsv", index=False, sep="\t")
    frame.to_json(folder / "a.jsonl", orient="records", lines=True, date_format="iso")
    frame.to_json(folder / "a.json", orient="records", date_format="iso", indent=2)
    frame.to_parquet(folder / "a.parquet")
    datasets.Dataset.from_pandas(frame, preserve_index=False).save_to_disk(folder / "saved")
    return [str(folder / name) for name in ("a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet", "saved")]


LABELS = {
    "floats": ([0.0, 1.0, 1.0], ["0", "1", "1"]),
    "negative floats": ([-1.0, 1.0, -1.0], ["-1", "1", "-1"]),
    "large floats": ([1e20, 3.0, 2.0**53], ["1" + 20 * "0", "3", str(2**53)]),
    "truth": ([True, False, True], ["True", "False", "True"]),
    "large whole numbers": ([2**62, 2**62 + 1, 7], [str(2**62), str(2**62 + 1), "7"]),
    "days": (list(pd.to_datetime(["2024-02-29", "2024-03-01", "2024-02-29"])), ["2024-02-29", "2024-03-01"] * 2),
    "moments": (
        list(pd.to_datetime(["2024-02-29 12:30", "2024-03-01", "2024-03-02 00:00:01"], format="mixed")),
        ["2024-02-29T12:30:00", "2024-03-01", "2024-03-02T00:00:01"],
    ),
    "words of numbers": (["1.10", "1.1.0", "1e3"], ["1.10", "1.1.0", "1e3"]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_the_labels_of_a_frame_are_the_same_in_every_format(tmp_path, kind):
    values, words = LABELS[kind]
    files = written(pd.DataFrame({"text": ["a", "b", "c"], "label": values}), tmp_path)
    for file in files:
        data = load_task(DataConfig(train_file=file, prompt="{text}:"), seed=0)
        assert [label for _, label in seen(data)] == [" " + word for word in words[:3]], file
        given = DataConfig(train_file=file, prompt="{text}:", labels=[f" {word}" for word in sorted(set(words[:3]))])
        assert seen(load_task(given, seed=0)) == seen(data)


def test_a_gap_makes_no_other_labels(tmp_path):
    """pandas then has floats; with `skip_empty` the row without a label is left out in every format."""
    frame = pd.DataFrame({"text": list("abc"), "label": [1, None, 0]})
    for file in written(frame, tmp_path):
        with pytest.raises(
            DataError, match="expected a label in the field 'label' of every row; got none on line [23]"
        ):
            load_task(DataConfig(train_file=file, prompt="{text}:"), seed=0)
        data = load_task(DataConfig(train_file=file, prompt="{text}:", skip_empty=True), seed=0)
        assert seen(data) == [("a:", " 1"), ("c:", " 0")]


@pytest.mark.parametrize("values", [[0.5, 1.5, 0.5], [1.0, 2.5, 2.0], [1e-05, 1.0, 1.0]])
def test_numbers_with_a_fraction_are_refused_in_every_format_and_taken_where_they_are_named(tmp_path, values):
    bad = sum(not value.is_integer() for value in values)
    for file in written(pd.DataFrame({"text": list("abc"), "label": values}), tmp_path):
        with pytest.raises(
            DataError, match=f"got something else on line{'s' * (bad > 1)} .*a float, a number with a f"
        ):
            load_task(DataConfig(train_file=file, prompt="{text}:"), seed=0)
        named = [f" {value}" for value in sorted(set(values))]
        data = load_task(DataConfig(train_file=file, prompt="{text}:", labels=named), seed=0)
        assert [label for _, label in seen(data)] == [f" {value}" for value in values]


def test_numbers_written_with_more_digits_are_the_same_labels_in_every_format(tmp_path):
    """As `to_csv(float_format="%.2f")` and decimal columns have them."""
    frame = pd.DataFrame({"text": list("abc"), "label": [1.0, 0.0, -20.0]})
    frame.to_csv(tmp_path / "a.csv", index=False, float_format="%.2f")
    frame.to_json(tmp_path / "a.jsonl", orient="records", lines=True)
    frame.assign(label=[Decimal("1.00"), Decimal("0.00"), Decimal("-20.00")]).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "b.csv").write_text("text,label\na,1.\nb,-0.000\nc,-20.0\n")
    for name in ("a.csv", "a.jsonl", "a.parquet", "b.csv"):
        data = load_task(DataConfig(train_file=str(tmp_path / name), prompt="{text}:"), seed=0)
        assert seen(data) == [("a:", " 1"), ("b:", " 0"), ("c:", " -20")], name


def test_a_number_is_the_label_that_is_the_same_number(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,0.50\nb,.5\nc,1.500\nd,15e-1\n")
    (tmp_path / "a.jsonl").write_text("".join(f'{{"text": "{t}", "label": {x}}}\n' for t, x in
                                              zip("abcd", ("0.50", "5e-1", "1.500", "1.5"), strict=True)))  # fmt: skip
    for labels in ([" 0.5", " 1.5"], [" 0.50", " 1.50"], [" .5", " +1.5"]):
        for name in ("a.csv", "a.jsonl"):
            data = load_task(DataConfig(train_file=str(tmp_path / name), prompt="{text}:", labels=labels), seed=0)
            assert [example.label for example in data.train] == [0, 0, 1, 1], (labels, name)
    both = DataConfig(train_file=str(tmp_path / "a.jsonl"), prompt="{text}:", labels=[" 0.50", " .5", " 1.5"])
    with pytest.raises(DataError, match="expected in the field 'label' one of .*; got something else on lines 1, 2"):
        load_task(both, seed=0)


def test_labels_that_are_one_number_are_told_and_stay_names(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\na,01\nb,1\nc,+1\nd,1e0\ne,1.10\nf,1.1.0\ng,1_0\nh,10\n")
    data = load_task(DataConfig(train_file=str(tmp_path / "a.csv"), prompt="{text}:"), seed=0)
    assert [label.strip() for _, label in seen(data)] == ["01", "1", "+1", "1e0", "1.10", "1.1.0", "1_0", "10"]
    told = [note for note in data.notes if "number" in note]
    assert told == ["labels: '+1', '01', '1', '1e0' are one number, and are classes of their own"]


def test_numbers_of_few_bits_are_those_that_a_person_would_write(tmp_path):
    """0.1 in 32 bits was 0.10000000149011612 in a prompt."""
    half, single = np.float16, np.float32
    frame = pd.DataFrame({"a": np.array([0.1, 2.5, 1e30], single), "b": [0.1, 1e-7, 1e22], "label": ["x", "y", "x"]})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_parquet(tmp_path / "a.parquet")
    datasets.Dataset.from_pandas(frame).save_to_disk(tmp_path / "saved")
    expected = ["0.1 0.1:", "2.5 1e-07:", "1e+30 1e+22:"]
    for name in ("a.csv", "a.parquet", "saved"):
        data = load_task(DataConfig(train_file=str(tmp_path / name), prompt="{a} {b}:"), seed=0)
        assert [example.prompt for example in data.train] == expected, name
    inside = pa.array([{"x": 0.1, "y": 0.1}, {"x": None, "y": 2.0}], pa.struct({"x": pa.float32(), "y": pa.float64()}))
    table = pa.table({"m": inside, "h": pa.array([half(0.1), half(3)]), "label": ["x", "y"]})
    pq.write_table(table, tmp_path / "m.parquet")
    with pytest.warns(UserWarning, match="null in the field 'm.x' of 1 rows"):
        data = load_task(DataConfig(train_file=str(tmp_path / "m.parquet"), prompt="{m.x} {m.y} {h}:"), seed=0)
    assert [example.prompt for example in data.train] == ["0.1 0.1 0.1:", " 2.0 3.0:"]


def test_true_is_the_label_true_where_that_is_one(tmp_path):
    data = load_task(own(tmp_path, items(True, False, "true"), labels=[" true", " false"]), seed=0)
    assert [example.label for example in data.train] == [0, 1, 0]


# --- several files, saved data sets ---


def test_several_files_are_one_set_and_name_their_items(tmp_path):
    one = write(tmp_path / "a1.jsonl", items("good", "bad"))
    (tmp_path / "a2.csv").write_text("text,label\nitem 7,good\n")
    two = str(tmp_path / "a2.csv")
    data = load_task(DataConfig(train_file=[one, two], test_file=[two], prompt="{text}:"), seed=0)
    assert [(e.prompt, e.label, e.id) for e in data.train] == [
        ("item 0:", 1, f"{one} line 1"),
        ("item 1:", 0, f"{one} line 2"),
        ("item 7:", 1, f"{two} line 2"),
    ]
    assert [e.id for e in data.test] == ["line 2"]
    assert f"train: 2 files ({one} 2, {two} 1)" in data.notes
    pattern = load_task(DataConfig(train_file=str(tmp_path / "a*"), prompt="{text}:"), seed=0)
    assert pattern.train == data.train and pattern.labels == data.labels
    held = load_task(DataConfig(train_file=[one, two], prompt="{text}:", num_validation=1), seed=3)
    assert sorted(e.id for e in held.train + held.validation) == sorted(e.id for e in data.train)
    (tmp_path / "a[1].csv").write_text("text,label\nx,good\ny,bad\n")  # a name, and no pattern
    assert len(load_task(DataConfig(train_file=str(tmp_path / "a[1].csv"), prompt="{text}:"), seed=0).train) == 2


def test_a_bad_row_of_several_files_is_named_with_its_file(tmp_path):
    one, two = write(tmp_path / "a.jsonl", items("good", "bad")), write(tmp_path / "b.jsonl", items("good", None))
    with pytest.raises(DataError, match="b.jsonl: expected a label in the field 'label' of every row; got none on lin"):
        load_task(DataConfig(train_file=[one, two], prompt="{text}:"), seed=0)
    with pytest.raises(DataError, match=r"data.train_file: expected files that fit '.*/x\*.csv'; there is none"):
        load_task(DataConfig(train_file=[one, str(tmp_path / "x*.csv")], prompt="{text}:"), seed=0)
    with pytest.raises(DataError, match=r"data.train_file: expected each file once; got .*a.jsonl twice"):
        load_task(DataConfig(train_file=[one, str(tmp_path / "a*.jsonl")], prompt="{text}:"), seed=0)
    for value in ([], [""], ""):
        with pytest.raises(ConfigError, match="data.train_file: expected a file, or several"):
            DataConfig(train_file=value, prompt="{text}:")


def test_one_file_under_two_names_is_one(tmp_path, monkeypatch):
    """By another spelling of its path, a link or a hard link; each item was trained on twice."""
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "a.jsonl", items("good", "bad"))
    (tmp_path / "soft.jsonl").symlink_to("a.jsonl")
    os.link(tmp_path / "a.jsonl", tmp_path / "hard.jsonl")
    (tmp_path / "folder").mkdir()
    for other in ("./a.jsonl", "folder/../a.jsonl", str(tmp_path / "a.jsonl"), "soft.jsonl", "hard.jsonl", "s*.jsonl"):
        told = f"expected each file once; got a.jsonl and {other.replace('*', 'oft')}, which are one file: leave one"
        with pytest.raises(DataError, match=f"data.train_file: {re.escape(told)}"):
            load_task(DataConfig(train_file=["a.jsonl", other], prompt="{text}:"), seed=0)
        with pytest.raises(DataError, match="data.test_file: expected each file once"):
            load_task(DataConfig(train_file="a.jsonl", test_file=["a.jsonl", other], prompt="{text}:"), seed=0)
    shutil.copy("a.jsonl", "copy.jsonl")  # the same items, and another file
    assert len(load_task(DataConfig(train_file=["a.jsonl", "copy.jsonl"], prompt="{text}:"), seed=0).train) == 4


HALF = "\udcff"  # what Python makes of a byte of a command line that is no UTF-8


@pytest.mark.parametrize(
    ("settings", "setting"),
    [
        ({"prompt": HALF + "{text}"}, "data.prompt"),
        ({"prompt": "{text}", "completion": HALF + "{text}"}, "data.completion"),
        ({"labels": ["good", "bad" + HALF]}, "data.labels, data.answers"),
        ({"answers": {"good": " g" + HALF, "bad": " b"}}, "data.labels, data.answers"),
        ({"answers": {"good" + HALF: " g", "bad": " b"}}, "data.labels, data.answers"),
    ],
)
def test_words_that_are_no_text_are_refused(tmp_path, settings, setting):
    with pytest.raises(ConfigError, match=rf"^{setting}: expected text in UTF-8; got .*udcff"):
        load_task(own(tmp_path, items("good", "bad"), **settings), seed=0)


def test_ids_are_text_also_those_of_a_file_whose_name_is_none(tmp_path):
    rows = [row | {"id": name} for row, name in zip(items("good", "bad"), ("\ud800", "b"), strict=True)]
    with pytest.raises(DataError, match="expected text in the field 'id'; got half of a surrogate pair on line 1"):
        load_task(own(tmp_path, rows, id_field="id"), seed=0)
    files = [write(tmp_path / name, items("good", "bad")) for name in ("a.jsonl", HALF + ".jsonl")]
    data = load_task(DataConfig(train_file=files, prompt="{text}:"), seed=0)
    assert data.train[2].id == f"{tmp_path}/\\udcff.jsonl line 1"


def test_a_saved_data_set_is_a_file_and_a_data_set(tmp_path):
    label = datasets.ClassLabel(names=["bad", "good"])
    features = datasets.Features({"text": datasets.Value("string"), "label": label})
    saved = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [1, 0]}, features=features)
    saved.with_format("numpy").save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": saved, "test": saved.select([0])}).save_to_disk(tmp_path / "both")
    expected = [("x:", " good"), ("y:", " bad")]
    one, both = str(tmp_path / "one"), str(tmp_path / "both")
    for source in ({"train_file": one}, {"dataset": one}, {"dataset": both}, {"train_file": f"{both}/train"}):
        assert seen(load_task(DataConfig(**source, prompt="{text}:"), seed=0)) == expected
    assert len(load_task(DataConfig(dataset=both, test_split="test", prompt="{text}:"), seed=0).test) == 1
    with pytest.raises(DataError, match="expected a saved data set of one split; got one of 'test', 'train': name"):
        load_task(DataConfig(train_file=both, prompt="{text}:"), seed=0)
    datasets.Dataset.from_dict({"text": ["x" * 10**6] * 2, "label": ["a", "b"]}).save_to_disk(tmp_path / "large")
    for source in ({"train_file": str(tmp_path / "large")}, {"dataset": str(tmp_path / "large")}):
        with pytest.raises(DataError, match="large: expected a data set of at most 1 MB; got 2 MB: set data.max_meg"):
            load_task(DataConfig(**source, prompt="{text}:", max_megabytes=1), seed=0)
        assert len(load_task(DataConfig(**source, prompt="{label}:", max_megabytes=3), seed=0).train) == 2
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"x")
    with pytest.raises(DataError, match=r"one: expected a data set as save_to_disk writes it; it cannot be read \("):
        load_task(DataConfig(train_file=one, prompt="{text}:"), seed=0)


# --- gaps ---


def test_null_beside_a_text_is_empty_as_in_csv_and_said(tmp_path):
    rows = [{"title": None, "text": "a", "label": "x"}, {"title": "T", "text": "b", "label": "y"}]
    config = own(tmp_path, rows, prompt="{title} {text}:")
    with pytest.warns(UserWarning, match="train.jsonl: null in the field 'title' of 1 rows is read as empty text"):
        assert [e.prompt for e in load_task(config, seed=0).train] == [" a:", "T b:"]
    (tmp_path / "a.csv").write_text("title,text,label\n,a,x\nT,b,y\n")
    data = load_task(DataConfig(train_file=str(tmp_path / "a.csv"), prompt="{title} {text}:"), seed=0)
    assert [e.prompt for e in data.train] == [" a:", "T b:"]
    with pytest.raises(
        DataError, match="line 1: expected text, a number, true or false in the field 'title'; got null"
    ):
        rows = [{"title": None, "text": " ", "label": "x"}]
        load_task(own(tmp_path, rows, prompt="{title}{text}", labels=["x", "y"]), seed=0)


def test_empty_rows_are_left_out_where_that_is_asked_for_and_counted(tmp_path):
    rows = items("good", None, "bad", "", "good", "bad")
    rows[4]["text"], rows[5]["text"] = None, "  "
    with pytest.raises(DataError):
        load_task(own(tmp_path, rows), seed=0)
    config = own(tmp_path, rows, skip_empty=True)
    data = load_task(config, seed=0)
    assert seen(data) == [("item 0:", " good"), ("item 2:", " bad")]
    told = "4 of 6 rows left out: 2 without a label (lines 2, 4), 2 without text in the prompt (lines 5, 6)"
    assert f"{config.train_file}: {told} (data.skip_empty)" in data.notes
    with pytest.raises(DataError, match="2 of 2 rows left out: .*: expected at least one that is not empty"):
        load_task(own(tmp_path, items(None, ""), skip_empty=True), seed=0)
    with pytest.raises(DataError, match="expected the field 'body', which the prompt names"):
        load_task(own(tmp_path, items("a", "b"), prompt="{body}", skip_empty=True), seed=0)
    texts = own(tmp_path, [{"q": "a", "a": ""}, {"q": "b", "a": 4}], prompt="{q}", completion=" {a}", skip_empty=True)
    assert [(e.prompt, e.completion) for e in load_task(texts, seed=0).train] == [("b", " 4")]


# --- nested fields ---


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_nested_fields_are_named_by_their_path(tmp_path, ending):
    rows = [
        {"meta": {"title": f"t{i}", "by": [{"name": f"n{i}"}], "gold": "ab"[i % 2], "user": {"id": i // 2}}, "a.b": i}
        for i in range(6)
    ]
    frame = pd.DataFrame(rows)
    path = tmp_path / f"x.{ending}"
    if ending == "csv":
        frame.assign(meta=frame["meta"].map(json.dumps)).to_csv(path, index=False)
    elif ending == "parquet":
        frame.to_parquet(path)
    else:
        write(path, rows)
    config = DataConfig(
        train_file=str(path),
        prompt="{meta.title} {meta.by.0.name} {a.b}:",
        label_field="meta.gold",
        group_field="meta.user.id",
        id_field="meta.title",
        truncate_field="meta.title",
        num_validation=2,
    )
    data = load_task(config, seed=0)
    every = sorted(data.train + data.validation, key=lambda example: example.id)
    assert [(e.prompt, e.label, e.group, e.id) for e in every] == [
        (f"t{i} n{i} {i}:", i % 2, str(i // 2), f"t{i}") for i in range(6)
    ]
    assert every[0].passage == (0, 2) and not {e.group for e in data.train} & {e.group for e in data.validation}
    (new,) = examples_for(config, [Row(1, rows[0])], with_labels=False, source="new")
    assert (new.prompt, new.id) == ("t0 n0 0:", "t0")


def test_rows_to_answer_stay_as_they_are(tmp_path):
    rows = [{"m": {"t": "a", "gold": "x"}}, {"m": {"t": None, "gold": "y"}}, {"m": {"t": "c", "gold": ""}}]
    config = own(tmp_path, rows, prompt="{m.t}", label_field="m.gold", skip_empty=True)
    found = read_items(config, config.train_file, with_labels=False)
    assert [row.fields for row in found.rows] == [rows[0], rows[2]] and found.left_out.count("line 2") == 1
    assert [row.line for row in read_items(config, config.train_file).rows] == [1]


@pytest.mark.parametrize("path", ["meta.none", "meta.by.3", "meta.title.x", "other.x", "meta.by.x"])
def test_a_path_that_leads_nowhere_is_refused(tmp_path, path):
    row = {"meta": {"title": "t", "by": ["n"]}, "label": "a"}
    with pytest.raises(KeyError):
        field_of(row, path)
    with pytest.raises(DataError, match=f"line 1: expected the field '{path}', which the prompt names; got 'meta', 'l"):
        load_task(own(tmp_path, [row], prompt=f"{{{path}}}", labels=["a", "b"]), seed=0)


def test_items_inside_one_object_and_chats_are_one_line_that_says_what_to_do(tmp_path):
    cure = r"items that lie in 'data'\? take them out, with jq -c '.data\[\]', say"
    for settings in ({}, {"labels": ["a", "b"]}):
        with pytest.raises(DataError, match=cure):
            load_task(own(tmp_path, [{"version": "1", "data": items("a", "b")}], **settings), seed=0)
    chat = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}], "label": "a"}
    with pytest.raises(
        DataError, match=r"got a list of objects: name one text of them, like \{messages.0.content\}, o"
    ):
        load_task(own(tmp_path, [chat], prompt="{messages}", labels=["a", "b"]), seed=0)
    parts = {"prompt": "{messages.0.content}", "completion": " {messages.1.content}"}
    (item,) = load_task(own(tmp_path, [chat], **parts), seed=0).train
    assert (item.prompt, item.completion) == ("hi", " ho")


# --- ids ---


def test_items_are_named_by_their_ids(tmp_path):
    rows = [{**item, "key": key} for item, key in zip(items("a", "b", "a"), ["x7", 8, 2.5], strict=True)]
    data = load_task(own(tmp_path, rows, id_field="key"), seed=0)
    assert [example.id for example in data.train] == ["x7", "8", "2.5"]
    rows[1]["key"] = "x7"
    notes = load_task(own(tmp_path, rows, id_field="key"), seed=0).notes
    assert [note for note in notes if "share" in note] == ["2 items share their 'key' with another one"]
    others = write(tmp_path / "test.jsonl", [dict(row, key=key) for row, key in zip(rows, ("x7", 1, 1), strict=True)])
    notes = load_task(own(tmp_path, rows, id_field="key", test_file=others), seed=0).notes
    assert [note for note in notes if "'key'" in note] == ["4 items share their 'key' with another one"]  # of each set
    rows[1]["key"] = " "
    with pytest.raises(DataError, match="expected an id in the field 'key' of every row; got none on line 2 .line 2 h"):
        load_task(own(tmp_path, rows, id_field="key"), seed=0)
    config = own(tmp_path, [{**row, "key": place} for place, row in enumerate(rows)], id_field="key")
    new = [Row(4, {"text": "new"}), Row(5, {"text": "newer"})]
    assert [e.id for e in examples_for(config, new, with_labels=False, source="new")] == ["line 4", "line 5"]
    new[0].fields["key"] = "n"
    with pytest.raises(DataError, match="new: expected an id in the field 'key' of every row; got none on line 5"):
        examples_for(config, new, with_labels=False, source="new")
    texts = own(tmp_path, [{"q": "a", "a": "b", "key": 5}], prompt="{q}", completion="{a}", id_field="key")
    assert load_task(texts, seed=0).train[0].id == "5"


def test_two_files_that_each_count_from_0_share_no_ids(tmp_path):
    rows = [{**item, "key": place} for place, item in enumerate(items("a", "b", "a"))]
    test = write(tmp_path / "test.jsonl", rows)
    data = load_task(own(tmp_path, rows, id_field="key", test_file=test), seed=0)
    assert [example.id for example in data.test] == ["0", "1", "2"]
    assert not [note for note in data.notes if "'key'" in note]


# --- labels that cannot be meant ---


def test_labels_that_differ_in_nothing_that_shows_are_told(tmp_path):
    rows = items("Positive", "positive", "negative", "so so", "so\u00a0so", "caf\u00e9", "cafe\u0301", "negative\u200b")
    notes = load_task(own(tmp_path, rows), seed=0).notes
    alike = "differ in case, spaces or spelling of characters alone, and are classes of their own"
    told = [note for note in notes if alike in note]
    assert sorted(told) == sorted(
        f"labels: {first!r}, {second!r} {alike}"
        for first, second in (("Positive", "positive"), ("so so", "so\u00a0so"), ("cafe\u0301", "caf\u00e9"),
                              ("negative", "negative\u200b"))
    )  # fmt: skip
    given = own(tmp_path, items("Yes", "yes"), labels=[" Yes", " yes"])
    assert f"labels: 'Yes', 'yes' {alike}" in load_task(given, seed=0).notes
    assert not [note for note in load_task(own(tmp_path, items("a", "b")), seed=0).notes if alike in note]


def test_a_field_with_another_value_for_each_item_holds_no_labels(tmp_path):
    rows = [{"text": f"item {i}", "id": f"x{i}", "label": "ab"[i % 2]} for i in range(13)]
    message = (
        "expected labels that items share in the field 'id'; got another one for each of 13 items: set data.label_"
    )
    with pytest.raises(DataError, match=message):
        load_task(own(tmp_path, rows, label_field="id"), seed=0)
    with pytest.raises(DataError, match="got something else on line 2 .line 2: 1,001 characters"):
        load_task(own(tmp_path, items("a", "b" * 1001)), seed=0)
    assert len(load_task(own(tmp_path, rows[:12], label_field="id"), seed=0).labels) == 12
    rows[0]["id"] = "x1"
    notes = load_task(own(tmp_path, rows, label_field="id"), seed=0).notes
    assert any(note.startswith("labels: 11 of 12 classes have a single item (x10, x11, ") for note in notes)
    assert not [note for note in load_task(own(tmp_path, rows), seed=0).notes if "single item" in note]


# --- answers ---


def test_answers_name_the_classes_and_their_words(tmp_path):
    assert DataConfig(train_file="x", prompt="{t}", answers={True: " y", False: " n"}).answers == {
        "True": " y", "False": " n"}  # fmt: skip
    config, notes, rows = with_labels(own(tmp_path, items(1, 0, 1.0), answers={0: " zero", 1: " one"}))
    assert (config.labels, notes, rows) == (["0", "1"], (), None)
    assert config.answer_words(config.labels) == (" zero", " one")
    data = load_task(own(tmp_path, items(1, 0, 1.0), answers={0: " zero", 1: " one"}), seed=0)
    assert data.labels == ("0", "1") and [example.label for example in data.train] == [1, 0, 1]
    both = own(tmp_path, items(1, 0), labels=[" 1", " 0"], answers={"0": " zero", "1": " one"})
    assert both.answer_words(both.labels) == (" one", " zero")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"answers": {"a": "x"}}, "data.answers: expected an answer word for each of two labels or more"),
        ({"answers": {"a": "x", "b": "x"}}, "data.answers: expected words that differ"),
        ({"answers": {"a": "x", "b": ""}}, "data.answers: expected words that differ"),
        ({"answers": {"a": "x", "b": "y"}, "labels": [" a", " c"]}, r"a word for each label, \['a', 'c'\]"),
        ({"answers": {"a": "x", "b": "y"}, "choices_field": "c"}, "data.answers: expected none beside data.choices_f"),
        ({"answers": {"a": "x", "b": "y"}, "completion": "{c}"}, "data.answers: expected none beside data.completion"),
        ({"encoding": "ebcdic9"}, "data.encoding: expected utf-8, utf-16, cp1252, latin-1 or another encoding that P"),
        ({"encoding": "base64"}, "data.encoding: expected utf-8"),
        ({"task": "tweets", "train_file": None, "prompt": None, "skip_empty": True}, "data.skip_empty: expected false"),
        ({"max_megabytes": 0}, "data.max_megabytes: expected a whole number from 1 to 1000000; got 0"),
    ],
)
def test_settings_that_cannot_work_are_one_line(settings, message):
    with pytest.raises(ConfigError, match=message) as told:
        DataConfig(**{"train_file": "a.csv", "prompt": "{text}{c}:", **settings})
    assert "\n" not in str(told.value)
