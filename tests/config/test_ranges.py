"""Every number of a configuration has a range, which holds its default, and is one line beyond it."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest

import blob_pyro as bp
from blob_pyro.config.ranges import RANGES, check_range
from blob_pyro.config.sections import GuideConfig, PredictConfig, RunConfig, TrainConfig, TuneConfig
from blob_pyro.errors import ConfigError
from blob_pyro.guides import GUIDES
from blob_pyro.guides.settings import KEYS, check_settings, types_of

SECTIONS = {"data": bp.DataConfig, "model": bp.ModelConfig, "train": TrainConfig, "predict": PredictConfig,
            "tune": TuneConfig}  # fmt: skip
MEANT_FOR_OTHERS = {"model.device_map"}  # a device's number, which it checks itself
BESIDE = {"train.kl_width": {}, "train.patience": {"eval_steps": 1}}


def numbers(kind: Any) -> bool:
    """Whether a type has numbers in it."""
    return kind in (int, float) or (kind is not bool and any(map(numbers, get_args(kind))))


def make(key: str, value: Any) -> object:
    """The section, or the guide, with a value at a key."""
    section, _, name = key.rpartition(".")
    if section == "guide":
        return check_settings(GuideConfig(next(g for g in GUIDES if name in types_of(g)), **{name: value}))
    data = bp.DataConfig(task="tweets")
    if not section:
        return RunConfig(data, **{name: value})
    beside = {"task": "tweets"} if section == "data" else BESIDE.get(key, {})
    lists = "list" in str(KEYS[key])
    return SECTIONS[section](**beside, **{name: [value, value] if lists else value})


def test_every_number_has_a_range():
    assert {key for key, kind in KEYS.items() if numbers(kind)} - MEANT_FOR_OTHERS == set(RANGES)


@pytest.mark.parametrize("key", RANGES)
def test_ends_of_a_range_work_and_what_lies_beyond_is_one_line(key):
    lowest, highest = RANGES[key]
    whole = int in (KEYS[key], *get_args(KEYS[key])) or "list[int]" in str(KEYS[key])
    open_ends = (0.0, 1.0)  # where only what lies between them is a share, or above 0
    for value in (lowest, highest):
        if whole or value not in open_ends:
            make(key, value)
    beyond = [lowest - 1, highest + 1, 2**62] if whole else [-1.0, 1.01 * highest, 1e300, math.inf, math.nan]
    for value in beyond:
        with pytest.raises(ConfigError, match=rf"^{key.replace('.', '[.]')}: expected ") as refused:
            make(key, value)
        assert "\n" not in str(refused.value)


def test_the_words():
    with pytest.raises(ConfigError, match=r"^x: expected a whole number from 0 to 4294967295; got -1$"):
        check_range("x", -1, 0, 2**32 - 1)
    with pytest.raises(ConfigError, match=r"^x: expected a number from 1e-06 to 1000000; got 1e-30$"):
        check_range("x", [1.0, 1e-30], 1e-6, 1e6)
