"""Splits of published data sets: local copies, the hub through `datasets`, and what is said where neither is there."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from blob_pyro.data import Row
from blob_pyro.data.rows.hub import HubSource, local_file, read_split
from blob_pyro.errors import DataError

ROWS = [{"question": "is rain wet", "answer": True}, {"question": "is fire wet", "answer": False}]
SOURCE = HubSource("some/rain", "wet", "rain", {"train": "train_s"})


def write(folder: Path, name: str, rows: list[dict] = ROWS) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_a_local_copy_is_read_line_by_line(tmp_path, suffix):
    write(tmp_path, f"rain/train_s{suffix}")
    assert read_split(SOURCE, "train", str(tmp_path), "rain") == [Row(i, row) for i, row in enumerate(ROWS, start=1)]


def test_a_split_without_a_name_of_its_own_is_the_file_of_that_name(tmp_path):
    path = write(tmp_path, "rain/validation.jsonl")
    assert local_file(SOURCE, "validation", str(tmp_path), "rain") == path


def test_a_missing_file_or_folder_is_named(tmp_path):
    with pytest.raises(
        DataError,
        match=r"^rain: expected rain/train_s.jsonl, .csv, .tsv \(or .gz of these\) or .parquet in data.data_dir; "
        ".* has none",
    ):
        read_split(SOURCE, "train", str(tmp_path), "rain")
    with pytest.raises(DataError, match="^rain: expected a folder in data.data_dir; got '.*none', which is none"):
        read_split(SOURCE, "train", str(tmp_path / "none"), "rain")


@pytest.mark.slow
def test_datasets_reads_a_configuration_and_split_by_name(tmp_path, monkeypatch):
    """`datasets` takes a folder of the data set's name for the data set: what runs here is its own loading."""
    write(tmp_path, "some/rain/wet/train.jsonl")
    write(tmp_path, "some/rain/dry/train.jsonl", ROWS[1:])
    card = "---\nconfigs:\n" + "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train.jsonl\n"
        for name in ("wet", "dry")
    )
    (tmp_path / "some/rain/README.md").write_text(f"{card}---\n")
    code = (
        "import json\nfrom blob_pyro.data.rows.hub import HubSource, read_split\n"
        "rows = read_split(HubSource('some/rain', 'wet', 'rain'), 'train', None, 'rain')\n"
        "print(json.dumps([[row.line, row.fields] for row in rows]))"
    )
    result = run(code, tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout.splitlines()[-1]) == [[i, row] for i, row in enumerate(ROWS, start=1)]
    result = run(code.replace("'train', None", "'dev', None"), tmp_path)
    assert (
        "DataError: rain: expected the split 'dev' of some/rain (wet) on the hub; it cannot be read (" in result.stderr
    )


@pytest.mark.slow
def test_a_hub_that_does_not_answer_is_said_at_once_in_one_line(tmp_path):
    code = (
        "from blob_pyro.config.sections import DataConfig\nfrom blob_pyro.data import load_task\n"
        "from blob_pyro.errors import DataError\n"
        "try:\n    load_task(DataConfig(task='arc_easy'), 0)\n"
        "except DataError as error:\n    print(error)"
    )
    result = run(code, tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(
        "arc_easy: expected the split 'train' of allenai/ai2_arc (ARC-Easy) on the hub; the hub cannot be asked ("
    )
    assert result.stdout.endswith("); without it, set data.data_dir to a folder that holds arc_easy/train.jsonl\n")
    assert result.stdout.count("\n") == 1


def run(code: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    """A fresh interpreter in `folder`, with an empty cache and in offline mode."""
    root = str(Path(__file__).parents[3])
    settings = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "PYTHONPATH": root}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, cwd=folder, env=os.environ | settings, timeout=120, check=False,
    )  # fmt: skip
