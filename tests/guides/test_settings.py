"""A guide owns its settings: their names, types and ranges are its constructor's, wherever they are read."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest

import blob_pyro as bp
from blob_pyro.config.file import to_dict
from blob_pyro.errors import ConfigError
from blob_pyro.guides import GUIDES
from blob_pyro.guides.settings import KEYS, TYPES, check_settings, describe_settings, types_of


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("blob", {"eps": 0}, "guide.eps: expected a number above 0; got 0"),
        ("blob", {"eps": math.nan}, "guide.eps: expected a finite number; got nan"),
        ("blob", {"eps": "wide"}, "guide.eps: expected a finite number; got wide"),
        ("blob", {"scale": "cube"}, "guide.scale: expected one of 'square', 'softplus'; got cube"),
        ("blob", {"rank": 4}, "guide.rank: expected a setting of the guide 'blob', which has eps, scale"),
        (
            "blob",
            {"epss": 4},
            "guide.epss: expected a setting of the guide 'blob', which has eps, scale; did you mean eps?",
        ),
        ("mle", {"eps": 0.1}, "guide.eps: expected a setting of the guide 'mle', which has none"),
        ("dropout", {"p": 1.0}, "guide.p: expected a probability between 0 and 1; got 1.0"),
        ("ensemble", {"num_members": 1}, "guide.num_members: expected at least 2 members; got 1"),
        ("ensemble", {"num_members": 2.5}, "guide.num_members: expected a whole number; got 2.5"),
        ("low_rank", {"rank": 0}, "guide.rank: expected at least 1 direction; got 0"),
        ("low_rank", {"rank": 2**70}, "guide.rank: expected a whole number; got 1180591620717411303424"),
        ("laplace", {"prior_precision": "guess"}, "guide.prior_precision: expected one of 'evidence', 'held_out'; got"),
        ("tfb", {"tolerance": -1.0}, "guide.tolerance: expected a relative change above 0; got -1.0"),
        ("bolb", {}, "guide.name: expected one of blob, dropout, .*; got 'bolb'; did you mean blob?"),
    ],
)
def test_what_cannot_work_is_refused(name: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_settings(bp.GuideConfig(name, **settings))


@pytest.mark.parametrize("name", GUIDES)
def test_its_own_defaults_can_work(name: str) -> None:
    defaults = {
        setting: parameter.default
        for setting, parameter in inspect.signature(GUIDES[name]).parameters.items()
        if setting in types_of(name)
    }
    check_settings(bp.GuideConfig(name, **defaults))
    assert set(defaults) == set(types_of(name))
    assert set(GUIDES[name].ranges) <= set(inspect.signature(GUIDES[name]).parameters)


def test_one_name_has_one_type_and_words() -> None:
    for name in GUIDES:
        assert all(TYPES[setting] == kind for setting, kind in types_of(name).items())
    assert set(describe_settings()) == set(TYPES) and all(describe_settings().values())
    assert {f"guide.{setting}" for setting in TYPES} | {"guide.name"} == {key for key in KEYS if key[:6] == "guide."}


def test_what_is_not_given_is_not_written() -> None:
    config = bp.RunConfig(bp.DataConfig(task="tweets"), guide=bp.GuideConfig("laplace", rank=3, structure=None))
    assert to_dict(config)["guide"] == {"name": "laplace", "rank": 3}
    assert bp.GuideConfig(**to_dict(config)["guide"]) == config.guide != bp.GuideConfig("laplace")
