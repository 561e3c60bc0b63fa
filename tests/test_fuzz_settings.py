"""Settings with odd values that are no nonsense: one line before anything is made, or a whole run."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml
from bounds import bounded
from user_folder import command

from blob_pyro.config.data import DataConfig
from blob_pyro.config.sections import GuideConfig, ModelConfig, PredictConfig, RunConfig, TrainConfig, TuneConfig
from blob_pyro.guides.settings import KEYS

pytestmark = pytest.mark.slow

TIME_LIMIT = 30  # seconds a case
MEMORY = 4 * 2**30  # bytes that a case may ask for
SEED, CASES = 11, 160

ODD: dict[str, Any] = {
    "0": 0,
    "-1": -1,
    "0.5": 0.5,
    "1e-30": 1e-30,
    "1e300": 1e300,
    "2^40": 2**40,
    "2^70": 2**70,
    "inf": float("inf"),
    "null": None,
    "true": True,
    "nothing": "",
    "a word": "x",
    "a path": "../../nowhere",
    "a list": [],
    "a list of odd things": [None, -1, "x"],
    "an object": {"x": {"y": 1}},
}
NO_TEST_ITEMS = [("data", "test_file")]  # where it is left out
SECTIONS = {"data": DataConfig, "model": ModelConfig, "guide": GuideConfig, "train": TrainConfig,
            "predict": PredictConfig, "tune": TuneConfig}  # fmt: skip


def fields() -> list[tuple[str, ...]]:
    """The path of every setting; of a guide those of all guides."""
    found = [
        (section.name, field.name)
        for section in dataclasses.fields(RunConfig)
        if (kind := SECTIONS.get(section.name))
        for field in dataclasses.fields(kind)
        if field.name != "settings"
    ]
    return [*found, *(("guide", name) for name in KEYS), ("seed",)]


def cases() -> list[tuple[tuple[str, ...], str]]:
    every = [(path, kind) for path in fields() for kind in ODD]
    return sorted(random.Random(SEED).sample(every, min(CASES, len(every))))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    user = tmp_path_factory.mktemp("made") / "user"
    user.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(user)
        shutil.copytree(tiny.llama(), "net")
        train = {"num_steps": 2, "batch_size": 3, "lr": 0.01, "kl_lr": 0.01, "kl_schedule": "constant"}
        tiny.write_yaml(Path("own.yaml"), tiny.settings(Path(), Path("net"), train=train))
    return user


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("path", "kind"), cases(), ids=lambda value: value if isinstance(value, str) else ".".join(value)
)
def test_a_setting(
    path: tuple[str, ...], kind: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    user = tmp_path / "user"
    shutil.copytree(made, user)
    monkeypatch.chdir(user)
    found = yaml.safe_load(Path("own.yaml").read_text())
    place = found if len(path) == 1 else found.setdefault(path[0], {})
    place[path[-1]] = ODD[kind]
    Path("own.yaml").write_text(yaml.safe_dump(found))
    with bounded(TIME_LIMIT, MEMORY):
        code = command("fit", "own.yaml", "--output", "new")
    out, err = capfd.readouterr()
    assert not {char for char in out + err if ord(char) < 32 and char not in "\n\t"} and "\u202e" not in out + err
    assert "Traceback" not in out + err
    if code:
        assert code == 2, err
        error = err.splitlines()[-1]
        assert error.startswith("blob-pyro: error: ") and len(error) < 1500, err
        assert path[-1] in error or path[0] == "tune" or kind == "2^70" or str(ODD[kind]) in error, err
        assert not Path("new").exists()
    elif path not in NO_TEST_ITEMS:
        assert json.loads(Path("new/metrics.json").read_text(), parse_constant=pytest.fail)
