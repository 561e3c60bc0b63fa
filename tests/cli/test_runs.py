"""Runs made, evaluated and asked by command: labels, long prompts, outputs, what a file or run lacks."""

from __future__ import annotations

import contextlib
import io
import json
import math
import shutil

import pytest
import tiny
import yaml

import blob_pyro as bp
from blob_pyro.cli import main
from blob_pyro.storage.saving import load


@pytest.mark.filterwarnings("default:labels. ")
def test_labels_of_several_tokens_are_compared_whole(config, tmp_path, capfd):
    """Trained, evaluated and used with a note of what that costs; the run knows its labels again."""
    rows = [{"text": f"Tweet {i}", "label": ("neutral", "negative")[i % 2]} for i in range(6)]
    tiny.write_jsonl(tmp_path / "train.jsonl", rows)
    tiny.write_jsonl(tmp_path / "test.jsonl", rows[:2])
    labels = ("--data.labels", '[" negative", " neutral"]')
    assert main(["fit", str(config), *labels, "--quiet"]) == 0
    note = (
        "labels: ' neutral' has several tokens: answers are compared by the log-probability of the whole answer, in 1"
    )
    assert capfd.readouterr().err == f"warning: {note} rows an item\n"
    assert main(["evaluate", "run", "--quiet"]) == 0
    capfd.readouterr()
    assert main(["predict", "run", "test.jsonl", "--quiet"]) == 0
    answers = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [answer["probabilities"].keys() for answer in answers] == 2 * [{"negative", "neutral"}]


@pytest.mark.filterwarnings("default:labels. ")
def test_a_label_without_its_space_is_told_the_spelling_of_one_token(config, capfd):
    assert main(["fit", str(config), "--data.labels", '["negative", "positive"]', "--quiet"]) == 0
    told = "labels: 'negative', 'positive' have several tokens (' negative', ' positive' would be one): answers are"
    assert told in capfd.readouterr().err


def test_two_labels_with_one_token_are_refused(refused, tmp_path):
    model = shutil.copytree(tiny.llama(), tmp_path / "lower")
    settings = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    settings["normalizer"] = {"type": "Lowercase"}
    (model / "tokenizer.json").write_text(json.dumps(settings))
    raw = tiny.settings(tmp_path, model, data={"labels": [" positive", " POSITIVE"], "test_file": None})
    tiny.write_jsonl(tmp_path / "train.jsonl", [{"text": "a", "label": "positive"}, {"text": "b", "label": "POSITIVE"}])
    told = refused("fit", tiny.write_yaml(tmp_path / "c.yaml", raw))
    assert "labels: expected answers that differ before one of them ends; got the same tokens for ' positive'" in told


def test_a_run_is_never_overwritten(refused, finished, config):
    before = {path: path.stat().st_mtime_ns for path in (finished / "run").rglob("*")}
    told = refused("fit", config, "--output", finished / "run")
    assert "expected a new run directory; it holds a run (config.yaml); choose another --output, delete it" in told
    assert {path: path.stat().st_mtime_ns for path in (finished / "run").rglob("*")} == before


def test_a_next_try_with_the_same_output_works_after_a_mistake(refused, config, tmp_path):
    assert "qproj" in refused("fit", config, "--model.target_modules", "[qproj]")
    assert main(["fit", str(config), "--quiet"]) == 0
    assert (tmp_path / "run" / "metrics.json").is_file()


def test_a_configuration_can_come_from_a_run_directory_and_be_changed(finished, tmp_path):
    words = ["fit", str(finished / "run" / "config.yaml"), "--output", "again", "--train.num_steps", "1", "--quiet"]
    assert main(words) == 0
    assert len(tiny.read_jsonl(tmp_path / "again" / "history.jsonl")) == 1


def test_print_config_shows_what_would_run(config, capsys, tmp_path):
    assert main(["fit", str(config), "--train.num_steps", "7", "--print_config"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["train"]["num_steps"] == 7
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("default:.*were longer than")
def test_a_long_prompt_is_cut_from_the_left_of_its_passage_and_counted(config, tmp_path, capsys):
    rows = tiny.items(4)
    rows[2]["text"] = "START " + 60 * "x " + "END"
    tiny.write_jsonl(tmp_path / "train.jsonl", rows)
    assert main(["fit", str(config), "--quiet", "--data.test_file", "null"]) == 0
    err = capsys.readouterr().err
    cut = f"1 of 4 prompts were longer than {tiny.CONTEXT} tokens: their passages were cut from the left"
    assert err == f"warning: {tmp_path}/train.jsonl: {cut}\n"
    run = load(tmp_path / "run")
    example = bp.Example("Tweet: " + rows[2]["text"] + "\nSentiment:", 0, "x", (7, 7 + len(rows[2]["text"])))
    with pytest.warns(UserWarning, match="cut from the left"):
        ids = bp.encode([example], run.model.tokenizer, tiny.CONTEXT).items[0].input_ids
    text = run.model.tokenizer.decode(ids)
    assert len(ids) <= tiny.CONTEXT and text.startswith("Tweet:") and text.endswith("END\nSentiment:")
    assert "START" not in text


def test_evaluate_says_what_a_run_lacks(refused, finished, tmp_path):
    assert refused("evaluate", "none").startswith("none: expected a run directory with config.yaml")
    run = shutil.copytree(finished / "run", tmp_path / "copy")
    assert refused("evaluate", run, "--num_samples", "-1").startswith("predict.num_samples: expected at least 0 draws")
    assert refused("evaluate", run, "--num_samples", "x").startswith("num_samples: expected a whole number, or null")
    assert refused("evaluate", run, "--num_sample", "3").endswith("did you mean --num_samples?")
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["data"]["test_file"] = None
    tiny.write_yaml(run / "config.yaml", config)
    assert "expected a run with test items; it has none" in refused("evaluate", run)


def test_predict_says_what_a_file_lacks(refused, finished, tmp_path):
    run, items = finished / "run", tiny.write_jsonl(tmp_path / "q.jsonl", [{"question": "x"}])
    assert refused("predict", run, "none.jsonl").startswith("none.jsonl: expected a JSON-lines file; there is none")
    assert "line 1: expected the field 'text', which the prompt names; got 'question'" in refused("predict", run, items)
    told = refused("predict", run, items, "--output", tmp_path / "." / "q.jsonl")
    assert told.startswith("--output: expected another file than the input")
    assert items.read_text() == '{"question": "x"}\n'


@pytest.mark.parametrize("output", ["/proc/blob_pyro", "none/answers.jsonl", "."])
def test_predict_says_where_it_cannot_write(refused, finished, output):
    told = refused("predict", finished / "run", finished / "test.jsonl", "--quiet", "--output", output)
    assert told.startswith("--output: expected a file") and output in told


@pytest.mark.parametrize("output", ["none/answers.jsonl", "."])
def test_a_file_that_cannot_be_written_is_refused_before_the_run_is_read(refused, output):
    assert refused("predict", "no_run", "no.jsonl", "--output", output).startswith("--output: expected a file")


def test_predict_writes_the_same_to_a_file_and_to_standard_output(finished, tmp_path, capsys):
    words = ["predict", str(finished / "run"), str(finished / "test.jsonl"), "--quiet"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert main([*words, "--output", "answers.jsonl"]) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "answers.jsonl").read_text(encoding="utf-8") == shown


def test_probabilities_of_a_run_are_numbers(finished):
    for answer in json.loads((finished / "run" / "metrics.json").read_text()).values():
        assert all(math.isfinite(value) for value in answer.values())


def test_rows_go_to_an_output_without_an_encoding(finished):
    """A StringIO, as in a notebook, has none."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        assert main(["predict", str(finished / "run"), str(finished / "test.jsonl"), "--quiet"]) == 0
    assert len(output.getvalue().splitlines()) == len(tiny.read_jsonl(finished / "test.jsonl"))
