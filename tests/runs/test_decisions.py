"""What a saved run decides is what the pure functions say of its predictions, and every mistake is one line."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pyro
import pytest
import tiny
import torch
from tiny_runs import make_config

import blob_pyro as bp
from blob_pyro.cli import COMMANDS, main
from blob_pyro.data.tasks.load import load_task
from blob_pyro.errors import ConfigError, DataError
from blob_pyro.runs.acquire import acquire_run
from blob_pyro.runs.answerer import Answerer
from blob_pyro.runs.build import encode_items
from blob_pyro.runs.decisions import Decisions, choices_by_validation
from blob_pyro.runs.fit import fit_run
from blob_pyro.runs.predict import predict_run
from blob_pyro.storage.saving import load, save

NUM_VALIDATION, NUM_NEW = 40, 30


def silent(line):
    """Says nothing."""


def make_run(folder, *, temperature=False, **sections):
    """A run that learnt something, with held-out items in it unless `data` says otherwise."""
    tiny.write_jsonl(folder / "all.jsonl", tiny.items(52))
    data = {"train_file": str(folder / "all.jsonl"), "num_validation": NUM_VALIDATION} | sections.pop("data", {})
    targets = {"target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"], "r": 4, "lora_alpha": 16}
    train = {"num_steps": 40, "batch_size": 6, "lr": 0.02}
    predict = {"num_samples": 3, "temperature": temperature}
    guide = {"name": "blob", "eps": 0.2} if "guide" not in sections else sections.pop("guide")
    config = make_config(folder, model=targets, train=train, predict=predict, data=data, guide=guide, **sections)
    fit_run(config, progress=False, say=silent)
    tiny.write_jsonl(folder / "new.jsonl", [{"text": row["text"]} for row in tiny.items(NUM_NEW, seed=3)])
    return config


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A run of BLoB, its configuration, and a file "new.jsonl" beside it."""
    return make_run(tmp_path_factory.mktemp("deciding"))


@pytest.fixture(scope="session")
def scaled(tmp_path_factory):
    """The same with a temperature."""
    return make_run(tmp_path_factory.mktemp("deciding_scaled"), temperature=True)


@pytest.fixture(scope="session")
def without(tmp_path_factory):
    """A point without held-out items."""
    return make_run(tmp_path_factory.mktemp("deciding_point"), data={"num_validation": 0}, guide={"name": "mle"})


def folder_of(config):
    return Path(config.output).parent


def predicted(config, examples):
    """What the run says of examples, by the library's own steps, at its temperature."""
    run = bp.load(config.output)
    items = encode_items(examples, run.model, config.data, None)
    pyro.set_rng_seed(config.seed)
    predictive = bp.PosteriorPredictive(run.model, run.guide, num_samples=3)
    found = predictive(bp.predict_loader(items, 64, run.model.tokenizer.pad_token_id))
    if config.predict.temperature:
        cost = json.loads((folder_of(config) / "run" / "cost.json").read_text())
        return bp.Temperature(cost["temperature_N=3"])(found)
    return found


def examples_of(path, with_labels=False):
    return [
        bp.Example(tiny.PROMPT.format(**row), tiny.LABELS.index(f" {row['label']}") if with_labels else None, str(i))
        for i, row in enumerate(tiny.read_jsonl(path))
    ]


ALL = {"target_risk": 0.2, "delta": 0.3, "coverage": 0.9, "ood": "entropy"}


@pytest.mark.slow
@pytest.mark.parametrize("which", ["finished", "scaled"])
@pytest.mark.parametrize(("score", "set_score", "risk"), [("confidence", "lac", 0.2), ("bald", "aps", 0.3)])
def test_decisions_are_those_of_the_pure_functions(request, which, score, set_score, risk):
    config = request.getfixturevalue(which)
    new = folder_of(config) / "new.jsonl"
    decisions = Decisions(**ALL | {"target_risk": risk}, score=score, set_score=set_score)
    answers = predict_run(config.output, new, decisions=decisions, progress=False, say=silent)
    held_out = predicted(config, load_task(config.data, config.seed).validation)
    predictions = predicted(config, examples_of(new))
    assert len(held_out) == NUM_VALIDATION and len(answers) == NUM_NEW
    answered = bp.guaranteed_selection(held_out, risk, 0.3, score=score)(predictions)
    sets = bp.fit_conformal(held_out, 0.9, score=set_score)(predictions)
    assert [row["answered"] for row in answers] == answered.tolist()
    names = [label.strip() for label in tiny.LABELS]
    assert [sorted(row["set"]) for row in answers] == [
        sorted(name for name, inside in zip(names, row, strict=True) if inside) for row in sets.tolist()
    ]
    assert all(len(row["set"]) == 0 or row["set"][0] == row["prediction"] for row in answers)
    assert [row["ood_p_value"] for row in answers] == bp.ood_p_values(held_out, predictions, "entropy").tolist()


def test_scores_of_an_answer_are_those_of_its_probabilities(finished):
    for row in predict_run(finished.output, folder_of(finished) / "new.jsonl", progress=False):
        low, high = sorted(row["probabilities"].values())
        assert (row["confidence"], row["margin"]) == (high, pytest.approx(high - low))
        assert row["prediction"] == max(row["probabilities"], key=row["probabilities"].get)


def test_some_are_answered_and_some_not_so_that_the_tests_above_tell(finished):
    decisions = Decisions(**ALL)
    answers = predict_run(finished.output, folder_of(finished) / "new.jsonl", decisions=decisions, say=silent)
    assert {row["answered"] for row in answers} == {True, False}
    assert len({tuple(row["set"]) for row in answers}) > 2


def test_a_file_of_held_out_items_takes_the_place_of_the_runs_own(without):
    folder = folder_of(without)
    labelled = tiny.write_jsonl(folder / "labelled.jsonl", tiny.items(24, seed=5))
    decisions = Decisions(**ALL | {"target_risk": 0.5}, held_out=str(labelled))
    told = []
    answers = predict_run(without.output, folder / "new.jsonl", decisions=decisions, progress=False, say=told.append)
    assert len(told) == 5 and "24 held-out items" in told[0] and not any(line.startswith("note") for line in told)
    run = bp.load(without.output)
    predictive = bp.PosteriorPredictive(run.model, run.guide, num_samples=0)

    def of(examples):
        items = encode_items(examples, run.model, without.data, None)
        return predictive(bp.predict_loader(items, 64, run.model.tokenizer.pad_token_id))

    held_out, predictions = of(examples_of(labelled, with_labels=True)), of(examples_of(folder / "new.jsonl"))
    answered = bp.guaranteed_selection(held_out, 0.5, 0.3)(predictions)
    assert [row["answered"] for row in answers] == answered.tolist()
    assert [row["ood_p_value"] for row in answers] == bp.ood_p_values(held_out, predictions, "entropy").tolist()


def test_p_values_need_no_labels(without):
    folder = folder_of(without)
    decisions = Decisions(ood="margin", held_out=str(folder / "new.jsonl"))
    answers = predict_run(without.output, folder / "new.jsonl", decisions=decisions, progress=False, say=silent)
    p_values = sorted(row["ood_p_value"] for row in answers)
    assert len(set(p_values)) > 1 and p_values[-1] == 1.0
    with pytest.raises(DataError, match="expected a label in the field 'label' of every row; got none on"):
        predict_run(
            without.output, folder / "new.jsonl",
            decisions=Decisions(coverage=0.8, held_out=str(folder / "new.jsonl")), progress=False,
        )  # fmt: skip


def test_held_out_items_are_predicted_once(scaled, monkeypatch):
    """The temperature and every decision share one prediction of the validation items."""
    sizes, predict = [], Answerer._at_temperature_1

    def counted(self, items):
        sizes.append(len(items))
        return predict(self, items)

    monkeypatch.setattr(Answerer, "_at_temperature_1", counted)
    predict_run(scaled.output, folder_of(scaled) / "new.jsonl", decisions=Decisions(**ALL), say=silent, progress=False)
    assert sorted(sizes) == [NUM_NEW, NUM_VALIDATION]


def test_held_out_items_that_chose_something_already_are_told_of(finished, scaled, tmp_path):
    told = []
    for config in (finished, scaled):
        new = folder_of(config) / "new.jsonl"
        predict_run(config.output, new, decisions=Decisions(ood="entropy"), progress=False, say=told.append)
    notes = [line for line in told if line.startswith("note")]
    assert notes == [
        "note: the held-out items chose the temperature too, so that what is promised holds only roughly; "
        "--held_out FILE takes others"
    ]


@pytest.mark.parametrize(
    ("sections", "used"),
    [
        ({}, []),
        ({"guide": {"name": "tfb", "anchor": "held_out"}}, ["the scale of the guide 'tfb'"]),
        ({"guide": {"name": "laplace", "prior_precision": "held_out"}}, ["the scale of the guide 'laplace'"]),
        ({"guide": {"name": "laplace"}, "predict": {"temperature": True}}, ["the temperature"]),
        ({"tune": bp.TuneConfig(search=True)}, ["the settings (--tune)"]),
    ],
)
def test_what_held_out_items_have_chosen_is_known(tmp_path, sections, used):
    config = make_config(tmp_path, data={"num_validation": 4}, **sections)
    assert choices_by_validation(config) == used


# --- the command line ---


def test_the_commands_of_the_page_parse():
    page = (Path(__file__).parents[2] / "docs" / "decisions.md").read_text(encoding="utf-8")
    lines = [shlex.split(line) for line in re.findall(r"^blob-pyro (.*)$", page, re.M)]
    assert {command for command, *_ in lines} == {"fit", "predict", "acquire"}
    for command, *words in lines:
        if command != "fit":
            COMMANDS[command].parser().parse_args(words)


@pytest.fixture
def refused(capfd):
    """Runs a command line that must be refused: returns its one line, without "blob-pyro: error: "."""

    def run(*words):
        capfd.readouterr()
        assert main([str(word) for word in words]) == 2
        out, err = capfd.readouterr()
        assert out == "" and err.startswith("blob-pyro: error: ") and err.count("\n") == 1, err
        return err.removeprefix("blob-pyro: error: ").rstrip("\n")

    return run


def test_predict_writes_rows_to_standard_output_and_words_to_standard_error(finished, capfd):
    new = folder_of(finished) / "new.jsonl"
    words = ["--target_risk", "0.2", "--delta", "0.3", "--coverage", "0.9", "--set_score", "aps", "--ood", "bald"]
    assert main(["predict", finished.output, str(new), "--quiet", *words]) == 0
    out, err = capfd.readouterr()
    rows = [json.loads(line) for line in out.splitlines()]
    decisions = Decisions(target_risk=0.2, delta=0.3, coverage=0.9, set_score="aps", ood="bald")
    assert rows == predict_run(finished.output, new, decisions=decisions, progress=False, say=silent)
    lines = err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["target risk", "target risk", "coverage", "coverage", "ood"]
    answered = sum(row["answered"] for row in rows)
    assert lines[0].endswith("of new items at most 20 % wrongly, with 70 % certainty")
    assert lines[1] == f"target risk: {answered} of {NUM_NEW} items answered"
    assert lines[2].startswith("coverage: sets hold the true class of at least 90 % of new items, ± ")
    sizes = [len(row["set"]) for row in rows]
    assert lines[3] == f"coverage: {sum(sizes) / NUM_NEW:.3g} labels in a set on average"
    few = sum(row["ood_p_value"] <= 0.05 for row in rows)
    assert lines[4].startswith(f"ood: {few} of {NUM_NEW} items have a p-value of at most 0.05 by bald")


def test_a_target_that_no_threshold_meets_answers_nothing_and_says_so(finished, capfd):
    words = ["predict", finished.output, str(folder_of(finished) / "new.jsonl"), "--quiet"]
    assert main([*words, "--target_risk", "0.12", "--delta", "0.2"]) == 0
    out, err = capfd.readouterr()
    assert [json.loads(line)["answered"] for line in out.splitlines()] == [False] * NUM_NEW
    assert "answers nothing: no threshold keeps the risk at or below 12 %, with 80 % certainty, by 40" in err
    assert err.endswith(f"target risk: 0 of {NUM_NEW} items answered\n")


def test_the_empirical_rule_says_that_it_promises_nothing(finished, capfd):
    words = ["predict", finished.output, str(folder_of(finished) / "new.jsonl"), "--quiet"]
    assert main([*words, "--target_risk", "0.3", "--rule", "empirical"]) == 0
    assert "of new items above 30 % wrongly about as often as not" in capfd.readouterr().err


BAD_OPTIONS = {
    "risk above 1": (("--target_risk", "10"), "target_risk: expected a number between 0 and 1; got 10.0"),
    "risk of a word": (("--target_risk", "low"), "target_risk: expected a finite number, or null; got low"),
    "coverage in per cent": (("--coverage", "90"), "coverage: expected a number between 0 and 1; got 90.0"),
    "delta of 0": (("--target_risk", "0.1", "--delta", "0"), "delta: expected a number between 0 and 1; got 0"),
    "delta alone": (("--delta", "0.1"), "--delta: expected --target_risk beside it; got none"),
    "score alone": (("--score", "bald"), "--score: expected --target_risk beside it; got none"),
    "rule alone": (("--rule", "empirical"), "--rule: expected --target_risk beside it; got none"),
    "set score alone": (("--set_score", "aps"), "--set_score: expected --coverage beside it; got none"),
    "held-out alone": (("--held_out", "x.jsonl"), "--held_out: expected --target_risk, --coverage or --ood beside it"),
    "delta of the empirical rule": (
        ("--target_risk", "0.1", "--delta", "0.1", "--rule", "empirical"),
        "--delta: expected the rule 'guaranteed'; got 'empirical', which promises nothing",
    ),
    "rule": (("--target_risk", "0.1", "--rule", "sgr"), "rule: expected guaranteed or empirical; got 'sgr'"),
    "score": (
        ("--target_risk", "0.1", "--score", "x"),
        "score: expected one of confidence, margin, entropy, bald; got",
    ),
    "ood": (("--ood", "energy"), "score: expected one of confidence, margin, entropy, bald; got 'energy'"),
    "set score": (("--coverage", "0.8", "--set_score", "raps"), "set score: expected one of lac, aps; got 'raps'"),
    "too few": (
        ("--target_risk", "0.05"),
        "held-out items: expected at least 80 for a risk of at most 0.05 with delta 0.05; got 40: hold out more",
    ),
    "no held-out file": (("--ood", "entropy", "--held_out", "none.jsonl"), "none.jsonl: expected a JSON-lines file"),
    "one draw": (
        ("--ood", "bald", "--num_samples", "1"),
        "score 'bald': expected at least 2 posterior draws, which can disagree; got num_samples 1: raise it, or take",
    ),
    "near option": (("--target_rsk", "0.1"), "--target_rsk: no such option; did you mean --target_risk?"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_a_bad_option_is_one_line_before_anything_is_predicted(refused, finished, monkeypatch, case):
    words, message = BAD_OPTIONS[case]
    monkeypatch.setattr("blob_pyro.runs.predict.load_run", lambda *args: pytest.fail("the run was loaded"))
    assert message in refused("predict", finished.output, folder_of(finished) / "new.jsonl", *words)


def test_a_run_without_held_out_items_says_what_to_do(refused, without):
    folder = folder_of(without)
    for words in (("--target_risk", "0.1"), ("--coverage", "0.8"), ("--ood", "entropy")):
        told = refused("predict", without.output, folder / "new.jsonl", *words)
        assert told.startswith(f"{without.output}: expected held-out items to decide by; the run has none")
        assert "--held_out FILE, or fit with data.num_validation" in told


def test_the_output_never_replaces_the_held_out_items(refused, without):
    folder = folder_of(without)
    labelled = tiny.write_jsonl(folder / "kept.jsonl", tiny.items(4))
    before = labelled.read_text()
    words = ("--coverage", "0.5", "--held_out", labelled, "--output", labelled)
    told = refused("predict", without.output, folder / "new.jsonl", *words)
    assert told.startswith("--output: expected another file than the input") and labelled.read_text() == before


# --- acquire ---


@pytest.mark.parametrize("score", ["bald", "entropy", "margin", "confidence"])
def test_acquired_rows_are_those_of_the_pure_function_with_line_and_score(finished, score):
    new = folder_of(finished) / "new.jsonl"
    rows = acquire_run(finished.output, new, 7, score=score, progress=False, say=silent)
    found = bp.acquire(predicted(finished, examples_of(new)), 7, score)
    texts = [row["text"] for row in tiny.read_jsonl(new)]
    assert [row["text"] for row in rows] == [texts[i] for i in found.index.tolist()]
    assert [row["line"] for row in rows] == [i + 1 for i in found.index.tolist()]
    assert [row["score"] for row in rows] == found.scores.tolist() == sorted(found.scores.tolist(), reverse=True)
    assert [set(row) for row in rows] == [{"text", "line", "score"}] * 7


def test_acquire_writes_lines_that_count_blank_ones_and_takes_no_notice_of_labels(finished, tmp_path, capfd):
    rows = tiny.items(5, seed=2)
    (tmp_path / "pool.jsonl").write_text("\n".join(json.dumps(row) + "\n" for row in rows))
    words = ["acquire", finished.output, str(tmp_path / "pool.jsonl"), "--k", "5", "--quiet"]
    assert main([*words, "--output", str(tmp_path / "chosen.jsonl")]) == 0
    out, err = capfd.readouterr()
    assert out == "" and err.startswith("5 of 5 items chosen by bald, from ")
    assert err.splitlines()[1:] == [f"wrote {tmp_path / 'chosen.jsonl'}: 5 items"]
    chosen = tiny.read_jsonl(tmp_path / "chosen.jsonl")
    assert sorted(row["line"] for row in chosen) == [1, 3, 5, 7, 9]
    for row in chosen:
        assert {name: row[name] for name in rows[0]} == rows[(row["line"] - 1) // 2]
    assert main(words) == 0
    assert [json.loads(line) for line in capfd.readouterr().out.splitlines()] == chosen


def test_what_cannot_be_acquired_is_one_line(refused, finished, without, tmp_path):
    new = folder_of(finished) / "new.jsonl"
    assert refused("acquire", finished.output, new, "--k", "31") == "k: expected 1 to 30, the number of items; got 31"
    assert refused("acquire", finished.output, new, "--k", "0").startswith("k: expected 1 to 30")
    assert "required: k" in refused("acquire", finished.output, new).replace("--k", "k")
    told = refused("acquire", finished.output, new, "--k", "2", "--score", "bal")
    assert told == "score: expected one of confidence, margin, entropy, bald; got 'bal'; did you mean bald?"
    told = refused("acquire", without.output, new, "--k", "2")
    assert told.startswith("score 'bald': expected a guide whose draws can disagree; got 'mle', a point: take another")
    told = refused("acquire", finished.output, new, "--k", "2", "--num_samples", "1")
    assert told.startswith("score 'bald': expected at least 2 posterior draws, which can disagree; got num_samples 1")
    told = refused("acquire", finished.output, new, "--k", "2", "--output", new)
    assert told.startswith("--output: expected another file than the input")
    assert main(["acquire", without.output, str(new), "--k", "2", "--score", "entropy", "--quiet"]) == 0


def test_draws_that_agree_on_everything_are_no_ground_to_choose_by(finished, tmp_path):
    """Where B is 0 every draw of A is the same network."""
    run = shutil.copytree(finished.output, tmp_path / "same")
    found = load(run)
    points = [parameter for name, parameter in found.model.point_parameters().items() if "lora_B" in name]
    assert points
    for parameter in points:
        torch.nn.init.zeros_(parameter)
    save(run, found.model, found.guide)
    with pytest.raises(ConfigError, match="score 'bald': expected draws that disagree on some item; got 3 that agree"):
        acquire_run(run, folder_of(finished) / "new.jsonl", 2, progress=False)


def test_fields_of_the_input_that_are_replaced_are_told(finished, tmp_path):
    rows = [{"text": "a warm day", "score": 5, "margin": 1}, {"text": "a dull film", "margin": 2, "line": "x"}]
    pool = tiny.write_jsonl(tmp_path / "pool.jsonl", rows)
    told = []
    answers = predict_run(finished.output, pool, progress=False, say=told.append)
    assert told == ["note: fields of the input are replaced: 'margin' (in 2 rows)"]
    assert [row.get("score") for row in answers] == [5, None] and answers[0]["margin"] < 1
    told.clear()
    chosen = acquire_run(finished.output, pool, 2, progress=False, say=told.append)
    assert told[1:] == ["note: fields of the input are replaced: 'line' (in 1 rows), 'score' (in 1 rows)"]
    assert sorted(row["line"] for row in chosen) == [1, 2]
