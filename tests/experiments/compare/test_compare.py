"""Comparisons on a tiny model: every row is a run that could have been made alone, and nothing is made twice."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil

import pyarrow.parquet as pq
import pytest
import tiny
from tiny_runs import make_config

from blob_pyro.cli import main
from blob_pyro.config.file import to_dict
from blob_pyro.config.methods import ABLATIONS, METHODS, SYSTEMS, choose
from blob_pyro.config.sections import TuneConfig
from blob_pyro.errors import ConfigError, NonFiniteLossError, RunDirectoryError
from blob_pyro.experiments.compare import compare
from blob_pyro.experiments.compare import runs as method_runs
from blob_pyro.report.page import read_run
from blob_pyro.report.page.naming import systems_of
from blob_pyro.runs.fit import fit_run, fit_with
from blob_pyro.runs.predict import predict_run
from blob_pyro.storage.directory import read_config, read_json

pytestmark = pytest.mark.slow


def silent(line: str) -> None:
    """No word."""


def quickly(config, methods, seeds=(0,)):
    """`compare` without a sound."""
    return compare(config, methods, seeds, progress=False, say=silent)


@pytest.fixture
def config(tmp_path):
    return make_config(tmp_path, data={"num_validation": 4}, output=str(tmp_path / "all"))


def test_every_method_makes_a_run_and_a_row(config, tmp_path):
    found = quickly(config, list(METHODS))
    assert found.failures == ()
    assert all(outcome[0] is not None for outcome in found.rows.values())
    rows = {row.removesuffix(" †").rsplit(" N=", 1)[0] for row in found.rows}
    assert rows == {method.title for method in METHODS.values()}
    marked = {row for row in found.rows if row.endswith("†")}
    assert len(marked) == sum(method.held_out * (1 + method.posterior_mean) for method in METHODS.values())
    assert "† also sees 4 held-out items" in found.text()
    assert (tmp_path / "all" / "comparison.md").read_text().strip() == found.text()
    assert (tmp_path / "all" / "comparison.png").stat().st_size > 0
    lines = list(csv.DictReader((tmp_path / "all" / "comparison.csv").read_text().splitlines()))
    assert {line["method"] for line in lines} == set(found.rows)
    systems = systems_of([read_run(tmp_path / "all" / name / "seed0") for name in METHODS])
    assert [system.name for system in systems] == [method.title for method in METHODS.values()]


def test_a_row_is_the_run_made_alone(config, tmp_path):
    """BLoB's and plain LoRA's rows equal `fit_run` of their configurations, whatever ran before them."""
    found = quickly(config, ["mle", "tfb", "blob"], seeds=(3, 1))
    for name, row in (("mle", "MLE (plain LoRA)"), ("blob", "BLoB N=2")):
        for seed in (3, 1):
            alone = dataclasses.replace(
                METHODS[name].configure(config), seed=seed, output=str(tmp_path / f"{name}{seed}")
            )
            metrics = fit_run(alone, progress=False, say=silent).metrics
            assert found.rows[row][seed].metrics == list(metrics.values())[-1]


def test_post_hoc_methods_leave_the_adapter_that_they_start_from(config, tmp_path):
    quickly(config, ["laplace", "tfb", "temperature", "blob_temperature"])
    pairs = {"laplace": "map", "tfb": "mle", "temperature": "mle", "blob_temperature": "blob"}
    for name, base in pairs.items():
        own, start = (
            (tmp_path / "all" / part / "seed0" / "adapter" / "adapter_model.safetensors").read_bytes()
            for part in (name, base)
        )
        assert own == start, name


def test_the_temperature_is_the_one_of_the_run(config, tmp_path):
    found = quickly(config, ["temperature"])
    cost = read_json(tmp_path / "all" / "temperature" / "seed0" / "cost.json")
    assert cost["temperature_N=0"] > 0
    tempered, plain = (found.rows[row][0].metrics for row in ("MLE + temperature †", "MLE (plain LoRA)"))
    assert tempered.accuracy == plain.accuracy and tempered.nll != plain.nll
    run = tmp_path / "all" / "temperature" / "seed0"
    answers = predict_run(run, config.data.test_file, progress=False)
    stored = pq.read_table(run / "predictions.parquet").column("probabilities").to_pylist()
    assert [answer["probabilities"] for answer in answers] == stored


def test_what_is_done_is_not_done_again(config, monkeypatch, tmp_path):
    first = quickly(config, ["mle", "blob"])
    shutil.rmtree(tmp_path / "all" / "blob" / "seed0" / "predictions.parquet", ignore_errors=True)
    (tmp_path / "all" / "blob" / "seed0" / "metrics.json").unlink()  # as after a crash
    made = []

    def counted(wanted, console, **named):
        made.append((wanted.guide.name, wanted.seed))
        return fit_with(wanted, console, **named)

    monkeypatch.setattr(method_runs, "fit_with", counted)
    again = quickly(config, ["mle", "blob"], seeds=(0, 1))
    assert made == [("blob", 0), ("mle", 1), ("blob", 1)]
    for row, by_seed in first.rows.items():
        assert again.rows[row][0].metrics == by_seed[0].metrics


def test_a_tuned_comparison_marks_what_was_tuned_and_goes_on_with_its_trials(config, tmp_path, monkeypatch):
    wanted = dataclasses.replace(config, tune=TuneConfig(search=True, num_trials=2))
    first = quickly(wanted, ["mle", "tfb", "ensemble", "blob", "blob_temperature"])
    tuned = {"MLE (plain LoRA) †", "TFB †", "BLoB N=0 †", "BLoB N=2 †", "BLoB + temperature †"}
    assert set(first.rows) == {*tuned, "Ensemble"}  # TFB starts from a tuned adapter
    run = tmp_path / "all" / "blob" / "seed0"
    cost = read_json(run / "cost.json")
    assert first.rows["BLoB N=2 †"][0].seconds == cost["train_seconds"] + cost["tune_seconds"]
    trials = (run / "tuning.jsonl").read_text()
    (run / "metrics.json").unlink()  # as after a crash
    monkeypatch.setattr("blob_pyro.runs.tune._held_out_nlls", lambda *args: pytest.fail("a trial was repeated"))
    again = quickly(wanted, ["blob"])
    assert again.rows["BLoB N=2 †"][0].metrics == first.rows["BLoB N=2 †"][0].metrics
    assert (run / "tuning.jsonl").read_text() == trials


def test_runs_of_another_configuration_are_not_taken_for_these(config, tmp_path):
    quickly(config, ["mle"])
    other = dataclasses.replace(config, train=dataclasses.replace(config.train, num_steps=5))
    with pytest.raises(
        RunDirectoryError,
        match="its run was made with; train.num_steps 4, now 5: go on with the same, or choose another",
    ):
        quickly(other, ["mle"])
    assert read_config(tmp_path / "all" / "mle" / "seed0").train.num_steps == config.train.num_steps


def test_a_run_that_fails_is_told_and_left_out(config, monkeypatch, tmp_path, capsys):
    def failing(wanted, console, **named):
        if wanted.guide.name == "blob":
            raise NonFiniteLossError("step 1: expected a finite NLL; got nan", ())
        return fit_with(wanted, console, **named)

    monkeypatch.setattr(method_runs, "fit_with", failing)
    found = quickly(config, ["mle", "blob", "blob_temperature"])
    assert found.failures == (
        "blob, seed 0: step 1: expected a finite NLL; got nan",
        "blob_temperature, seed 0: expected the run of blob that it starts from; that one has not ended well",
    )
    assert found.rows["BLoB N=2"] == {0: None}
    assert "Missing runs: BLoB N=0 (seed 0), BLoB N=2 (seed 0)" in found.text()
    assert "Failed: blob, seed 0: step 1: expected a finite NLL; got nan." in found.text()
    tiny.write_yaml(tmp_path / "c.yaml", to_dict(config))
    assert main(["compare", str(tmp_path / "c.yaml"), "--methods", "mle,blob", "--seeds", "0", "--quiet"]) == 1
    assert capsys.readouterr().err.endswith("error: 1 runs failed, the first: " + found.failures[0] + "\n")


@pytest.mark.parametrize(
    ("methods", "seeds", "message"),
    [
        (["blobb"], (0,), "methods: expected some of mle, map, "),
        ([], (0,), "got none"),
        (["mle"], (), "seeds: expected at least one, each once; got []"),
        (["mle"], (1, 1), "seeds: expected at least one, each once"),
    ],
)
def test_mistakes_are_told_before_anything_runs(config, tmp_path, methods, seeds, message):
    with pytest.raises(ConfigError) as told:
        quickly(config, methods, seeds)
    assert message in str(told.value)
    assert not (tmp_path / "all").exists()


def test_held_out_items_must_be_there(tmp_path):
    with pytest.raises(ConfigError, match="method temperature: expected held-out items; set data.num_validation"):
        quickly(make_config(tmp_path), ["temperature"])


def test_what_a_method_starts_from_comes_before_it():
    for names in (SYSTEMS, ABLATIONS, list(METHODS)):
        order = [method.name for method in choose(names)]
        assert len(set(order)) == len(order)
        for method in choose(names):
            assert method.after is None or order.index(method.after) < order.index(method.name)


def test_the_command_prints_the_table(tmp_path, capsys):
    path = tiny.write_yaml(tmp_path / "my.yaml", tiny.settings(tmp_path, tiny.llama(), output=str(tmp_path / "all")))
    assert main(["compare", str(path), "--methods", "mle,blob", "--seeds", "0,1", "--quiet"]) == 0
    out = capsys.readouterr().out
    assert (tmp_path / "all" / "comparison.md").read_text().strip() in out
    assert json.loads((tmp_path / "all" / "blob" / "seed1" / "metrics.json").read_text()).keys() == {"N=0", "N=2"}
    assert main(["compare", str(path), "--seeds", "one"]) == 2
    assert "--seeds: expected whole numbers, separated by commas; got 'one'" in capsys.readouterr().err
