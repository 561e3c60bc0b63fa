"""The paper's tables on tiny models: rows are runs, what is done is not done again, and a failure stops nothing."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path

import pytest
import tiny
import torch
import transformers as tf

from blob_pyro.cli import main
from blob_pyro.config.methods import ABLATIONS, METHODS
from blob_pyro.data.batches.collate import padding_id
from blob_pyro.data.batches.loaders import predict_loader
from blob_pyro.data.tasks.load import load_items, load_task
from blob_pyro.errors import BlobPyroError, ConfigError, ModelLoadError, RunDirectoryError
from blob_pyro.evaluation import auroc_out_of_distribution, evaluate, risk_coverage
from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.experiments import paper as reproduce
from blob_pyro.experiments.compare.runs import run_path
from blob_pyro.experiments.paper import ITEMS, Order, find_item
from blob_pyro.experiments.paper import cost_table as costs
from blob_pyro.experiments.paper.measuring import MEASURED, STEPS, Cost, measure
from blob_pyro.experiments.paper.settings import decoder_config, encoder_config
from blob_pyro.experiments.paper.shift_table import AREA, ENTROPY, INFORMATION, SHIFT, table2
from blob_pyro.experiments.paper.systems import SYSTEMS, draws_of_rows, methods_of
from blob_pyro.experiments.paper.task_tables import SMALL_DECODER_TASKS, SMALL_ENCODER_TASKS, ablations, roberta, table1
from blob_pyro.prediction.predictive import PosteriorPredictive
from blob_pyro.report.comparison import Outcome
from blob_pyro.runs.answerer import load_run
from blob_pyro.runs.build import encode_items
from blob_pyro.storage.answers import read_predictions, write_predictions
from blob_pyro.storage.directory import new_run_directory, read_config, write_json
from blob_pyro.system.terminal import SILENT, Console

pytestmark = [
    pytest.mark.slow,
    # two or three steps at the rate of eighty: the authors' step throws the spread beyond the prior, or leaves it
    pytest.mark.filterwarnings("ignore:the posterior is"),
]

REAL = Path(__file__).parents[3] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="the benchmark data of ../shared/data is not here")
METHODS_HERE = ("ensemble", "laplace", "blob")  # and map, which laplace starts from
WIDER = {"max_position_embeddings": 512}
CHANGES = {
    "data": {"num_train": 6, "num_test": 5, "num_validation": 0, "max_length": 512},
    "model": {"r": 2, "target_modules": ["q_proj", "v_proj"]},
    "train": {"num_steps": 2, "batch_size": 3, "kl_cycle": None},
    "predict": {"num_samples": 6},
}


def question(number: int, choices: int = 4) -> dict:
    letters = "ABCDE"[:choices]
    texts = [f"{word} {number}" for word in ("cat", "sun", "tree", "sea", "oak")[:choices]]
    return {"choices": {"text": texts, "label": list(letters)}, "answerKey": letters[number % choices]}


def write_tasks(folder: Path) -> Path:
    """Local copies of a few tasks, with the hub's field names."""
    rows = {
        "openbookqa/train": [{"question_stem": f"Which {i}?"} | question(i) for i in range(8)],
        "openbookqa/validation": [{"question_stem": f"What {i}?"} | question(i) for i in range(5)],
        "arc_easy/validation": [{"question": f"Where {i}?"} | question(i, 5 if i == 3 else 4) for i in range(7)],
        "cola/train": [{"sentence": f"He go {i}.", "label": i % 2} for i in range(8)],
        "cola/validation": [{"sentence": f"He goes {i}.", "label": i % 2} for i in range(5)],
    }
    for name, items in rows.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        tiny.write_jsonl(folder / f"{name}.jsonl", items)
    return folder


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A causal language model with room for a question, in which each letter is one token."""
    folder = tmp_path_factory.mktemp("llama")
    tokenizer = tf.AutoTokenizer.from_pretrained(tiny.llama())
    tokenizer.add_tokens([f" {letter}" for letter in "ABCDE"])
    config = tf.LlamaConfig(**tiny.LLAMA | WIDER, **tiny._ids(tokenizer))
    torch.manual_seed(1)
    tf.LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    """A classifier with room for a sentence and its question."""
    folder = tmp_path_factory.mktemp("bert")
    tokenizer = tf.AutoTokenizer.from_pretrained(tiny.bert())
    torch.manual_seed(1)
    tf.BertForSequenceClassification(tf.BertConfig(**tiny.BERT | WIDER, **tiny._ids(tokenizer))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def finished(llama, tmp_path_factory):
    """An order of two tasks, of which one has no items, and Table 1 of it."""
    folder = tmp_path_factory.mktemp("all")
    data = str(write_tasks(folder / "data"))
    order = Order(
        folder / "out", llama, seeds=(1,), tasks=("openbookqa", "boolq"), methods=METHODS_HERE, data_dir=data,
        changes=CHANGES, console=SILENT,
    )  # fmt: skip
    return order, table1(order)


def lines_of(order: Order, name: str) -> list[dict]:
    return list(csv.DictReader((order.path / f"{name}.csv").read_text().splitlines()))


def written(folder: Path) -> dict[Path, int]:
    """Each file and when it was written."""
    return {file: file.stat().st_mtime_ns for file in folder.rglob("*") if file.is_file()}


def test_the_rows_are_the_papers_unless_others_are_asked_for():
    order = Order(Path("out"))
    assert tuple(method.name for method in methods_of(order)) == SYSTEMS
    held_out = methods_of(dataclasses.replace(order, methods=("tfb", "laplace_held_out")))
    assert [method.name for method in held_out] == ["mle", "tfb", "map", "laplace_held_out"]
    rows = [draws_of_rows(method, decoder_config(order, "boolq")) for method in held_out]
    assert rows == [{"MLE (plain LoRA)": None}, {"TFB": None}, {"MAP": None}, {"Laplace-LoRA, held out †": None}]


def test_table1_has_every_system_and_tells_what_failed(finished):
    order, found = finished
    assert found.files[0].read_text() == f"{found.text}\n"
    assert all(file.stat().st_size for file in found.files)
    assert [file.name for file in found.files[2:]] == ["table1_openbookqa.png", "table1_openbookqa.svg"]
    assert "Scale small: model " in found.text and "2 steps of 3 items, 6 training items, 5 test items" in found.text
    assert "Failed: boolq: expected boolq/train.jsonl" in found.text
    lines = lines_of(order, "table1")
    assert {line["task"] for line in lines} == {"openbookqa"}
    config = decoder_config(order, "openbookqa")
    rows = [row for method in methods_of(order) for row in draws_of_rows(method, config)]
    assert list(dict.fromkeys(line["method"] for line in lines)) == rows
    assert [line["row"] for line in lines if line["method"] == "BLoB N=5"] == ["run", "mean", "std"]


def test_a_table_tells_what_label_frequencies_alone_would_score(finished):
    """By hand, each label counted once more than there are items of it."""
    order, found = finished
    data = load_task(decoder_config(order, "openbookqa").data, 1)
    counts = [1 + sum(item.label == label for item in data.train) for label in range(4)]
    shares = [counts[item.label] / sum(counts) for item in data.test]
    nll = -sum(map(math.log, shares)) / len(shares)
    right = [item.label == counts.index(max(counts)) for item in data.test]
    expected = f"accuracy {100 * sum(right) / len(right):.1f} %, NLL {nll:.3f}."
    assert f"The training items' label frequencies alone: {expected}" in found.text
    assert "Perfectly calibrated answers as confident as BLoB's would score an ECE of" in found.text


def test_five_draws_are_the_first_of_the_stored_ones(finished):
    """By a prediction of the saved run with its own seed: the stored draws are the same, to the bit."""
    order, _ = finished
    config = decoder_config(order, "openbookqa")
    path = run_path(config, "blob", 1)
    stored = read_predictions(path / "predictions.parquet")
    assert stored.draws.shape == (6, 5, 4)
    by_hand = Predictions(stored.draws[:5].mean(0), stored.draws[:5], stored.labels)
    line = next(x for x in lines_of(order, "table1") if (x["method"], x["seed"]) == ("BLoB N=5", "1"))
    assert (line["nll"], line["N"]) == (repr(evaluate(by_hand).nll), "5")
    whole = json.loads((path / "metrics.json").read_text())["N=6"]
    assert evaluate(stored).to_dict() == whole


def test_table2_scores_are_those_of_the_loaded_runs(finished):
    """Table 2 in the directory of Table 1 trains nothing, and its scores are the naive ones."""
    order, _ = finished
    before = written(order.path / "runs")
    order = dataclasses.replace(order, tasks=("openbookqa", "arc_easy", "mmlu/college_physics"))
    found = table2(order)
    after = written(order.path / "runs")
    assert {file.name for file in after if after[file] != before.get(file)} == {SHIFT}
    assert "Failed: mmlu/college_physics: expected" in found.text
    path = run_path(decoder_config(order, "openbookqa"), "blob", 1)
    inside, outside = read_predictions(path / "predictions.parquet"), naive(path, order, num_samples=6)
    shift = auroc_out_of_distribution(inside.first_draws(5), outside.first_draws(5))
    lines = {(x["task"], x["method"], x["seed"]): x for x in lines_of(order, "table2")}
    few = lines["arc_easy", "BLoB N=5", "1"]
    assert float(few[ENTROPY]) == shift.entropy and float(few[INFORMATION]) == shift.mutual_information
    assert float(few[AREA]) == risk_coverage(outside.first_draws(5)).area
    assert float(few["nll"]) == pytest.approx(evaluate(outside.first_draws(5)).nll, rel=1e-5)
    mean = lines["arc_easy", "BLoB N=0", "1"]
    assert float(mean["nll"]) == pytest.approx(evaluate(naive(path, order, num_samples=0)).nll, rel=1e-5)
    assert mean[INFORMATION] == "" and few["num_items"] == "5"
    assert float(lines["openbookqa", "BLoB N=6", "1"][AREA]) == risk_coverage(inside).area
    assert table2(order).text == found.text
    assert written(order.path / "runs") == after


def test_a_task_that_cannot_be_answered_fails_alone(finished, tmp_path):
    """One has an item longer than the model's context, the other has items longer than those that were trained on."""
    data = write_tasks(tmp_path / "data")
    endless = question(0) | {"choices": {"text": 4 * ["word " * 600], "label": list("ABCD")}}
    (data / "arc_challenge").mkdir()
    tiny.write_jsonl(data / "arc_challenge" / "validation.jsonl", [{"question": "Which?"} | endless])
    lengthy = [{"question": f"Where {i}?"} | question(i) for i in range(5)]
    for row in lengthy:
        row["choices"]["text"][0] += 20 * " sea"
    tiny.write_jsonl(data / "arc_easy" / "validation.jsonl", lengthy)
    order = dataclasses.replace(
        finished[0], path=tmp_path / "out", methods=("mle",), tasks=("openbookqa", "arc_challenge", "arc_easy"),
        data_dir=str(data), changes=CHANGES | {"data": CHANGES["data"] | {"max_length": 140}},
    )  # fmt: skip
    found = table2(order)
    assert {x["task"] for x in lines_of(order, "table2")} == {"openbookqa", "arc_easy"}
    assert "Failed: mle, seed 1: arc_challenge: line 1: expected at most" in found.text
    assert found.text.count("Failed: ") == 1
    assert table2(order).text == found.text


def test_shift_scores_are_those_of_the_answers_there_are(finished, tmp_path):
    """A run that was evaluated again, under other draws, is scored again."""
    order = dataclasses.replace(finished[0], path=tmp_path / "out", methods=("blob",), tasks=("openbookqa", "arc_easy"))
    table2(order)
    path = run_path(decoder_config(order, "openbookqa"), "blob", 1)
    before = json.loads((path / SHIFT).read_text())
    answers = read_predictions(path / "predictions.parquet")
    other = dataclasses.replace(answers, draws=answers.draws.flip(0), probs=answers.probs)
    write_predictions(path / "predictions.parquet", other, load_task(read_config(path).data, 1).test, tuple("ABCD"))
    table2(order)
    after = json.loads((path / SHIFT).read_text())
    assert after["answers"] != before["answers"]
    few = {found["scores"]["openbookqa"]["BLoB N=5"]["metrics"]["nll"] for found in (before, after)}
    assert len(few) == 2  # the first five draws are others now


@needs_data
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_small_settings_fit_every_small_task(seed):
    """There are as many real items as the settings ask for: for training, held out, and to test on."""
    order = Order(Path("out"), data_dir=str(REAL))
    configs = [decoder_config(order, task) for task in (*SMALL_DECODER_TASKS, "openbookqa")]
    configs += [encoder_config(order, task) for task in SMALL_ENCODER_TASKS]
    for config in configs:
        found = load_task(config.data, seed)
        counts = (len(found.train), len(found.validation), len(found.test))
        assert counts == (config.data.num_train, config.data.num_validation, config.data.num_test), config.data.task


def naive(path: Path, order: Order, num_samples: int) -> Predictions:
    """Answers to arc_easy's items of four choices, by the public parts alone."""
    labels = (" A", " B", " C", " D")
    config = decoder_config(order, "openbookqa")
    items = load_items("arc_easy", None, config.data, labels=labels, num_items=5)
    run = load_run(path, labels)
    encoded = encode_items(items.examples, run.model, config.data, "arc_easy")
    torch.manual_seed(1)
    loader = predict_loader(encoded, config.predict.batch_size, padding_id(run.model.tokenizer))
    return PosteriorPredictive(run.model, run.guide, num_samples)(loader, progress=False)


def test_an_interrupted_table_goes_on_where_it_stopped(finished, tmp_path):
    """Stopped at the second run: the same table in the end, and the first run's files are as they were."""
    order, _ = finished

    def stop(line: str) -> None:
        if line.startswith("[2/"):
            raise KeyboardInterrupt

    order = dataclasses.replace(
        order, path=tmp_path / "out", tasks=("openbookqa",), methods=("ensemble", "blob"), console=Console(False, stop)
    )
    with pytest.raises(KeyboardInterrupt):
        table1(order)
    first = run_path(decoder_config(order, "openbookqa"), "ensemble", 1)
    before = written(first)
    assert before and not run_path(decoder_config(order, "openbookqa"), "blob", 1).exists()
    table1(dataclasses.replace(order, console=SILENT))
    assert written(first) == before
    again, whole = (
        {(x["method"], x["row"]): (x["nll"], x["ece"], x["N"]) for x in lines_of(one, "table1")}
        for one in (order, finished[0])
    )
    assert len(again) == 4 * 3 and again.items() <= whole.items()


def test_runs_of_other_settings_are_not_taken_for_these(finished):
    order, _ = finished
    with pytest.raises(RunDirectoryError, match="its run was made with; train.num_steps 2, now 3"):
        table1(dataclasses.replace(order, changes=CHANGES | {"train": {"num_steps": 3}}))


def test_the_encoders_table(bert, tmp_path):
    changes = CHANGES | {"model": {"r": 2, "target_modules": ["query", "value"]}}
    order = Order(
        tmp_path / "out", bert, seeds=(0,), tasks=("cola",), methods=("laplace",),
        data_dir=str(write_tasks(tmp_path / "data")), changes=changes, console=SILENT,
    )  # fmt: skip
    found = roberta(order)
    assert "Failed" not in found.text and "Missing" not in found.text
    assert [line["method"] for line in lines_of(order, "roberta") if line["row"] == "run"] == ["MAP", "Laplace-LoRA"]
    assert encoder_config(order, "boolq").output != decoder_config(order, "boolq").output


def test_the_ablations_are_blob_and_blob_without_a_part(bert, tmp_path):
    """On the model's own kind of task, and in the directory of other tables with their runs."""
    changes = CHANGES | {"model": {"r": 2, "target_modules": ["query", "value"]}}
    order = Order(
        tmp_path / "out", bert, seeds=(0,), tasks=("cola",), data_dir=str(write_tasks(tmp_path / "data")),
        changes=changes, console=SILENT,
    )  # fmt: skip
    roberta(dataclasses.replace(order, methods=("blob",)))
    before = written(order.path / "runs")
    found = ablations(order)
    assert "Failed" not in found.text and "Missing" not in found.text
    after = written(order.path / "runs")
    assert before.items() <= after.items()  # BLoB itself was there
    runs = {line["method"] for line in lines_of(order, "ablations") if line["row"] == "run"}
    assert runs - {"BLoB N=0", "BLoB N=5", "BLoB N=6"} == {METHODS[name].title for name in ABLATIONS if name != "blob"}


def test_a_measurement_counts_what_a_run_does(finished):
    """In this process: post-hoc Laplace, an ensemble and BLoB against plain LoRA."""
    order, _ = finished
    config = costs.cost_config(order, "openbookqa")
    found = {name: measure(costs._wanted(config, METHODS[name], 0)) for name in ("map", "ensemble", "laplace", "blob")}
    rows = {line["method"]: line for line in lines_of(order, "table1") if line["row"] == "run"}
    for name, row in (("map", "MAP"), ("ensemble", "Ensemble"), ("laplace", "Laplace-LoRA"),
                      ("blob", "BLoB N=6")):  # fmt: skip
        assert found[name].parameters == int(rows[row]["parameters"])
        assert found[name].num_samples == int(rows[row]["N"])
        assert found[name].train_seconds > 0 and found[name].predict_seconds > 0 and found[name].peak_bytes > 0


def test_the_table_of_costs(finished, tmp_path):
    """Plain LoRA is measured, what was measured before is read, and ratios are to the same seed's."""
    order, _ = finished
    order = dataclasses.replace(order, path=tmp_path, seeds=(3,), tasks=("openbookqa",), methods=None)
    config = costs.cost_config(order, "openbookqa")
    known = Cost(parameters=7, train_seconds=2.0, predict_seconds=4.0, peak_bytes=10**9, num_samples=10)
    for name in SYSTEMS[1:]:
        path = new_run_directory(costs._wanted(config, METHODS[name], 3))
        write_json(path / MEASURED, dataclasses.asdict(known))
    found = costs.cost(order)
    lines = {line["method"]: line for line in lines_of(order, "cost")}
    base, other = lines["MLE (plain LoRA)"], lines["BLoB"]
    assert float(base["training_ratio"]) == float(base["memory_ratio"]) == 1.0
    assert float(other["prediction_ratio"]) == 4.0 / float(base["predict_seconds"])
    assert "| MLE (plain LoRA) |  0 |" in found.text and f"{STEPS} steps" in found.text
    kept = written(tmp_path / "runs")
    assert costs.cost(order).text == found.text and written(tmp_path / "runs") == kept
    with pytest.raises(RunDirectoryError, match="made with another; choose another --out"):
        costs.cost(dataclasses.replace(order, changes=CHANGES | {"train": {"num_steps": 3}}))


def test_a_measurement_that_fails_is_told(finished, tmp_path):
    order, _ = finished
    order = dataclasses.replace(order, path=tmp_path, seeds=(0,), tasks=("boolq",))
    config = costs.cost_config(order, "boolq")
    path = new_run_directory(costs._wanted(config, METHODS["mle"], 0))
    with pytest.raises(BlobPyroError, match="exit code 1, and it says: .*expected boolq/train.jsonl"):
        costs.measure_apart(path)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"tasks": ("boolqq",)}, ConfigError, "did you mean boolq?"),
        ({"tasks": ()}, ConfigError, "tasks: expected at least one; got none"),
        ({"tasks": ("boolq", "boolq")}, ConfigError, "tasks: expected each once"),
        ({"seeds": (1, 1)}, ConfigError, "seeds: expected at least one, each once"),
        ({"model": "smolm2"}, ModelLoadError, "did you mean smollm2?"),
        ({"methods": ("blobb",)}, ConfigError, "methods: expected some of mle, map, "),
        ({"changes": {"train": {"num_step": 1}}}, ConfigError, "train.num_step: no such key; did you mean train.num_"),
        ({"changes": {"model": {"adapter": "x"}}}, ConfigError, "model.adapter: no such key"),
    ],
)
def test_mistakes_are_told_before_anything_runs(finished, tmp_path, given, error, message):
    order = dataclasses.replace(finished[0], **{"path": tmp_path / "out"} | given)
    with pytest.raises(error) as told:
        table1(order)
    assert message in str(told.value)
    assert not (tmp_path / "out").exists()


def test_a_table_without_a_run_is_none(finished, tmp_path):
    order = dataclasses.replace(finished[0], path=tmp_path / "out", tasks=("boolq",))
    with pytest.raises(BlobPyroError, match="table1: expected at least one run that ends; all failed: boolq: expected"):
        table1(order)
    with pytest.raises(ConfigError, match="at least one other to test on"):
        table2(order)


def test_the_command_passes_its_words_on(monkeypatch, tmp_path, capsys):
    orders = []

    def made(order: Order) -> reproduce.Reproduction:
        orders.append(order)
        return reproduce.Reproduction("# Table", (tmp_path / "table1.md",))

    monkeypatch.setitem(ITEMS, "table1", dataclasses.replace(ITEMS["table1"], table=made))
    words = [
        "--seeds",
        "4,5",
        "--tasks",
        "boolq, cola",
        "--model",
        "minilm",
        "--scale",
        "full",
        "--data_dir",
        "x",
        "--methods",
        "mle",
    ]
    assert main(["reproduce", "table1", "--train.num_steps", "3", *words, "--model.quantization=null", "--quiet"]) == 0
    assert "# Table" in capsys.readouterr().out
    changes = {"train": {"num_steps": 3}, "model": {"quantization": None}}
    assert orders[0] == Order(
        Path("reproduced/table1"),
        "minilm",
        "full",
        (4, 5),
        ("boolq", "cola"),
        ("mle",),
        "x",
        changes,
        console=Console(progress=False),
    )
    assert decoder_config(orders[0], "boolq").model.quantization is None


@pytest.mark.parametrize("command", ["reproduce", "compare"])
@pytest.mark.parametrize("begun", [False, True])
def test_ctrl_c_says_where_the_runs_are(monkeypatch, capsys, tmp_path, command, begun):
    out = tmp_path / "here"

    def stopped(*args, **settings) -> reproduce.Reproduction:
        if begun:
            (out / "mle" / "seed0").mkdir(parents=True)
            (out / "mle" / "seed0" / "config.yaml").touch()
        raise KeyboardInterrupt

    monkeypatch.setitem(ITEMS, "cost", dataclasses.replace(ITEMS["cost"], table=stopped))
    monkeypatch.setattr("blob_pyro.cli.compare.compare", stopped)
    own = {"reproduce": ["cost", "--out"], "compare": ["--data.task", "tweets", "--output"]}[command]
    assert main([command, *own, str(out)]) == 130
    told = f"{out} holds the runs that were done; the same command goes on" if begun else "nothing was saved"
    assert capsys.readouterr().err == f"blob-pyro: stopped by Ctrl-C; {told}\n"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["tabel1"], "got 'tabel1'; did you mean table1?"),
        (["table1", "--scale", "huge"], "scale: expected one of 'full', 'small'; got huge"),
        (["table1", "--seeds", "a"], "--seeds: expected whole numbers"),
        (["table1", "--workers", "0"], "workers: expected at least 1; got 0"),
        (["table1", "--train.num_steps", "x"], "train.num_steps: expected a whole number; got x"),
        (["table1", "--train.num_step", "3"], "--train.num_step: no such option; did you mean --train.num_steps?"),
        (["table1", "--train.num_steps"], "train.num_steps"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(capsys, words, message):
    assert main(["reproduce", *words]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_help_lists_them_all(capsys):
    assert main(["reproduce", "--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown and find_item(name).description in shown for name in ITEMS)


def test_an_outcome_takes_the_names_of_the_further_scores(finished):
    path = run_path(decoder_config(finished[0], "openbookqa"), "map", 1)
    metrics = evaluate(read_predictions(path / "predictions.parquet"))
    assert Outcome(metrics, further={ENTROPY: 0.5, INFORMATION: 0.5, AREA: 0.1}).further[AREA] == 0.1
