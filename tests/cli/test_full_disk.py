"""A full disk is one line in every command, which names what there was no room for; what was there stays as it was.

Files may be no larger than so many bytes: a real EFBIG, from whichever library writes.
"""

from __future__ import annotations

import re
import shutil

import pytest
from processes import Process

from blob_pyro.cli.dispatch import COMMANDS
from blob_pyro.storage.saving import load

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:the posterior is")]

WORDS = {
    "fit": ["fit", "own.yaml", "--output", "out"],
    "fit a checkpoint": ["fit", "own.yaml", "--output", "out"],
    "compare": ["compare", "own.yaml", "--output", "out", "--methods", "mle", "--seeds", "0"],
    "reproduce": ["reproduce", "figure2", "--out", "out"],
    "evaluate": ["evaluate", "run"],
    "predict": ["predict", "run", "test.jsonl", "--output", "answers.csv"],
    "predict to standard output": ["predict", "run", "test.jsonl"],
    "acquire": ["acquire", "run", "test.jsonl", "--k", "6", "--output", "run/chosen.jsonl"],
    "generate": ["generate", "run", "What a", "--json", "--num_draws", "2"],
    "report": ["report", "run", "--output", "report.html"],
    "export mean": ["export", "run", "--as", "mean"],
    "export draws": ["export", "run", "--as", "draws:2", "--output", "out"],
    "export merged": ["export", "run", "--as", "merged", "--output", "above/out"],
    "bench": ["bench", "bookkeeping", "--rounds", "2", "--warmup", "1", "--in_features", "8", "--num_sites", "2",
              "--output", "measured.json"],
    "tasks": ["tasks"],
    "completion": ["completion", "bash"],
}  # fmt: skip
NAMED = {
    "fit": "out/config.yaml", "compare": "out/mle/seed0/config.yaml",
    "fit a checkpoint": "out/checkpoints/step-00000004", "reproduce": "out/figure2.md", "evaluate": "run",
    "predict": "answers.csv", "acquire": "run/chosen.jsonl",
    "report": "report.html", "export mean": "run/export/mean", "export draws": "out", "export merged": "above/out",
    "bench": "measured.json",
}  # fmt: skip
LIMIT = {"fit a checkpoint": 6000, "export merged": 6000, "export mean": 3000}  # bytes; 600 of the others
LEFT = {"fit a checkpoint": ("out/",)}  # what may be new


def content(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_command_is_tried():
    assert {words[0] for words in WORDS.values()} == set(COMMANDS)


@pytest.mark.parametrize("case", WORDS)
def test_a_full_disk_is_one_line_and_nothing_is_lost(case, finished, tmp_path):
    for name in ("own.yaml", "test.jsonl"):
        shutil.copy(finished / name, tmp_path)
    shutil.copytree(finished / "run", tmp_path / "run")
    before = content(tmp_path)
    quiet = case not in ("report", "tasks", "completion")
    code, _, told = Process(*WORDS[case], max_file_size=LIMIT.get(case, 600), quiet=quiet).wait()
    assert code == 2
    *others, last = told.splitlines()
    start = rf"blob-pyro: error: (.*failed: mle, seed 0: )?{NAMED.get(case, 'standard output')}: expected "
    assert re.fullmatch(rf"{start}.*; File too large(; there is no older one)?: make room, (and|or) .*", last), told
    assert not any("Traceback" in line or "rror" in line for line in others), told
    after = content(tmp_path)
    assert {name: after.get(name) for name in before} == before
    assert not [name for name in after if name not in before and not name.startswith(LEFT.get(case, ("nothing",)))]
    assert not (tmp_path / "above").exists()
    if case == "fit a checkpoint":
        load(tmp_path / "out")  # whole


@pytest.mark.parametrize("command", [["fit", "own.yaml", "--output", "run"], ["evaluate", "run"]])
def test_a_picture_without_room_costs_no_score(command, finished, tmp_path):
    """Of all files the picture is the largest: there is room for the others."""
    shutil.copy(finished / "own.yaml", tmp_path)
    if command[0] == "evaluate":
        shutil.copytree(finished / "run", tmp_path / "run")
    sizes = {path.name: path.stat().st_size for path in (finished / "run").iterdir() if path.is_file()}
    room = (sizes.pop("reliability.png") + max(sizes.values())) // 2
    code, _, told = Process(*command, max_file_size=room, quiet=True).wait()
    assert code == 0 and re.fullmatch(r"warning: .*run/reliability.png: not drawn \(.*File too large.*\n", told), told
    left = {path.name for path in (tmp_path / "run").iterdir() if path.is_file() and not path.name.startswith(".")}
    assert left == set(sizes) - {".lock"} and "reliability.png" not in left
    assert (tmp_path / "run" / "metrics.json").read_bytes() == (finished / "run" / "metrics.json").read_bytes()
