"""`--tune`: which trial is taken follows from the held-out items alone, and the run is the one that was chosen."""

from __future__ import annotations

import dataclasses
import json
import math
import random
import shutil
from pathlib import Path

import pytest
import tiny
from tiny_runs import adapter_bytes, make_config

from blob_pyro.cli import main
from blob_pyro.config.methods import METHODS
from blob_pyro.config.sections import DataConfig, ModelConfig, RunConfig, TrainConfig, TuneConfig
from blob_pyro.errors import ConfigError, NonFiniteLossError, RunDirectoryError
from blob_pyro.evaluation import evaluate
from blob_pyro.guides import GUIDES
from blob_pyro.runs import build, item_kinds
from blob_pyro.runs.answerer import predict_items
from blob_pyro.runs.evaluate import evaluate_run
from blob_pyro.runs.fit import fit_run
from blob_pyro.runs.predict import predict_run
from blob_pyro.runs.tuning import (
    Measured,
    TrialLog,
    choices,
    paired_difference,
    search,
    settings_of,
    tunes,
    with_settings,
)
from blob_pyro.storage.directory import read_config, read_json
from blob_pyro.storage.saving import load
from blob_pyro.system.terminal import SILENT
from blob_pyro.training.kl_rate import WIDEST, default_width
from blob_pyro.training.making import kl_width

pytestmark = pytest.mark.slow

TASK = RunConfig(DataConfig(task="tweets"), train=TrainConfig(kl_lr=0.01), tune=TuneConfig(search=True))
NOTHING = 1e9  # a margin that no trial beats


def silent(line: str) -> None:
    """No word."""


def tuned(config: RunConfig, **settings) -> RunConfig:
    """`config` with the search on."""
    return dataclasses.replace(config, tune=TuneConfig(search=True, **settings))


def run(config: RunConfig, say=silent):
    """`fit_run` without a bar."""
    return fit_run(config, progress=False, say=say)


@pytest.fixture
def config(tmp_path):
    """A quick run whose search takes whatever is lower at all."""
    return tuned(make_config(tmp_path, data={"num_validation": 4}, train={"kl_lr": 0.003}), num_trials=6, margin=0.0)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished tuned run: its configuration and result, and what was said."""
    folder = tmp_path_factory.mktemp("tuning")
    config = make_config(folder, data={"num_validation": 4}, train={"kl_lr": 0.003}, predict={"num_samples": 3})
    config, said = tuned(config, num_trials=6, margin=0.0), []
    return config, run(config, said.append), said


# --- the search, on functions whose best is known ---


class Bowl:
    """Held-out NLLs that grow with the distance of the settings from a known best, the same noise in every trial."""

    def __init__(self, best, num_blocks: int = 8, num_items: int = 20) -> None:
        self.best, self.num_blocks, self.seen = best, num_blocks, []
        noise = random.Random(0)
        self.noise = [noise.gauss(1.0, 0.5) for _ in range(num_items)]
        self.slope = [1.0 + 0.1 * noise.random() for _ in range(num_items)]

    def __call__(self, config: RunConfig) -> Measured:
        self.seen.append(settings_of(config))
        off = sum(abs(math.log(self.number(config, key) / value)) for key, value in self.best.items())
        nlls = tuple(noise + slope * off for noise, slope in zip(self.noise, self.slope, strict=True))
        return Measured(nlls, self.num_blocks, 1.0)

    def number(self, config: RunConfig, key: str) -> float:
        value = settings_of(config)[key]
        if key == "train.kl_width":
            return kl_width(config.train, 100)
        return (self.num_blocks if value is None else len(value)) if key.endswith("layers") else value


@pytest.mark.parametrize(
    "best",
    [
        {"train.kl_lr": 0.27},
        {"train.kl_lr": 0.00111},
        {"model.prior_scale": 0.05},
        {"train.kl_lr": 0.03, "model.prior_scale": 0.8, "train.num_steps": 1250, "model.bayesian_layers": 2},
        {"train.kl_lr": 0.01},
    ],
)
def test_the_search_climbs_to_the_best_on_its_ladders(best):
    config = dataclasses.replace(TASK, tune=TuneConfig(search=True, num_trials=40))
    bowl = Bowl(best)
    found = search(config, bowl, num_data=100, say=silent)
    for key, value in best.items():
        assert bowl.number(found.config, key) == pytest.approx(value)
    untouched = set(settings_of(TASK)) - set(best)
    assert all(found.chosen.settings[key] == settings_of(TASK)[key] for key in untouched)
    assert len({json.dumps(settings) for settings in bowl.seen}) == len(bowl.seen), "a trial was repeated"


def test_the_search_is_its_naive_twin():
    """The rule as a plain loop: each trial differs from the best before it in one setting, and is judged by pairs."""
    for margin in (0.0, 1.0, 3.0):
        noise = random.Random(7)

        def measure(config, noise=noise):
            return Measured(tuple(noise.gauss(1.0, 0.3) for _ in range(10)), 4, 0.0)

        found = search(dataclasses.replace(TASK, tune=TuneConfig(True, 30, margin)), measure, num_data=100, say=silent)
        best = found.trials[0]
        for trial in found.trials[1:]:
            differences = [a - b for a, b in zip(trial.measured.nlls, best.measured.nlls, strict=True)]
            mean = sum(differences) / 10
            error = math.sqrt(sum((d - mean) ** 2 for d in differences) / 9 / 10)
            assert (trial.difference, trial.difference_se) == pytest.approx((mean, error))
            assert trial.taken == (mean < -margin * error)
            assert {key for key in trial.settings if trial.settings[key] != best.settings[key]} == {trial.changed}
            best = trial if trial.taken else best
        assert found.chosen is best and settings_of(found.config) == best.settings
        assert found.chosen.nll == min(trial.nll for trial in found.trials if trial.taken)


def test_no_more_trials_than_asked_for_and_none_is_lost_on_a_flat_function():
    bowl = Bowl({})
    found = search(TASK, bowl, num_data=100, say=silent)
    assert found.changes == {} and len(bowl.seen) == 7  # itself, two KL rates, two prior scales, steps, layers
    assert found.text() == "tuned in 7 trials: the configuration's own settings stay"
    for num_trials in (1, 2, 5):
        bowl = Bowl({"train.kl_lr": 100.0})
        search(dataclasses.replace(TASK, tune=TuneConfig(True, num_trials)), bowl, num_data=100, say=silent)
        assert len(bowl.seen) == num_trials


def test_a_trial_that_fails_is_never_taken_and_anything_beats_it():
    def failing(rates):
        def measure(config):
            good = config.train.kl_lr not in rates
            return Measured((1.0, 2.0) if good else None, 1, 0.0)

        return measure

    said = []
    assert search(TASK, failing({0.03, 0.00333}), num_data=100, say=said.append).changes == {}
    assert "tune 3/8: train.kl_lr 0.03: training failed, the loss was not finite" in said
    found = search(TASK, failing({0.01}), num_data=100, say=silent)
    assert found.changes == {"train.kl_lr": 0.03}
    assert found.to_dict()["trials"][0]["nll"] is None and json.dumps(found.to_dict(), allow_nan=False)


def test_a_width_that_is_left_to_the_rule_is_each_trials_own():
    """Of other steps the rule makes another width, and of another prior scale another rate; a chosen one stays."""
    config = dataclasses.replace(TASK, train=TrainConfig(num_steps=400))
    bowl = Bowl({"train.num_steps": 200})
    found = search(config, bowl, num_data=100, say=silent)
    assert found.changes == {"train.num_steps": 200} and found.config == with_settings(config, found.changes)
    widths = [settings["train.kl_width"] for settings in bowl.seen]
    time = math.atanh(default_width(100, 4, 200))
    assert [width for width in widths if width] == pytest.approx(
        [min(WIDEST, math.tanh(2 * time)), math.tanh(time / 2)], abs=1e-3
    )
    bowl = Bowl({"train.kl_width": 0.9})
    found = search(config, bowl, num_data=100, say=silent)
    assert list(found.changes) == ["train.kl_width"] and found.config.train.kl_width > 0.8


def test_one_item_shows_nothing():
    def measure(config):
        return Measured((config.train.num_steps / 1e3,), 4, 0.0)

    assert search(TASK, measure, num_data=100, say=silent).changes == {}
    assert math.isnan(paired_difference([1.0], [2.0])[1])


def test_settings_go_in_and_come_out():
    settings = settings_of(TASK) | {"train.kl_lr": 0.5, "model.bayesian_layers": [-1]}
    changed = with_settings(TASK, settings)
    assert settings_of(changed) == settings
    assert with_settings(changed, settings_of(TASK)) == TASK
    elbo = dataclasses.replace(TASK, train=dataclasses.replace(TASK.train, recipe="elbo"))
    assert choices(elbo, 8, 100)[1].key == "train.kl_weight" in settings_of(elbo)


def test_blocks_that_the_configuration_names_stay():
    keys = [choice.key for choice in choices(TASK, 8, 100)]
    assert keys == ["train.num_steps", "train.kl_lr", "model.prior_scale", "model.bayesian_layers"]
    for model in (ModelConfig(bayesian_layers=[-1]), ModelConfig(adapter="folder")):
        assert [choice.key for choice in choices(dataclasses.replace(TASK, model=model), 8, 100)] == keys[:-1]
    assert [choice.key for choice in choices(TASK, 0, 100)] == keys[:-1]


def test_without_a_kl_there_is_no_rate_to_search():
    none = with_settings(TASK, {"train.kl_lr": 0.0})
    assert all(step(settings_of(none)) is None for step in choices(none, 8, 100)[1].directions)


# --- the search, in a run ---


def test_a_trial_is_the_run_with_its_settings(finished, tmp_path):
    """Every trial's NLL: `fit_run` with those settings and without a search, on the held-out items as test items."""
    config, result, _ = finished
    data = build.load_data(config)
    found = read_json(result.path / "tuning.json")
    assert len(found["trials"]) == config.tune.num_trials
    for position, trial in enumerate(found["trials"]):
        plain = dataclasses.replace(config, tune=TuneConfig(), output=str(tmp_path / str(position)))
        alone = run(with_settings(plain, trial["settings"]))
        loaded = load(alone.path)
        items = build.encode_task(data, loaded.model, config).validation
        metrics = evaluate(predict_items(loaded, items, config, config.predict.num_samples, SILENT))
        assert (trial["nll"], trial["nll_se"]) == pytest.approx((metrics.nll, metrics.nll_se))
        if trial["settings"] == found["chosen"]:  # the tuned run is that run
            assert adapter_bytes(alone.path) == adapter_bytes(result.path)
            assert alone.metrics == result.metrics
            assert (alone.path / "history.jsonl").read_text() == (result.path / "history.jsonl").read_text()
    assert found["chosen"] != found["asked"], "choose a configuration for which the search finds something"


def test_the_run_keeps_what_was_asked_and_answers_with_what_was_chosen(finished, tmp_path):
    config, result, said = finished
    assert read_config(result.path) == config
    chosen = read_json(result.path / "tuning.json")["chosen"]
    model = load(result.path).model
    assert model.prior_scale == chosen["model.prior_scale"]
    assert model.bayesian_layers == chosen["model.bayesian_layers"]
    copy = shutil.copytree(result.path, tmp_path / "copy")
    assert evaluate_run(copy, progress=False).metrics == result.metrics
    answers = predict_run(copy, config.data.test_file, progress=False)
    expected = result.predictions["N=3"].probs.tolist()
    assert [list(answer["probabilities"].values()) for answer in answers] == expected
    cost = read_json(result.path / "cost.json")
    assert cost["tune_seconds"] > 0 and cost["train_seconds"] > 0
    lines = [line for line in said if line.startswith("tune ")]
    assert len(lines) == config.tune.num_trials and lines[0].startswith("tune 1/6: as configured: held-out NLL ")
    assert any(line.startswith("tuned in 6 trials: --") for line in said)


def test_where_nothing_is_taken_the_run_is_the_untuned_one(config, tmp_path):
    plain = run(dataclasses.replace(config, tune=TuneConfig(), output=str(tmp_path / "plain")))
    same = run(tuned(config, num_trials=3, margin=NOTHING))
    assert adapter_bytes(same.path) == adapter_bytes(plain.path)
    assert (same.path / "posterior.safetensors").read_bytes() == (plain.path / "posterior.safetensors").read_bytes()
    assert same.metrics == plain.metrics


def test_no_test_item_is_looked_at(config, tmp_path):
    quick = dataclasses.replace(config, tune=TuneConfig(True, 3, 0.0))
    other = tiny.write_jsonl(tmp_path / "other.jsonl", tiny.items(9, seed=5))
    elsewhere = dataclasses.replace(
        quick, data=dataclasses.replace(quick.data, test_file=str(other)), output=str(tmp_path / "elsewhere")
    )
    first, second = (read_json(run(each).path / "tuning.json") for each in (quick, elsewhere))
    for found in (first, second):
        for trial in found["trials"]:
            del trial["seconds"]
    assert first == second


@pytest.mark.parametrize("guide", sorted(name for name, guide in GUIDES.items() if guide.learns_prior_scale))
def test_every_variational_guide_can_be_tuned(tmp_path, guide):
    config = make_config(tmp_path, guide={"name": guide}, data={"num_validation": 3})
    result = run(tuned(config, num_trials=2))
    assert len(read_json(result.path / "tuning.json")["trials"]) == 2


def test_an_interrupted_search_goes_on_and_repeats_nothing(config, tmp_path, monkeypatch):
    whole = run(dataclasses.replace(config, output=str(tmp_path / "whole")))
    made, predict = [], item_kinds.predict_items

    def stopping(*args):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(args)
        return predict(*args)

    monkeypatch.setattr(item_kinds, "predict_items", stopping)
    with pytest.raises(KeyboardInterrupt, match="run holds 2 trials; the same command goes on"):
        run(config)
    monkeypatch.undo()
    lines = (tmp_path / "run" / "tuning.jsonl").read_text()
    other = dataclasses.replace(config, seed=1)
    with pytest.raises(RunDirectoryError, match="it holds a run"):
        run(other)
    with (tmp_path / "run" / "tuning.jsonl").open("a") as file:
        file.write('{"settings": {"train.k')  # as a crash leaves it
    again = run(config)
    assert (again.path / "tuning.jsonl").read_text().startswith(lines)
    assert len((again.path / "tuning.jsonl").read_text().splitlines()) == config.tune.num_trials + 1
    assert again.metrics == whole.metrics and adapter_bytes(again.path) == adapter_bytes(whole.path)
    with pytest.raises(RunDirectoryError, match="it holds a run"):
        run(config)


def test_a_run_that_broke_after_the_search_keeps_its_trials(finished, tmp_path):
    config, result, _ = finished
    path = shutil.copytree(result.path, tmp_path / "run")
    log = TrialLog(path, lambda config: pytest.fail("a trial was repeated"))
    assert search(config, log, num_data=100, say=silent).to_dict() == read_json(result.path / "tuning.json")
    assert not (path / "tuning_checkpoints").exists()


def test_an_interrupt_before_the_first_training_leaves_nothing(config, tmp_path, monkeypatch):
    def interrupted(*args, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr(build, "build_guide", interrupted)
    with pytest.raises(KeyboardInterrupt, match="nothing was saved"):
        run(config)
    assert not (tmp_path / "run").exists()


def test_a_trial_whose_loss_is_not_finite_does_not_end_the_search(config):
    """With a learning rate that no other setting mends all trials fail, and the run fails as it does untuned."""
    broken = dataclasses.replace(config, train=dataclasses.replace(config.train, lr=1e38, num_steps=50))
    with pytest.raises(NonFiniteLossError, match="holds the parameters before step"):
        run(dataclasses.replace(broken, tune=TuneConfig(True, 3)))
    trials = read_json(Path(config.output) / "tuning.json")["trials"]
    assert [trial["nll"] for trial in trials] == [None, None, None]


# --- mistakes and the command line ---


def test_mistakes_are_told_before_anything_is_loaded(tmp_path):
    missing = tuned(make_config(tmp_path, network=tmp_path / "none"))
    with pytest.raises(ConfigError, match="tune: expected held-out items to choose by; got none; set data.num_val"):
        run(missing)
    several = tuned(make_config(tmp_path, guide={"name": "ensemble"}, data={"num_validation": 4}))
    message = (
        r"tune: expected a guide that one training makes "
        r"\(blob, dropout, low_rank, map, mean_field, mle, scalabl\); got 'ensemble'"
    )
    with pytest.raises(ConfigError, match=message):
        run(several)
    with pytest.raises(ConfigError, match="tune.num_trials: expected at least 1 trial; got 0"):
        TuneConfig(num_trials=0)
    with pytest.raises(ConfigError, match=r"tune.margin: expected a number of at least 0; got -1"):
        TuneConfig(margin=-1)


def test_methods_that_cannot_be_tuned_are_left_as_they_are():
    for method in METHODS.values():
        configured = method.configure(TASK)
        assert configured.tune.search == tunes(configured)
    assert METHODS["blob_tuned"].configure(RunConfig(DataConfig(task="tweets"))).tune.search


def test_the_command_takes_one_flag(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = tiny.settings(tmp_path, tiny.llama(), data={"num_validation": 4}, tune={"num_trials": 2})
    path = tiny.write_yaml(tmp_path / "my.yaml", settings)
    assert main(["fit", str(path), "--tune", "--quiet"]) == 0
    assert "tune 2/2: train.num_steps " in capsys.readouterr().out
    assert read_config(tmp_path / "run").tune == TuneConfig(search=True, num_trials=2)
    words = ["fit", str(path), "--data.num_validation", "0", "--output", "other", "--quiet", "--tune"]
    assert main(words) == 2
    assert "tune: expected held-out items to choose by" in capsys.readouterr().err
