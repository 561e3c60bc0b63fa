"""Runs on files as people have them: answer words apart from labels, other encodings, ids, gaps, many labels."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest
import tiny
import yaml
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

import blob_pyro as bp
from blob_pyro.cli import main
from blob_pyro.config.sections import DataConfig, ModelConfig, RunConfig
from blob_pyro.data.batches.label_tokens import answer_token_ids, class_codes
from blob_pyro.errors import DataError
from blob_pyro.runs.build import with_read_labels
from blob_pyro.storage.answers import read_answers
from blob_pyro.system.terminal import SILENT, Console

QUIET = pytest.mark.filterwarnings("ignore:.*several tokens")


def fit(folder: Path, **data) -> Path:
    settings = tiny.settings(folder, tiny.llama(), data={"labels": None, "truncate_field": None, **data})
    config = tiny.write_yaml(folder / "c.yaml", settings)
    assert main(["fit", str(config), "--quiet"]) == 0
    return folder / "run"


def rows_of(labels: list) -> list[dict]:
    return [{"text": f"day {i}", "label": label, "key": f"k{i}"} for i, label in enumerate(labels)]


@QUIET
@pytest.mark.slow
def test_twelve_numbered_classes_are_answered_by_letters_and_named_by_numbers(tmp_path, capfd):
    train = tiny.write_jsonl(tmp_path / "t.jsonl", rows_of(2 * list(range(12))))
    run = fit(tmp_path, train_file=str(train), test_file=str(train), id_field="key")
    out, _ = capfd.readouterr()
    assert (
        "labels: answered by A to L in their order (data.answers), for the tokens of ' 1' begin those of ' 10'" in out
    )
    names = sorted(map(str, range(12)))
    saved = yaml.safe_load((run / "config.yaml").read_text())["data"]
    assert saved["answers"] == dict(zip(names, "ABCDEFGHIJKL", strict=True))  # a token each; " A" has two
    loaded = bp.load(run)
    expected = [int(id_) for (id_,) in answer_token_ids(loaded.model.tokenizer, list(saved["answers"].values()))]
    assert loaded.model.likelihood.settings()["token_ids"] == expected
    answers = read_answers(run / "predictions.parquet")
    assert answers.class_names == tuple(names) and answers.ids == tuple(f"k{i}" for i in range(24))
    assert [names[k] for k in answers.predictions.labels.tolist()] == [str(i % 12) for i in range(24)]
    before = (run / "metrics.json").read_bytes()
    assert main(["evaluate", str(run), "--quiet"]) == 0 and (run / "metrics.json").read_bytes() == before
    assert main(["predict", str(run), str(train), "--output", str(tmp_path / "p.jsonl"), "--quiet"]) == 0
    found = tiny.read_jsonl(tmp_path / "p.jsonl")
    assert found[0]["key"] == "k0" and set(found[0]["probabilities"]) == set(names)
    assert found[0]["prediction"] == answers.class_names[answers.predictions.probs[0].argmax()]


@QUIET
@pytest.mark.slow
def test_answers_are_the_words_and_labels_the_names(tmp_path):
    """The run is that of a file whose labels are the words."""
    words = {"0": " negative", "1": " positive"}
    runs = []
    for name, labels, more in (("a", list(words), {"answers": {0: " negative", 1: " positive"}}),
                               ("b", [word.strip() for word in words.values()], {})):  # fmt: skip
        folder = tmp_path / name
        folder.mkdir()
        file = str(tiny.write_jsonl(folder / "t.jsonl", rows_of(6 * labels)))
        runs.append(fit(folder, train_file=file, test_file=file, **more))
    for part in ("metrics.json", "posterior.safetensors", "adapter/adapter_model.safetensors"):
        assert (runs[0] / part).read_bytes() == (runs[1] / part).read_bytes()
    assert read_answers(runs[0] / "predictions.parquet").class_names == ("0", "1")


def read(folder: Path, labels: list, **data) -> tuple[RunConfig, list[str]]:
    file = tiny.write_jsonl(folder / "t.jsonl", rows_of(labels))
    config = DataConfig(train_file=str(file), prompt="{text}:", **data)
    lines: list[str] = []
    found, _ = with_read_labels(RunConfig(config, ModelConfig(id=str(tiny.llama()))), Console(False, lines.append))
    return found, lines


def test_labels_that_can_be_told_apart_answer_for_themselves(tmp_path):
    for labels in (["bad", "good"], ["a", "b"], [1, 2, 3]):
        found, lines = read(tmp_path, 2 * labels)
        assert found.data.answers is None and len(lines) == 1
    found, lines = read(tmp_path, 2 * ["toxic", "toxic severe", "fine"])
    assert found.data.answers == {"fine": "A", "toxic": "B", "toxic severe": "C"} and len(lines) == 2
    found, _ = read(tmp_path, 2 * list(range(40)))
    assert found.data.answers["7"] == class_codes(40)[sorted(map(str, range(40))).index("7")]
    file = tmp_path / "t.jsonl"
    given = DataConfig(train_file=str(file), prompt="{text}:", labels=[" 1", " 10"])
    assert with_read_labels(RunConfig(given, ModelConfig(id=str(tiny.llama()))), SILENT)[0].data == given
    with pytest.raises(DataError, match="ids .*: choose another word for one of them, in data.answers"):
        answer_token_ids(bp.load_tokenizer(str(tiny.llama())), [" 1", " 10"])


@pytest.mark.parametrize("count", [2, 26, 27, 100, 101, 1000])
def test_no_code_of_a_class_begins_another(count):
    codes = class_codes(count)
    assert len(set(codes)) == count and len({len(code) for code in codes}) == 1


@pytest.mark.slow
def test_encodings_ids_and_gaps_go_through_every_command(tmp_path, capfd):
    lines = [
        "nr,text,label",
        *(f"{i},für {i},{'positive' if i % 2 else 'negative'}" for i in range(12)),
        "99,,positive",
    ]
    for name, encoding in (("a.csv", "utf-16"), ("b.csv", "utf-16"), ("new.csv", "utf-16")):
        (tmp_path / name).write_bytes("\n".join(lines).encode(encoding))
    data = {"train_file": str(tmp_path / "[ab].csv"), "test_file": str(tmp_path / "new.csv"), "encoding": "utf-16",
            "id_field": "nr", "skip_empty": True, "prompt": "{text}:"}  # fmt: skip
    run = fit(tmp_path, **data)
    out, _ = capfd.readouterr()
    skipped = "1 of 13 rows left out: 1 without text in the prompt (line 14) (data.skip_empty)"
    for name in ("a.csv", "b.csv", "new.csv"):
        assert f"{tmp_path}/{name}: {skipped}" in out
    assert f"train: 2 files ({tmp_path}/a.csv 12, {tmp_path}/b.csv 12)" in out
    assert read_answers(run / "predictions.parquet").ids == tuple(map(str, range(12)))
    for command in (["predict"], ["acquire", "--k", "3"]):
        words = [command[0], str(run), str(tmp_path / "new.csv"), *command[1:], "--output", str(tmp_path / "o.jsonl")]
        assert main([*words, "--quiet"]) == 0
        found = tiny.read_jsonl(tmp_path / "o.jsonl")
        assert len(found) == (12 if command == ["predict"] else 3)
        assert all(row["text"] == f"für {row['nr']}" for row in found)
        assert f"note: {tmp_path}/new.csv: {skipped}" in "".join(capfd.readouterr())
    assert main(["report", str(run), "--output", str(tmp_path / "r.html")]) == 0


def test_num_test_without_a_test_file_is_refused(tmp_path, capfd):
    settings = tiny.settings(tmp_path, tiny.llama(), data={"test_file": None, "num_test": 4})
    assert main(["fit", str(tiny.write_yaml(tmp_path / "c.yaml", settings)), "--quiet"]) == 2
    told = "data.num_test: expected data.test_file (or data.test_split) to take them from; got 4 without one"
    assert told in capfd.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_five_thousand_labels_take_seconds(tmp_path):
    started = time.perf_counter()
    found, _ = read(tmp_path, 2 * [f"class {i:04}" for i in range(5000)])
    ids = answer_token_ids(bp.load_tokenizer(str(tiny.llama())), found.data.labels)
    assert len(ids) == 5000 and time.perf_counter() - started < 10
    assert json.dumps(found.data.labels)


@pytest.mark.filterwarnings("always:the tokenizer puts")
@pytest.mark.slow
def test_a_tokenizer_that_adds_an_end_of_text_changes_no_run_and_is_told_once(tmp_path, capfd):
    """As with one that adds a BOS alone, which the prompts have already."""
    metrics = []
    for kind in ("<s> $A", "<s> $A </s>"):
        folder = tmp_path / str(len(metrics))
        shutil.copytree(tiny.llama(), folder / "model")
        tokenizer = AutoTokenizer.from_pretrained(folder / "model")
        special = [("<s>", tokenizer.bos_token_id), ("</s>", tokenizer.eos_token_id)]
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=kind, special_tokens=special)
        tokenizer.save_pretrained(folder / "model")
        settings = tiny.settings(folder, folder / "model", data={"prompt": f"<s>{tiny.PROMPT}", "num_validation": 2})
        assert main(["fit", str(tiny.write_yaml(folder / "c.yaml", settings)), "--quiet"]) == 0
        err = capfd.readouterr().err
        assert err.count("the tokenizer puts '<s>' in front of a text: prompts that begin with it have it once") == 1
        assert err.count("the tokenizer puts '</s>' behind a text") == ("</s>" in kind)
        metrics.append((folder / "run" / "metrics.json").read_bytes())
    assert metrics[0] == metrics[1]
