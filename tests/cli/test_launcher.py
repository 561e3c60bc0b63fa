"""torchrun and accelerate for real: the same run, what they were told, and an end where they are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import tiny
from processes import Process, free_port

from blob_pyro.system.locks import LOCK

pytestmark = pytest.mark.slow

STEPS = 3000


def children(parent: int) -> list[int]:
    """Ids of the processes that `parent` has started and that are alive."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            its_parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
        if its_parent == parent:
            found.append(int(entry.name))
    return found


def wait_until(holds, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_processes_of_a_killed_launcher_stop_and_can_go_on(tmp_path):
    train = {"num_steps": STEPS, "save_steps": STEPS}
    config = tiny.write_yaml(tmp_path / "own.yaml", tiny.settings(tmp_path, tiny.llama(), train=train))
    words = ["--standalone", "--nproc_per_node", "2", "-m", "blob_pyro", "fit", str(config), "--quiet"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    with (tmp_path / "told").open("wb") as told:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "torch.distributed.run", *words], env=environment, stdout=told, stderr=told
        )
        try:
            history = tmp_path / "run" / "history.jsonl"
            wait_until(lambda: history.exists() and history.read_bytes().count(b"\n") > 5, 240)
            workers = children(launcher.pid)
            launcher.kill()
            launcher.wait()
            assert len(workers) == 2
            wait_until(lambda: not any(Path(f"/proc/{worker}").exists() for worker in workers), 60)
        finally:
            for worker in children(launcher.pid):
                os.kill(worker, signal.SIGKILL)
            launcher.kill()
    steps = history.read_bytes().count(b"\n")
    assert 5 < steps < STEPS
    assert [place.name for place in (tmp_path / "run" / "checkpoints").iterdir()] == [f"step-{steps:08}"]
    assert "stopped by SIGTERM" in (tmp_path / "told").read_text()
    assert not (tmp_path / "run" / LOCK).exists()


COMPARED = ("history.jsonl", "metrics.json", "predictions.parquet", "posterior.safetensors")
COMPARED += ("adapter/adapter_model.safetensors",)
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = ["-m", "accelerate.commands.launch"]


def launched(*words: object, told: str | None = None, **environment: str) -> tuple[int, str]:
    """Exit code and standard error of Python; `told` is what `accelerate config` has written."""
    home = Path(environment.setdefault("HF_HOME", str(Path.cwd() / "home")))
    if told is not None:
        (home / "accelerate").mkdir(parents=True, exist_ok=True)
        (home / "accelerate" / "default_config.yaml").write_text(told, encoding="utf-8")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])} | environment
    command = [sys.executable, *(str(word) for word in words)]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    return ended.returncode, ended.stderr


def fit_words(folder: Path, **sections: Any) -> list[str]:
    config = tiny.write_yaml(folder / "own.yaml", tiny.settings(folder, tiny.llama(), **sections))
    return ["-m", "blob_pyro", "fit", str(config), "--quiet"]


def own_lines(err: str) -> list[str]:
    return [line for line in err.splitlines() if line.startswith("blob-pyro:")]


def test_accelerate_torchrun_and_mpirun_start_the_same_run(tmp_path):
    words = fit_words(tmp_path, train={"num_steps": 3, "mixed_precision": "bf16", "gradient_accumulation_steps": 2})
    told = "{distributed_type: MULTI_GPU, num_processes: 2, num_machines: 1, mixed_precision: bf16, use_cpu: false}"
    for name, launcher in (("accelerate", [*ACCELERATE, "--main_process_port", "0"]), ("torchrun", TORCHRUN)):
        code, err = launched(*launcher, *words, "--output", tmp_path / name, told=told)
        assert code == 0, err
    by_mpirun = "ACCELERATE_MIXED_PRECISION=bf16 ACCELERATE_USE_CPU=True MASTER_ADDR=127.0.0.1 OMPI_COMM_WORLD_SIZE=2"
    handed_over = dict(word.split("=") for word in by_mpirun.split()) | {"MASTER_PORT": str(free_port())}
    ranks = [handed_over | {f"OMPI_COMM_WORLD_{name}": str(i) for name in ("RANK", "LOCAL_RANK")} for i in range(2)]
    started = [Process(*words[2:-1], "--output", tmp_path / "mpirun", environment=rank) for rank in ranks]
    assert [process.wait()[0] for process in started] == [0, 0]
    for other in ("torchrun", "mpirun"):
        assert json.loads((tmp_path / other / "about.json").read_text())["machine"]["processes"] == 2
        for name in COMPARED:
            assert (tmp_path / other / name).read_bytes() == (tmp_path / "accelerate" / name).read_bytes()


FSDP = """\
distributed_type: FSDP
num_processes: 2
num_machines: 1
mixed_precision: bf16
fsdp_config: {fsdp_version: 2, fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP, fsdp_offload_params: true}
"""


def test_what_accelerate_config_says_of_sharding_is_refused_in_a_line_of_each_process(tmp_path):
    code, err = launched(*ACCELERATE, "--main_process_port", "0", *fit_words(tmp_path), told=FSDP)
    assert code != 0
    assert len(own_lines(err)) >= 1  # torchrun may end the other first
    assert all("expected no FSDP of accelerate's; got ACCELERATE_USE_FSDP=true" in line for line in own_lines(err))
    assert not (tmp_path / "run").exists()


def test_processes_that_accelerate_does_not_start_are_missed(tmp_path):
    code, err = launched(*ACCELERATE, "--cpu", "--num_processes", "2", *fit_words(tmp_path))
    assert code != 0 and len(own_lines(err)) == 1
    assert "expected the processes that it was told of (MASTER_ADDR=127.0.0.1); got this one alone" in own_lines(err)[0]
    assert not (tmp_path / "run").exists()
