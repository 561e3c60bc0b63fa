"""What commands write: whole or not at all, never over a run or an input, in the format that the name says."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import threading

import pytest
import tiny
import yaml

from blob_pyro.cli import main
from blob_pyro.storage.directory import PARTS
from blob_pyro.system.machine import version_of


def digests(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("option", ["--version", "-V"])
def test_the_version(option, capsys):
    assert main([option]) == 0
    assert capsys.readouterr().out == f"blob_pyro {version_of('blob_pyro')}\n"


@pytest.mark.parametrize("command", ["predict", "acquire", "report", "bench", "export", "fit"])
@pytest.mark.parametrize("part", [*PARTS, "adapter/adapter_model.safetensors", "checkpoints/new"])
def test_no_command_writes_over_a_run(refused, finished, tmp_path, command, part):
    """Nor where a file of the run is missing, or its folder is named through a link."""
    run, link = finished / "run", tmp_path / "link"
    link.symlink_to(run)
    before = digests(run)
    words = {
        "predict": ["predict", run, finished / "test.jsonl"],
        "acquire": ["acquire", run, finished / "test.jsonl", "--k", 1],
        "report": ["report", run],
        "bench": ["bench"],
        "export": ["export", run],
        "fit": ["fit", finished / "own.yaml"],
    }[command]
    for output in (run / part, link / part):
        told = refused(*words, "--output", output)
        assert re.match(f"(--output|{output}): expected", told), told
    assert digests(run) == before


def test_a_new_file_beside_a_runs_own_is_written(finished, tmp_path, capfd):
    run = shutil.copytree(finished / "run", tmp_path / "copy")
    output = run / "answers.jsonl"
    for _ in range(2):  # over its own former output
        assert main(["predict", str(run), str(finished / "test.jsonl"), "--quiet", "--output", str(output)]) == 0
        count = len(tiny.read_jsonl(finished / "test.jsonl"))
        assert capfd.readouterr().err == f"wrote {output}: {count} items\n"
        assert len(tiny.read_jsonl(output)) == count


def test_an_input_under_another_name_is_refused(refused, finished, tmp_path):
    shutil.copy(finished / "test.jsonl", tmp_path / "in.jsonl")
    os.link(tmp_path / "in.jsonl", tmp_path / "hard.jsonl")
    (tmp_path / "soft.jsonl").symlink_to(tmp_path / "in.jsonl")
    for output in ("hard.jsonl", "soft.jsonl"):
        told = refused("predict", finished / "run", tmp_path / "in.jsonl", "--output", tmp_path / output)
        assert told.startswith("--output: expected another file than the input")


ROWS = "JSON lines, or of a .csv or .tsv (.jsonl, .ndjson, .json, .txt, .csv, .tsv, or none)"


@pytest.mark.parametrize(
    "ending", ["parquet", "jsonl.gz", "CSV.GZ", "csv.bz2", "zip", "XZ", "arrow", "xls", "pkl", "db", "html"]
)
def test_a_name_of_another_format_is_refused(refused, finished, ending):
    told = refused("predict", finished / "run", finished / "test.jsonl", "--output", f"answers.{ending}")
    assert told == f"--output: expected the name of a file of {ROWS}; got answers.{ending}"
    if ending in ("zip", "xls"):
        assert refused("bench", "--output", f"b.{ending}").startswith("--output: expected the name of a file of JSON (")
        told = refused("report", finished / "run", "--output", f"report.{ending}")
        assert told == f"--output: expected the name of an HTML file (.html, .htm, or no ending); got report.{ending}"


# What a user may name by mistake: a base, data, settings, an export, a comparison, answers with a column of their own.
NO_OUTPUTS = {
    "model.safetensors": b"\x08\0\0\0\0\0\0\0{}      ",
    "config.json": b'{"model_type": "llama"}\n',
    "train.jsonl": b'{"text": "x", "label": "positive"}\n',
    "predicted.jsonl": b'{"text": "x", "prediction": "positive"}\n',
    "poem.jsonl": b'{"line": 1, "score": 0.5, "text": "x"}\n',
    "number.jsonl": b"1\n",
    "deep.jsonl": b"[" * 100_000,
    "own.yaml": b"data: {task: tweets}\n",
    "train.csv": b"text,label\nx,positive\n",
    "comparison.csv": b"method,seed,nll\nblob,0,0.5\n",
    "comparison.md": b"# A comparison\n",
    "latin.csv": b"pr\xe9diction\n",
    "labelled.csv": b"text,line,score,label\nx,3,0.5,positive\n",
    "labelled.jsonl": b'{"text": "x", "line": 3, "score": 0.5, "label": "positive"}\n',
}


@pytest.mark.parametrize("name", NO_OUTPUTS)
def test_only_a_former_output_is_replaced(refused, finished, tmp_path, name):
    file, link = tmp_path / name, tmp_path / f"link{os.path.splitext(name)[1]}"
    file.write_bytes(NO_OUTPUTS[name])
    link.symlink_to(file)
    run, items = finished / "run", finished / "test.jsonl"
    for words in (["predict", run, items], ["acquire", run, items, "--k", 1], ["bench"], ["report", run]):
        for output in (file, link):
            assert re.match(r"--output: expected (a new file|the name of a)", refused(*words, "--output", output))
    assert file.read_bytes() == NO_OUTPUTS[name]
    assert sorted(tmp_path.iterdir()) == sorted([file, link])


@pytest.mark.parametrize("ending", ["jsonl", "csv", "tsv", ""])
@pytest.mark.parametrize("first", ["predict", "acquire"])
def test_a_former_output_of_either_command_is_replaced_and_an_empty_file_filled(finished, tmp_path, first, ending):
    output = tmp_path / f"out.{ending}".rstrip(".")
    output.touch()
    run, items = str(finished / "run"), str(finished / "test.jsonl")
    commands = {
        "predict": ["predict", run, items, "--coverage", "0.9", "--held_out", items],
        "acquire": ["acquire", run, items, "--k", "2"],
    }
    other = {"predict": "acquire", "acquire": "predict"}[first]
    written = {}
    for command in (first, other, first):
        assert main([*commands[command], "--quiet", "--output", str(output)]) == 0
        assert written.setdefault(command, output.read_bytes()) == output.read_bytes()
    assert written["predict"] != written["acquire"]


def test_the_data_of_a_run_are_no_former_output_whatever_they_hold(refused, finished, tmp_path):
    """Items that `acquire` chose, labelled and trained on."""
    run = shutil.copytree(finished / "run", tmp_path / "run")
    for setting, named in (("train_file", "chosen.*"), ("test_file", "chosen.jsonl")):
        config = yaml.safe_load((finished / "run" / "config.yaml").read_text())
        config["data"][setting] = named
        tiny.write_yaml(run / "config.yaml", config)
        chosen = tiny.write_jsonl(tmp_path / "chosen.jsonl", [{"text": "x", "label": "good", "line": 1, "score": 0.5}])
        told = refused("acquire", run, finished / "test.jsonl", "--k", 1, "--output", chosen)
        assert told == f"--output: expected another file than the input; got {chosen} for both"


@pytest.mark.parametrize("name", [".lock", ".new", ".saving", ".answers.jsonl", ".tmp/answers.jsonl"])
@pytest.mark.parametrize("holds", ["about.json", "posterior.json", "comparison.md", ".lock"])
def test_hidden_names_are_a_runs_own(refused, finished, tmp_path, name, holds):
    """A lock that was replaced let two processes train in one directory."""
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / holds).write_text("{}")
    (folder / ".tmp").mkdir()
    for words in (["predict", finished / "run", finished / "test.jsonl"], ["report", finished / "run"], ["bench"]):
        told = refused(*words, "--output", folder / name)
        assert told.startswith("--output: expected a name without a dot in front, where runs keep files of their own")
    assert {path.name for path in folder.rglob("*")} == {holds, ".tmp"} and (folder / holds).read_text() == "{}"


def test_a_hidden_name_elsewhere_is_written(finished, tmp_path):
    words = ["predict", str(finished / "run"), str(finished / "test.jsonl"), "--quiet", "--output", ".answers"]
    assert main(words) == 0
    assert len(tiny.read_jsonl(tmp_path / ".answers")) == len(tiny.read_jsonl(finished / "test.jsonl"))


@pytest.mark.parametrize("length", [238, 256, 5000])
def test_a_name_that_is_too_long_is_refused_before_anything_is_predicted(refused, finished, length):
    """While it is written a file has a longer name than afterwards."""
    for words in (["predict", finished / "run", finished / "test.jsonl"], ["report", finished / "run"], ["bench"]):
        told = refused(*words, "--output", "a" * length)
        assert told == f"--output: expected a name of at most 237 bytes; got {'a' * 40}..."
    if length > 255:
        for words in (["export", finished / "run"], ["fit", finished / "own.yaml"]):
            told = refused(*words, "--output", "a" * length)
            assert told.startswith("expected a path whose names have at most 255 bytes each; got aaa"), told
        told = refused("predict", finished / "run", "a" * length)
        assert told.startswith("expected a path whose names have at most 255 bytes each; got aaa")


def test_links_in_a_ring_are_refused(refused, finished, tmp_path):
    (tmp_path / "ring").symlink_to("ring")
    run, items = finished / "run", finished / "test.jsonl"
    for words in (["predict", run, items], ["acquire", run, items, "--k", 1], ["report", run], ["bench"],
                  ["export", run], ["fit", finished / "own.yaml"]):  # fmt: skip
        assert "ring" in refused(*words, "--output", "ring")
    for words in (["predict", run, "ring"], ["predict", "ring", items], ["report", "ring"], ["evaluate", "ring"]):
        assert "ring" in refused(*words)


def test_the_longest_name_is_written(finished, tmp_path):
    name = "a" * 231 + ".jsonl"
    words = ["predict", str(finished / "run"), str(finished / "test.jsonl"), "--quiet", "--output", name]
    assert main(words) == 0
    assert len(tiny.read_jsonl(tmp_path / name)) == len(tiny.read_jsonl(finished / "test.jsonl"))


def test_columns_that_an_answers_parts_replace_are_told(finished, tmp_path, capfd):
    items = tmp_path / "in.csv"
    items.write_text("text,probabilities.positive\na,mine\nb,mine\n")
    for output in ("out.csv", "out.jsonl"):
        words = ["predict", str(finished / "run"), str(items), "--quiet", "--output", output]
        assert main(words) == 0
        note = "note: fields of the input are replaced: 'probabilities.positive' (in 2 rows)\n"
        assert capfd.readouterr().err == (note if output == "out.csv" else "") + f"wrote {output}: 2 items\n"
    lines = tiny.read_jsonl(tmp_path / "out.jsonl")
    assert [line["probabilities.positive"] for line in lines] == ["mine", "mine"]
    with (tmp_path / "out.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    for line, cells in zip(lines, table, strict=True):
        assert float(cells["probabilities.positive"]) == line["probabilities"]["positive"]


@pytest.mark.parametrize(("ending", "delimiter"), [("csv", ","), ("tsv", "\t"), ("CSV", ",")])
def test_a_table_has_the_numbers_of_the_lines(finished, tmp_path, ending, delimiter, capfd):
    rows = [{"text": 'of "two"\nlines,\tin all'}, {"text": "plain"}]
    items = tiny.write_jsonl(tmp_path / "in.jsonl", rows)
    decide = ["--coverage", "0.9", "--held_out", str(finished / "test.jsonl")]
    for output in ("out.jsonl", f"out.{ending}"):
        words = ["predict", str(finished / "run"), str(items), "--quiet", "--output", str(tmp_path / output), *decide]
        assert main(words) == 0
    lines = tiny.read_jsonl(tmp_path / "out.jsonl")
    with (tmp_path / f"out.{ending}").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file, delimiter=delimiter))
    assert len(table) == len(lines) == 2
    for line, cells in zip(lines, table, strict=True):
        assert cells["text"] == line["text"] and cells["prediction"] == line["prediction"]
        assert float(cells["entropy"]) == line["entropy"]
        assert {name: float(cells[f"probabilities.{name}"]) for name in line["probabilities"]} == line["probabilities"]
        assert json.loads(cells["set"]) == line["set"]


def test_a_pipe_takes_lines(finished, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    words = ["predict", str(finished / "run"), str(finished / "test.jsonl"), "--quiet", "--output", "pipe"]
    assert main(words) == 0
    reader.join(timeout=60)
    assert len(read[0].splitlines()) == len(tiny.read_jsonl(finished / "test.jsonl"))


def test_a_link_goes_on_leading_to_its_file(finished, tmp_path):
    (tmp_path / "real.jsonl").touch()
    (tmp_path / "link.jsonl").symlink_to("real.jsonl")
    words = ["predict", str(finished / "run"), str(finished / "test.jsonl"), "--quiet", "--output", "link.jsonl"]
    assert main(words) == 0
    assert (tmp_path / "link.jsonl").is_symlink() and len(tiny.read_jsonl(tmp_path / "real.jsonl")) > 1


def test_a_comparison_without_test_items_is_refused_before_anything_is_trained(refused, config, tmp_path):
    """It trained every method, and said then that files were altered."""
    settings = tiny.settings(tmp_path, tiny.llama())
    del settings["data"]["test_file"]
    told = refused("compare", tiny.write_yaml(config, settings), "--methods", "mle", "--output", "out")
    assert told == "data: expected items to test on, which a table is of; got none: set data.test_file"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["fit", "compare", "export", "reproduce"])
def test_a_directory_whose_name_is_no_text_is_refused_before_anything_is_made(refused, finished, tmp_path, command):
    """Arrow and safetensors open none: `fit` trained for hours, and lost the metrics."""
    words = {
        "fit": ["fit", finished / "own.yaml"],
        "compare": ["compare", finished / "own.yaml", "--methods", "mle"],
        "export": ["export", finished / "run"],
        "reproduce": ["reproduce", "figure2"],
    }[command]
    told = refused(*words, "--out" if command == "reproduce" else "--output", "new\udcff")
    assert re.fullmatch(
        r"new\\udcff: expected a (directory|folder) with a name in UTF-8; choose another --output", told
    )
    assert not list(tmp_path.iterdir())


def test_files_may_have_any_name(finished, tmp_path):
    shutil.copy(finished / "test.jsonl", tmp_path / "in\udcff.jsonl")
    words = ["predict", str(finished / "run"), "in\udcff.jsonl", "--quiet", "--output", "out\udcff.jsonl"]
    assert main(words) == 0
    assert len(tiny.read_jsonl(tmp_path / "out\udcff.jsonl")) == len(tiny.read_jsonl(finished / "test.jsonl"))


def test_a_former_measurement_is_replaced_and_answers_are_not(refused, finished, tmp_path, capfd):
    small = [
        "--rounds",
        "2",
        "--warmup",
        "0",
        "--in_features",
        "8",
        "--num_sites",
        "2",
        "--quiet",
        "--output",
        "b.json",
    ]
    for _ in range(2):
        assert main(["bench", "bookkeeping", *small]) == 0
        assert capfd.readouterr().err == "wrote b.json\n"
    told = refused("predict", finished / "run", finished / "test.jsonl", "--output", "b.json")
    assert told.startswith("--output: expected a new file, or a former output to replace; got b.json")
    assert "bookkeeping" in (tmp_path / "b.json").read_text()
