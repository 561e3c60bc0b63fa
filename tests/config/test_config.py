"""Settings check themselves; configuration files are read key by key; the examples parse."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import math
import pickle
from pathlib import Path

import pytest
import tiny
import yaml
from jsonargparse import ArgumentParser

import blob_pyro as bp
from blob_pyro.config.file import check_file, unknown_key
from blob_pyro.config.types import expected_type, fits
from blob_pyro.data.tasks.load import TASKS
from blob_pyro.errors import ConfigError
from blob_pyro.guides.settings import KEYS

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
OWN = {"train_file": "a.jsonl", "prompt": "{text}", "labels": [" a", " b"]}


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (bp.ModelConfig, {"id": ""}, "model.id: expected a hub id, a folder or an alias; got ''"),
        (bp.ModelConfig, {"r": 0}, "model.r: expected a rank of at least 1; got 0"),
        (bp.ModelConfig, {"lora_alpha": 0}, "model.lora_alpha: expected a number above 0; got 0"),
        (bp.ModelConfig, {"lora_dropout": 1.0}, "model.lora_dropout: expected a share in [0, 1); got 1.0"),
        (bp.ModelConfig, {"label_smoothing": 1.0}, "model.label_smoothing: expected a share in [0, 1); got 1.0"),
        (
            bp.ModelConfig,
            {"class_weights": [1.0, 0.0]},
            "model.class_weights: expected numbers above 0; got [1.0, 0.0]",
        ),
        (bp.ModelConfig, {"prior_scale": math.inf}, "model.prior_scale: expected a number above 0; got inf"),
        (bp.ModelConfig, {"target_modules": []}, "model.target_modules: expected at least one name, or null; got []"),
        (bp.DataConfig, {}, "got neither: data.train_file, data.prompt missing"),
        (bp.DataConfig, {"task": "tweets"} | OWN, "got task and data.train_file, data.prompt, data.labels"),
        (bp.DataConfig, OWN | {"labels": [" a"]}, "data.labels: expected at least two labels; got [' a']"),
        (bp.DataConfig, OWN | {"num_train": 0}, "data.num_train: expected a count of at least 1, or null; got 0"),
        (bp.DataConfig, OWN | {"data_dir": "x"}, "data.data_dir: expected none without data.task; got 'x'"),
        (bp.DataConfig, OWN | {"num_test": -1}, "data.num_test: expected a count of at least 1, or null; got -1"),
        (bp.DataConfig, OWN | {"max_length": 1}, "data.max_length: expected at least 2 tokens; got 1"),
        (bp.TrainConfig, {"num_steps": 0}, "train.num_steps: expected at least 1 step; got 0"),
        (bp.TrainConfig, {"batch_size": 0}, "train.batch_size: expected at least 1 item; got 0"),
        (bp.TrainConfig, {"lr": math.nan}, "train.lr: expected a number above 0; got nan"),
        (bp.TrainConfig, {"adam_eps": 0}, "train.adam_eps: expected a number above 0; got 0"),
        (bp.TrainConfig, {"weight_decay": -1}, "train.weight_decay: expected a number of at least 0; got -1"),
        (bp.TrainConfig, {"kl_lr": math.inf}, "train.kl_lr: expected a number of at least 0; got inf"),
        (bp.TrainConfig, {"kl_weight": -1}, "train.kl_weight: expected a number of at least 0; got -1"),
        (bp.TrainConfig, {"kl_cycle": 0}, "train.kl_cycle: expected at least 1 step, or null; got 0"),
        (bp.TrainConfig, {"warmup_ratio": 1.1}, "train.warmup_ratio: expected a share in [0, 1]; got 1.1"),
        (bp.PredictConfig, {"num_samples": -1}, "predict.num_samples: expected at least 0 draws; got -1"),
        (bp.PredictConfig, {"batch_size": 0}, "predict.batch_size: expected at least 1 item; got 0"),
        (bp.TuneConfig, {"num_trials": 0}, "tune.num_trials: expected at least 1 trial; got 0"),
        (bp.TuneConfig, {"margin": math.inf}, "tune.margin: expected a number of at least 0; got inf"),
        (bp.PredictConfig, {"max_tokens": 0}, "predict.max_tokens: expected at least 1 token, or null; got 0"),
    ],
)
def test_a_setting_out_of_range_is_refused_where_it_is_made(kind, settings, message):
    with pytest.raises(ConfigError) as told:
        kind(**settings)
    assert message in str(told.value)


def test_settings_are_frozen():
    config = bp.RunConfig(bp.DataConfig(task="tweets"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.seed = 1
    with pytest.raises(ConfigError, match="seed: expected a whole number from 0"):
        dataclasses.replace(config, seed=-1)


def test_the_defaults_are_the_papers():
    train, model = bp.TrainConfig(), bp.ModelConfig()
    assert (train.lr, train.adam_eps, train.weight_decay, train.kl_lr) == (1e-4, 1e-6, 0.0, None)
    assert (train.num_steps, train.batch_size, train.warmup_ratio) == (5000, 4, 0.06)
    assert (model.r, model.lora_alpha, model.prior_scale) == (8, 16, 0.2)
    assert bp.GuideConfig().settings == {} and inspect.signature(bp.BLoBGuide).parameters["eps"].default == 0.05
    assert bp.PredictConfig().num_samples == 10


def test_every_key_has_words_for_its_type():
    for key, kind in KEYS.items():
        assert "<" not in expected_type(kind) and "typing" not in expected_type(kind), key


def test_unknown_keys_get_the_nearest_name():
    assert unknown_key("modle", KEYS).endswith("did you mean model?")
    assert unknown_key("num_steps", KEYS).endswith("did you mean train.num_steps?")
    assert unknown_key("tune.x", KEYS).startswith("tune.x: no such key; tune has search, ")
    assert unknown_key("guide.nix", KEYS).startswith("guide.nix: no such key; guide has name, ")
    assert unknown_key("zzz", KEYS).endswith("expected one of data, model, guide, train, predict, tune, seed, output")


def test_a_guide_configuration_is_a_record():
    """It can be copied with changes, compared, hashed and pickled."""
    guide = bp.GuideConfig("blob", eps=0.1, scale="softplus")
    assert dataclasses.replace(guide) == guide == bp.GuideConfig("blob", {"scale": "softplus"}, eps=0.1)
    assert dataclasses.replace(guide, name="low_rank") == bp.GuideConfig("low_rank", eps=0.1, scale="softplus")
    assert hash(guide) == hash(bp.GuideConfig("blob", scale="softplus", eps=0.1)) != hash(bp.GuideConfig("blob"))
    assert pickle.loads(pickle.dumps(guide)) == copy.deepcopy(guide) == guide


def test_check_file_returns_the_mapping(tmp_path):
    raw = {"data": {"task": "tweets"}, "seed": 3}
    assert check_file(tiny.write_yaml(tmp_path / "a.yaml", raw), KEYS) == raw


@pytest.mark.parametrize("name", [name for name in KEYS if name not in bp.RunConfig.__dataclass_fields__] + ["seed"])
def test_null_is_a_value_or_refused_in_one_line(tmp_path, name):
    """YAML's `key:` and `key: null`: where null means nothing, it says what would."""
    section, _, key = name.rpartition(".")
    path = tiny.write_yaml(tmp_path / "a.yaml", {section: {key: None}} if section else {name: None})
    if fits(None, KEYS[name]):
        check_file(path, KEYS)
    else:
        with pytest.raises(ConfigError, match=rf"a\.yaml: {name}: expected .*; got null: leave it out") as told:
            check_file(path, KEYS)
        assert "\n" not in str(told.value)


OWN_PROMPTS = ("Review: {text}\nSentiment:", "Question: {question}\nAnswer:")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_example_configurations_parse(path):
    check_file(path, KEYS)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(bp.RunConfig)
    parsed = parser.instantiate(parser.parse_args(["--config", str(path)]))
    assert parsed.data.task in TASKS or parsed.data.prompt in OWN_PROMPTS
    assert parsed.output == f"runs/{path.stem}"
    assert yaml.safe_load(path.read_text())["train"]["lr"] == parsed.train.lr


def test_there_are_examples_for_a_task_for_own_data_and_for_texts():
    assert [path.name for path in EXAMPLES] == [
        "compare.yaml",
        "completions.yaml",
        "own_data.yaml",
        "task.yaml",
        "task_encoder.yaml",
        "tweets.yaml",
    ]
