"""examples/bench_history.py: files by date and kind of machine, and what two of them say together."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import bench_history
import pytest
import tiny
from bench_history import FOLDER, SETTINGS, comparison, record

from blob_pyro.experiments.bench import BenchResult, BenchSettings, Case, Measurement
from blob_pyro.system.machine import describe_machine, machine_name

MACHINE = {"processor": "Some CPU", "cpus": 2, "threads": 2, "torch": "2.13.0"}


def result(seconds: dict[str, list[float]], *, machine: Any = MACHINE, **settings: Any) -> BenchResult:
    """One training case with these seconds of each round."""
    measured = Measurement(Case("train", 30, length=64), 256, seconds, {})
    return BenchResult(
        dataclasses.replace(SETTINGS, **settings), "make bench", "2026-11-30T18:00:00+00:00", machine, (measured,)
    )


def by_hand(text: str) -> dict[str, list[str]]:
    """First cell -> the others, of the lines of a table."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.split("\n\n")[0].splitlines()]
    return {row[0]: row[1:] for row in rows[2:]}


OLD = {
    "lora_full": [1.0, 1.0, 1.0, 1.0, 1.0],
    "lora_answer": [1.0, 2.0, 1.0, 2.0, 1.0],
    "blob": [1.0, 1.1, 1.2, 1.3, 1.4],
}


def test_two_results_by_hand() -> None:
    """blob / lora_full: 1 to 1.4, then 1.35 to 1.75; blob / lora_answer: 1, 0.55, 1.2, 0.65, 1.4, then half of it."""
    new = {"lora_full": OLD["lora_full"], "lora_answer": [2.0, 4.0, 2.0, 4.0, 2.0], "blob": OLD["blob"]}
    slower = new | {"blob": [1.35, 1.45, 1.55, 1.65, 1.75], "lora_answer": [1.35, 1.45, 1.55, 1.65, 1.75]}
    what = "train: 4 x 64 tokens, 30 layers: blob /"
    assert by_hand(comparison(result(OLD), result(new))) == {
        f"{what} lora_full": ["1.200 (1.100 to 1.300)", "1.200 (1.100 to 1.300)", ""],
        f"{what} lora_answer": ["1.000 (0.650 to 1.200)", "0.500 (0.325 to 0.600)", "faster"],
    }
    assert by_hand(comparison(result(OLD), result(slower))) == {
        f"{what} lora_full": ["1.200 (1.100 to 1.300)", "1.550 (1.450 to 1.650)", "slower"],
        f"{what} lora_answer": ["1.000 (0.650 to 1.200)", "1.000 (1.000 to 1.000)", ""],
    }


def test_other_versions_are_told() -> None:
    told = comparison(result(OLD), result(OLD, machine=MACHINE | {"torch": "2.14.0"}))
    assert told.endswith("\n\nother versions: torch 2.13.0 -> 2.14.0")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"length": (128,)}, "not comparable: length [64] -> [128]"),
        ({"rounds": 3, "seed": 1}, "not comparable: rounds 9 -> 3, seed 0 -> 1"),
        ({"machine": MACHINE | {"threads": 1}}, "not comparable: threads 2 -> 1"),
    ],
)
def test_other_settings_are_not_compared(changes: dict[str, Any], told: str) -> None:
    assert comparison(result(OLD), result(OLD, **changes)) == told


SMALL = BenchSettings(
    model=str(tiny.llama()), contenders=SETTINGS.contenders, length=(6,), num_prompts=2, min_length=4, max_length=6,
    num_samples=(2,), num_sites=2, in_features=8, rounds=2, warmup=0, memory=False,
)  # fmt: skip


@pytest.mark.slow
def test_a_run_writes_a_file_and_reads_the_last_one_of_such_a_machine(tmp_path: Path) -> None:
    name = machine_name(describe_machine("cpu"))
    folder = tmp_path / "bench"
    first = record(SMALL, folder)
    path = next(folder.iterdir())
    assert first.startswith(f"written: {path.name}, the first of such a machine\n\n| ratio")
    found = BenchResult.load(path)
    assert path.name == f"{found.date[:10]}T{found.date[11:19].replace(':', '')}_{name}.json"
    assert found.settings == SMALL and found.command == "make bench"
    assert len(by_hand(first.split("\n\n", 1)[1])) == 2 + 2 + 1 + 1  # a step, a prediction, a step's bookkeeping twice
    older = path.rename(folder / f"2026-01-01T000000_{name}.json")
    (folder / "2027-01-01T000000_another-machine.json").write_text("{}")
    second = record(SMALL, folder)
    assert f", against {older.name}\n\n| ratio" in second


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "{}", '{"settings": {"speed": 3}}'])
def test_a_last_file_that_is_none_costs_no_new_one(content: str, tmp_path: Path) -> None:
    last = tmp_path / f"2026-01-01T000000_{machine_name(describe_machine('cpu'))}.json"
    last.write_text(content)
    told = record(dataclasses.replace(SMALL, contenders=("lora", "blob"), parts=("bookkeeping",)), tmp_path)
    assert f"; not comparable with {last.name}, which cannot be read: " in told and "\n" not in told
    assert len(list(tmp_path.iterdir())) == 2


def test_a_machine_is_named_by_its_kind() -> None:
    machine = {"processor": "AMD EPYC 9R14 (Genoa)", "cpus": 16, "system": "Linux-host.example"}
    assert machine_name(machine) == "amd-epyc-9r14-genoa-16-cpus"
    assert machine_name(machine | {"gpu": "NVIDIA H200"}) == "nvidia-h200-16-cpus"


def test_kept_files_can_be_read_and_name_no_path() -> None:
    for path in sorted(FOLDER.glob("*.json")):
        found = BenchResult.load(path)
        assert path.stem.endswith(machine_name(found.machine)) and "/" not in json.dumps(found.record()["settings"])
        assert list(bench_history.ratios(found))
