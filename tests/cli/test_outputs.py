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


@pytest.mark.parametrize("ending", ["parquet", "jsonl.gz", "CSV.GZ", "xlsx"])
def test_a_name_of_another_format_is_refused(refused, finished, ending):
    told = refused("predict", finished / "run", finished / "test.jsonl", "--output", f"answers.{ending}")
    assert told == f"--output: expected a file of JSON lines, or a .csv or .tsv; got answers.{ending}"


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
    (tmp_path / "real.jsonl").write_text("old")
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
