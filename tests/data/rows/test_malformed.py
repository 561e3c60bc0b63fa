"""Files that are not right: each is refused in one line, before a model is loaded, and the bad lines are named."""

from __future__ import annotations

import re

import pytest
from malformed import BAD_CHOICES, BAD_COMPLETIONS, BAD_CSV, BAD_JSON, LABELS, PROMPT, Bad, malformed, whole_files

from blob_pyro.cli import main
from blob_pyro.config.sections import DataConfig
from blob_pyro.data import load_task
from blob_pyro.errors import BlobPyroError

FILES = malformed(230, seed=0)


def config(path, bad: Bad, **settings) -> DataConfig:
    return DataConfig(**{"train_file": str(path), "prompt": PROMPT, "labels": LABELS, **bad.settings, **settings})


def options(path, bad: Bad) -> list[str]:
    """The command line of a run whose model is not there: whoever gets to the model says so."""
    settings = {"train_file": str(path), "prompt": PROMPT, "labels": LABELS, **bad.settings}
    words = [
        word for name, value in settings.items() for word in (f"--data.{name}", "null" if value is None else str(value))
    ]
    if "completion" in settings:
        words += ["--model.likelihood", "causal_lm"]
    return ["fit", *words, "--model.id", "./no/such/model", "--output", str(path.parent / "run"), "--quiet"]


def test_there_are_two_hundred_and_more_of_every_kind():
    assert len(FILES) == 230
    kinds = {(bad.kind, bad.name.split(".")[1]) for bad in FILES}
    assert {(kind, "jsonl") for kind in (*BAD_JSON, *BAD_CHOICES)} <= kinds
    assert {(kind, ending) for kind in BAD_CSV for ending in ("csv", "tsv")} <= kinds
    completions = {(kind, ending) for kind, ending in kinds if kind in BAD_COMPLETIONS}
    assert {kind for kind, _ in completions} == set(BAD_COMPLETIONS)
    assert {ending for _, ending in completions} == {"jsonl", "csv", "tsv"}
    assert sum(bad.name.endswith(".gz") for bad in FILES) > 20


@pytest.mark.slow
@pytest.mark.parametrize("bad", FILES, ids=[f"{place} {bad.kind}, {bad.name}" for place, bad in enumerate(FILES)])
def test_a_malformed_file_is_one_line_and_no_model_is_loaded(tmp_path, capfd, bad):
    load_task(config(bad.write_sound(tmp_path), bad), seed=0)
    path = bad.write(tmp_path)
    with pytest.raises(BlobPyroError) as told:
        load_task(config(path, bad), seed=0)
    capfd.readouterr()
    assert main(options(path, bad)) == 2
    out, err = capfd.readouterr()
    assert err == f"blob-pyro: error: {' '.join(str(told.value).split())}\n" and out == ""
    assert str(path) in err and "Traceback" not in err and len(err) < 700
    assert not (tmp_path / "run").exists()
    named = {
        int(number) for words in re.findall(r"lines? ((?:\d+(?:, )?)+)", err) for number in re.findall(r"\d+", words)
    }
    assert set(bad.lines) <= named, err


@pytest.mark.parametrize(
    "name", ["none.jsonl", "none.csv", "none.parquet", "none.tsv.gz", "x.txt", "x.psv.gz", "x.xlsx"]
)
def test_a_missing_file_and_an_unknown_ending_are_one_line(tmp_path, name):
    if name.startswith("x"):
        (tmp_path / name).write_text("text,label\ntea,good\n")
    with pytest.raises(BlobPyroError, match=rf"{name}: expected a (\S+ file; there is none|name that ends in)"):
        load_task(DataConfig(train_file=str(tmp_path / name), prompt=PROMPT, labels=LABELS), seed=0)


def test_a_test_file_is_read_as_strictly(tmp_path):
    import random

    for bad in whole_files(random.Random(5)):
        if bad.settings:
            continue
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        folder.mkdir()
        sound, path = bad.write_sound(folder), bad.write(folder)
        with pytest.raises(BlobPyroError) as told:
            load_task(config(sound, bad, test_file=str(path)), seed=0)
        assert str(path) in str(told.value)
