"""A wrong configuration, option or data file is one line, before anything is loaded, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import time

import pytest
import tiny

from blob_pyro.cli import main
from blob_pyro.cli.command import config_of
from blob_pyro.cli.dispatch import COMMANDS
from blob_pyro.errors import ConfigError

BAD_YAML: dict[str, tuple[bytes, str]] = {
    "syntax": (b"data: [1,\n  x: }", "expected YAML; got something else on line 2"),
    "list": (
        b"- 1\n- 2\n",
        "expected a mapping with the keys data, model, guide, train, predict, tune, seed, output; got list",
    ),
    "text": (b"hello", "got str"),
    "empty": (b"", "got nothing"),
    "binary": (b"\xff\xfe\x00\x01", "expected a YAML file in UTF-8; got other bytes at 0"),
    "tab": (b"data:\n\ttask: tweets\n", "expected YAML; got something else on line 2"),
    "control character": (b"data: \x01", "expected YAML; got something else"),
    "a key twice": (
        b"data: {task: tweets}\ndata: {task: rte}",
        "on line 1: the key data is there twice",
    ),
    "a dotted key": (b"train.lr: 1", "train.lr: expected lr below train, in a section"),
    "aliases of aliases": (
        b"data: &a [x, x, x, x, x, x, x, x]\nmodel: &b [*a, *a, *a, *a, *a, *a, *a, *a]\n"
        b"guide: &c [*b, *b, *b, *b, *b, *b, *b, *b]\ntrain: &d [*c, *c, *c, *c, *c, *c, *c, *c]\n"
        b"predict: [*d, *d, *d]",
        "expected a file of at most 10000 values, aliases written out; got more",
    ),
    "a list in itself": (b"data: &a [*a]", "its values are nested too deeply or in themselves"),
    "a month 13": (b"data: {task: 2024-13-01}", "expected YAML; got something else: month must be in 1..12"),
    "no whole number": (b"seed: !!int x", "expected YAML; got something else: invalid literal for int()"),
    "a very long number": (b"seed: " + b"9" * 400, "expected whole numbers of 64 bits; got 9999"),
    "unknown section": (b"trian: {lr: 1}", "trian: no such key; did you mean train?"),
    "unknown key": (b"train: {num_step: 1}", "train.num_step: no such key; did you mean train.num_steps?"),
    "key of nowhere": (
        b"train: {learning_rate: 1}",
        "train.learning_rate: no such key; train has num_steps, batch_size,",
    ),
    "section is a number": (
        b"train: 3",
        "train: expected a mapping with keys like num_steps, batch_size, recipe; got 3",
    ),
    "section is empty": (b"train:", "train: expected a mapping with keys like num_steps"),
    "no data": (b"seed: 1", "data: expected data.task, or files of your own; got neither"),
    "no prompt": (b"data: {train_file: a, labels: [a, b]}", "got neither: data.prompt missing"),
    "unknown task": (b"data: {task: tweetz}", "got 'tweetz'; did you mean tweets?"),
    "wrong type": (
        b"data: {task: tweets}\ntrain: {num_steps: many}",
        "train.num_steps: expected a whole number; got many",
    ),
    "yes and no": (b"data: {labels: [yes, no]}", 'like ["a", "b"] with quotes, or null; got [True, False]'),
}


@pytest.mark.parametrize(("option", "message"), [("predict.max_tokens", "64 bits"), ("train.lr", "ordinary size")])
def test_an_option_of_four_hundred_digits_is_one_line(refused, option, message):
    assert message in refused("fit", "--data.task", "tweets", f"--{option}", "9" * 400)


@pytest.mark.parametrize("case", BAD_YAML)
def test_a_bad_configuration_file_is_one_line(refused, tmp_path, case):
    content, message = BAD_YAML[case]
    (tmp_path / "bad.yaml").write_bytes(content)
    assert message in refused("fit", "bad.yaml")
    assert not (tmp_path / "runs").exists()


def test_a_missing_configuration_or_a_folder_is_one_line(refused, tmp_path):
    assert refused("fit", "none.yaml") == "none.yaml: expected a YAML file; there is none: check the path"
    assert refused("fit", "--config=none.yaml").startswith("none.yaml: expected a YAML file; there is none")
    assert refused("fit", tmp_path).endswith("expected a YAML file; got a folder: name a file in it")


BAD_OPTIONS: dict[str, tuple[tuple[str, ...], str]] = {
    "unknown": (("--train.num_step", "1"), "--train.num_step: no such option; did you mean --train.num_steps?"),
    "unknown with =": (("--train.num_step=1",), "--train.num_step: no such option; did you mean --train.num_steps?"),
    "without section": (("--lr", "1"), "--lr: no such option; did you mean --train.lr?"),
    "not near any": (("--guide.width", "1"), "--guide.width: no such option; guide has name, eps"),
    "without value": (("--train.lr",), "argument --train.lr: expected one argument"),
    "second file": (
        ("more.yaml",),
        "expected blob-pyro fit CONFIG.yaml [--key value ...]; got 'more.yaml' beside that",
    ),
    "no number": (("--train.lr", "abc"), "train.lr: expected a finite number; got abc"),
    "nan": (("--train.lr", "nan"), "train.lr: expected a finite number; got nan"),
    "infinite": (("--train.lr", ".inf"), "train.lr: expected a number above 0; got inf"),
    "no whole number": (("--train.num_steps", "1.5"), "train.num_steps: expected a whole number; got 1.5"),
    "no truth": (("--train.flipout", "maybe"), "train.flipout: expected true or false; got maybe"),
    "out of range": (("--train.num_steps", "0"), "train.num_steps: expected at least 1 step; got 0"),
    "negative seed": (("--seed", "-1"), "seed: expected a whole number from 0 to 4294967295; got -1"),
    "huge seed": (("--seed", "4294967296"), "seed: expected a whole number from 0 to 4294967295; got 4294967296"),
    "literal": (
        ("--guide.name", "blobb"),
        "guide.name: expected one of 'blob', 'dropout', 'ensemble', 'laplace', 'low_rank', 'map', 'mean_field', "
        "'mle', 'scalabl', 'tfb'; got blobb",
    ),
    "quantization": (
        ("--model.quantization", "2bit"),
        "model.quantization: expected one of '8bit', '4bit', or null; got 2bit",
    ),
    "list": (
        ("--data.labels", "good"),
        'expected a list of texts, like ["a", "b"] with quotes, or null; got \'good\'',
    ),
    "class weights": (
        ("--model.class_weights", "even"),
        "model.class_weights: expected a list of numbers, like [1.0, 2.0], or 'balanced', or null; got even",
    ),
    "too few class weights": (
        ("--model.class_weights", "[1.0]"),
        "class_weights: expected 2 numbers above 0, one for each class; got [1.0]",
    ),
    "section file": (
        ("--train", "none.yaml"),
        "train: expected a YAML file with the keys of this section; got none.yaml",
    ),
    "task and files": (
        ("--data.task", "tweets"),
        "data: expected either data.task or files of your own; got task and data.train_file",
    ),
    "one label": (("--data.labels", '["a"]'), "data.labels: expected at least two labels; got ['a']"),
    "same label twice": (("--data.labels", '["a", "a"]'), "data.labels: expected distinct labels"),
    "labels that differ in space": (
        ("--data.labels", '["a", " a"]'),
        "expected words that differ in more than white space",
    ),
    "no such train file": (
        ("--data.train_file", "no.jsonl"),
        "no.jsonl: expected a JSON-lines file; there is none: check the path",
    ),
    "no such test file": (
        ("--data.test_file", "no.jsonl"),
        "no.jsonl: expected a JSON-lines file; there is none: check the path",
    ),
    "folder as file": (
        ("--data.train_file", "."),
        "expected a JSON-lines file; got a folder: name a file in it, or one",
    ),
    "an address": (
        ("--data.train_file", "https://me:secret@host/a.csv?x=1"),
        "https://***@host/a.csv?x=1: expected the name of a file on this machine; got an address: download it, or name",
    ),
    "addresses": (("--data.test_file", '["file:///a.csv"]'), "file:///a.csv: expected the name of a file on this mach"),
    "another ending": (
        ("--data.train_file", "own.yaml"),
        "a name that ends in .json, .jsonl, .ndjson, .csv, .tsv (all also with .gz) or .parquet, or a folder of save",
    ),
    "no such label field": (("--data.label_field", "gold"), "expected a label in the field 'gold' of every row"),
    "unknown prompt field": (
        ("--data.prompt", "Q: {question}", "--data.truncate_field", "null"),
        "line 1: expected the field 'question', which the prompt names; got 'text', 'label', 'who'",
    ),
    "no prompt field": (("--data.prompt", "Q:"), "data.prompt: expected a field in braces"),
    "open brace": (("--data.prompt", "Q: {text"), "data.prompt: expected matching braces"),
    "truncate field": (
        ("--data.truncate_field", "who"),
        "data.truncate_field: expected a field that the prompt has exactly once",
    ),
    "too few items": (("--data.num_train", "100"), "expected at least 100 items (data.num_train); got 12"),
    "too long": (
        ("--data.max_length", "10", "--data.truncate_field", "null"),
        "train.jsonl: line 1: expected at most 10 tokens; got 23 (and 11 more items: line 2,",
    ),
    "too long without passage": (("--data.max_length", "4"), "expected at most 4 tokens; got"),
    "unknown hub id": (
        ("--model.id", "nobody/nothing"),
        "model nobody/nothing: expected a hub id, a local folder or an alias (smollm2, minilm)",
    ),
    "misspelt alias": (("--model.id", "smolm2"), "did you mean smollm2?"),
    "no hub id": (("--model.id", "a/b/c"), "there is no such folder, and it cannot be a hub id"),
    "no such model folder": (
        ("--model.id", "./no/such"),
        "model ./no/such: expected a hub id, a local folder or an alias (smollm2, minilm); there is no such folder",
    ),
    "no model in the folder": (("--model.id", "."), "model .: expected a model that transformers can load; it says:"),
    "no model at all": (("--model.id", ""), "model.id: expected a hub id, a folder or an alias; got ''"),
    "target modules": (
        ("--model.target_modules", "[qproj]"),
        "Its linear layers are: down_proj, gate_proj, k_proj, lm_head, o_proj, q_proj, up_proj, v_proj",
    ),
    "embedding": (
        ("--model.target_modules", "[embed_tokens]"),
        "layer base_model.model.model.embed_tokens: expected a LoRA layer that calls lora_A",
    ),
    "attention": (
        ("--model.attn_implementation", "flashy"),
        'expected a model that transformers can load; it says: Specified `attn_implementation="flashy"`',
    ),
    "output is a file": (
        ("--output", "train.jsonl"),
        "train.jsonl: expected a directory to write to; got a file; choose another --output",
    ),
    "output below a file": (("--output", "train.jsonl/x"), "train.jsonl/x: expected a directory to write to"),
    "output is nothing": (("--output", ""), "output: expected a directory to write to; got ''"),
    "output in a place that takes none": (
        ("--output", "/proc/blob_pyro"),
        "/proc/blob_pyro: expected a directory to write to",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_a_bad_option_is_one_line_and_no_directory_is_left(refused, config, tmp_path, case):
    options, message = BAD_OPTIONS[case]
    before = set(os.listdir(tmp_path))
    assert message in refused("fit", config, *options)
    assert set(os.listdir(tmp_path)) == before


def test_an_encoder_is_refused_as_a_causal_language_model(refused, config, tmp_path):
    told = refused("fit", config, "--model.id", tiny.bert(), "--model.target_modules", "[query]")
    assert "got an encoder (bert): set model.likelihood to sequence_classification" in told
    assert not (tmp_path / "run").exists()


BAD_ROWS: dict[str, tuple[str, str]] = {
    "empty": ("", "expected at least one row; got an empty file"),
    "blank lines": ("\n \n", "expected at least one row; got an empty file"),
    "malformed": (
        '{"text": 1\nnope\n{"text": "a", "label": "positive"}\n',
        "expected one JSON object a line, in UTF-8; got something else on lines 1, 2 (line 1:",
    ),
    "not an object": ("[1]\n", "expected one JSON object a line"),
    "unknown label": (
        '{"text": "a", "label": "great"}\n',
        "expected in the field 'label' one of ['negative', 'positive']; got something else on line 1 (line 1: 'great')",
    ),
    "no label": ('{"text": "a"}\n', "expected a label in the field 'label' of every row; got none on line 1"),
    "no text": ('{"label": "positive"}\n', "line 1: expected the field 'text', which the prompt names; got 'label'"),
    "text is null": ('{"text": null, "label": "positive"}\n', "in the field 'text'; got null"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
@pytest.mark.parametrize("part", ["train", "test"])
def test_a_bad_data_file_is_one_line_and_no_directory_is_left(refused, config, tmp_path, part, case):
    content, message = BAD_ROWS[case]
    (tmp_path / "bad.jsonl").write_text(content)
    assert message in refused("fit", config, f"--data.{part}_file", "bad.jsonl")
    assert not (tmp_path / "run").exists()


def test_a_configuration_is_a_file_with_an_end(tmp_path, capsys):
    (tmp_path / "large.yaml").write_text("#" * 2_000_001)
    os.mkfifo(tmp_path / "pipe.yaml")
    for name, told in (
        ("/dev/zero", "expected a YAML file; got a pipe or a device: write a file, and name that"),
        ("pipe.yaml", "expected a YAML file; got a pipe or a device: write a file, and name that"),
        ("large.yaml", "expected a YAML file of at most 2 MB; got more"),
    ):
        assert main(["fit", str(tmp_path / name)]) == 2
        assert capsys.readouterr().err == f"blob-pyro: error: {tmp_path / name}: {told}\n"


@pytest.mark.slow
def test_five_thousand_labels_are_read_in_seconds(tmp_path):
    """jsonargparse alone takes five minutes: it copies the list for each of its parts."""
    labels = [f" class {i:04}" for i in range(5000)]
    settings = {"data": {"train_file": "t.jsonl", "prompt": "{text}:", "labels": labels}}
    start = time.process_time()
    config, _ = config_of(COMMANDS["fit"].parser(), [str(tiny.write_yaml(tmp_path / "c.yaml", settings))])
    assert config.data.labels == labels and time.process_time() - start < 20
    for value, got in (("[0, 1]", "[0, 1]"), ("x", "'x'"), ("[yes, no]", "[True, False]")):
        with pytest.raises(ConfigError, match="data.labels: expected a list of texts, like .*; got " + re.escape(got)):
            config_of(COMMANDS["fit"].parser(), [str(tmp_path / "c.yaml"), "--data.labels", value])
