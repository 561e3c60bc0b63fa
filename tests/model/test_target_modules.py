"""`target_modules` as PEFT has them: names, a regular expression, "all-linear"; in files, on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from architectures import CLASSIFIERS, IN_LISTS, saved
from cases import LLAMA, make_batch

import blob_pyro as bp
from blob_pyro.cli import main
from blob_pyro.errors import ConfigError

ALL = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
PATTERN = r".*layers\.1\..*\.(q|v)_proj"
MEANT = {
    "all-linear": ALL,
    PATTERN: {"q_proj", "v_proj"},
    "[k_proj]": {"k_proj"},
    '["all-linear"]': ALL,
}


def adapted(run: Path) -> set[str]:
    sites = json.loads((run / "posterior.json").read_text())["sites"]
    return {site.split(".")[-2] for site in sites}


@pytest.mark.slow
@pytest.mark.parametrize("given", list(MEANT))
def test_in_a_file_and_on_the_command_line(given: str, tmp_path: Path, capsys: Any) -> None:
    value = given if given in ("all-linear", PATTERN) else json.loads(given.replace("k_proj", '"k_proj"'))
    settings = tiny.settings(tmp_path, tiny.llama(), model={"target_modules": value}, train={"num_steps": 1})
    assert main(["fit", str(tiny.write_yaml(tmp_path / "a.yaml", settings)), "--quiet"]) == 0
    settings["model"].pop("target_modules")
    file = str(tiny.write_yaml(tmp_path / "b.yaml", settings))
    assert main(["fit", file, "--model.target_modules", given, "--output", str(tmp_path / "b"), "--quiet"]) == 0
    assert adapted(tmp_path / "run") == adapted(tmp_path / "b") == MEANT[given]
    blocks = {
        site.split(".layers.")[1][0] for site in json.loads((tmp_path / "b" / "posterior.json").read_text())["sites"]
    }
    assert blocks == ({"1"} if given == PATTERN else {"0", "1"})
    assert main(["evaluate", str(tmp_path / "b"), "--quiet"]) == 0


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("q_proj", "PEFT says: Target modules q_proj not found .*Its linear layers are: down_proj"),
        ("([", "PEFT says: unterminated character set .*Its linear layers are: down_proj"),
        ("(.+)+x", "expected a regular expression that is searched quickly"),
    ],
)
def test_patterns_that_cannot_be(pattern: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"target_modules: .*{message}") as caught:
        bp.BayesianLoRA.from_pretrained(
            saved("LlamaForCausalLM", LLAMA), bp.MultipleChoice([5, 17]), target_modules=pattern
        )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["bert", "roberta", "distilbert", "albert", "llama"])
def test_all_linear_leaves_a_head_whole(name: str, tmp_path: Path) -> None:
    """It is trained and saved as it is."""
    model_class, settings, _ = (CLASSIFIERS | IN_LISTS)[name]
    path = saved(model_class, settings | {"num_labels": 3})
    model = bp.BayesianLoRA.from_pretrained(path, bp.SequenceClassification(3), r=2, target_modules="all-linear")
    assert not [site for site in model.sites if "classifier" in site or "score" in site]
    guide, batch = bp.BLoBGuide(model), make_batch()
    bp.fit(model, guide, [batch], bp.TrainConfig(num_steps=1, batch_size=4), progress=False)
    bp.save(tmp_path, model, guide)
    assert torch.equal(bp.load(tmp_path).model.logits(batch), model.logits(batch))
