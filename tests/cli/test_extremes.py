"""Settings at the ends of their ranges: a run, or one line; beyond them one line before a directory is made."""

from __future__ import annotations

import json
import math

import pytest
import torch

from blob_pyro.cli import main, tasks
from blob_pyro.cli.command import Command
from blob_pyro.cli.dispatch import COMMANDS
from blob_pyro.config.ranges import RANGES

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::UserWarning")]

GUIDES = {"guide.eps": ("blob", "low_rank", "scalabl"), "guide.init_scale": ("mean_field",)}
NAMES = ("model.lora_alpha", "model.prior_scale", "model.prior_scale_spread", "train.lr", "train.adam_eps",
         "train.weight_decay", "train.kl_lr", "train.kl_lr_loc", "train.kl_weight", "train.max_grad_norm")  # fmt: skip
CASES = [(key, "blob", value) for key in NAMES for value in RANGES[key]]
CASES += [
    (key, guide, value) for key in ("guide.eps", "guide.init_scale") for guide in GUIDES[key] for value in RANGES[key]
]


@pytest.mark.parametrize(("key", "guide", "value"), CASES)
def test_the_end_of_a_range_is_a_run_or_one_line(config, tmp_path, capfd, key, guide, value):
    words = ["fit", str(config), "--quiet", "--guide.name", guide, f"--{key}", repr(value)]
    code, told = main(words), capfd.readouterr().err
    if code == 2:  # it diverges, which only training shows; the last good parameters are there
        last = [line for line in told.splitlines() if not line.startswith("warning: ")]
        assert (len(last) == 1 and "expected a finite" in last[0]) or "expected finite" in last[0], told
    else:
        assert code == 0, told
        scores = json.loads((tmp_path / "run" / "metrics.json").read_text())
        assert all(math.isfinite(found["nll"]) for found in scores.values())


@pytest.mark.parametrize("option", ["num_draws", "max_new_tokens", "seed", "top_k"])
@pytest.mark.parametrize("value", [-1, 2**70])
def test_generate_refuses_numbers_that_cannot_be(refused, finished, option, value):
    if (option, value) == ("top_k", 2**70):
        pytest.skip("no more than there are are taken")
    told = refused("generate", finished / "run", "What", "--do_sample", "--quiet", f"--{option}", value)
    assert f"{option}: expected " in told or "num_samples: expected " in told, told


@pytest.mark.parametrize(
    "words",
    [
        ["compare", "{config}", "--methods", "mle", "--workers", 2**40],
        ["compare", "{config}", "--methods", "mle", "--seeds", 2**40],
        ["reproduce", "figure2", "--workers", 2**40],
        ["reproduce", "figure2", "--seeds", 2**40],
        ["bench", "bookkeeping", "--num_sites", 2**62],
        ["bench", "predict", "--num_samples", f"[{2**40}]"],
        ["evaluate", "{run}", "--num_samples", 10**12],
        ["predict", "{run}", "{test}", "--num_samples", 10**12],
        ["fit", "{config}", "--model.prior_scale", "1e-30"],
        ["fit", "{config}", "--guide.eps", "1e300"],
        ["fit", "{config}", "--model.r", 2**40],
    ],
)
def test_numbers_beyond_are_refused_before_anything_is_made(refused, finished, config, tmp_path, words):
    named = {"config": config, "run": finished / "run", "test": finished / "test.jsonl"}
    before = set(tmp_path.rglob("*"))
    told = refused(*[str(word).format(**named) for word in words])
    assert " number from " in told, told
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("allocate", [lambda: torch.empty(2**50), lambda: bytes(2**50)], ids=["torch", "Python"])
def test_want_of_memory_is_one_line(refused, monkeypatch, allocate):
    """What a command asks of torch, or of Python, and the machine has not."""
    greedy = Command("", tasks.COMMAND.parser, lambda parser, words: print(allocate()))
    monkeypatch.setitem(COMMANDS, "tasks", greedy)
    told = refused("tasks")
    assert told.startswith("expected more memory; ") and told.endswith("or take a smaller base"), told
