"""Kill a run again and again, go on with it, and compare it with one that nobody killed.

    python examples/kill_and_resume.py my.yaml --kills 20

Every kill is a SIGKILL at a random moment while the process trains: in a step, in a line of the history, or in a
checkpoint. The two runs must then hold the same bytes. On one machine, one thread and a CPU they do.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from pathlib import Path

COMPARED = ("history.jsonl", "metrics.json", "adapter/adapter_model.safetensors", "posterior.safetensors")


def command(config: str, run: Path) -> list[str]:
    return [sys.executable, "-m", "blob_pyro", "fit", config, "--output", str(run), "--quiet", "--resume"]


def lines_of(run: Path) -> int:
    """Steps in the history."""
    file = run / "history.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def kill_once(config: str, run: Path, moments: random.Random, longest: float) -> int | None:
    """Go on, and kill the process at a random moment of its training; None where it came to its end first.

    Returns:
        Steps in the history behind the kill.
    """
    start = time.time()
    process = subprocess.Popen(command(config, run), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    history = run / "history.jsonl"
    while process.poll() is None and not (history.exists() and history.stat().st_mtime > start):
        time.sleep(0.002)
    time.sleep(moments.uniform(0, longest))
    process.kill()
    _, errors = process.communicate()
    if process.returncode > 0:
        raise SystemExit(f"the run failed: {errors.decode()}")
    return None if process.returncode == 0 else lines_of(run)


def main() -> None:
    """Kill, go on, compare, and print a line for each kill."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="a YAML file of `blob-pyro fit`")
    parser.add_argument("--output", default="runs/killed", help="where both runs go (default: runs/killed)")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--longest", type=float, default=0.5, help="most seconds of training before a kill")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    whole, broken = Path(options.output) / "whole", Path(options.output) / "broken"
    subprocess.run(command(options.config, whole), check=True, stdout=subprocess.DEVNULL)
    moments = random.Random(options.seed)
    for kill in range(1, options.kills + 1):
        steps = kill_once(options.config, broken, moments, options.longest)
        print(
            f"kill {kill}: " + ("the run had ended" if steps is None else f"{steps} steps in the history"), flush=True
        )
    subprocess.run(command(options.config, broken), check=True, stdout=subprocess.DEVNULL)
    odd = [name for name in COMPARED if (whole / name).read_bytes() != (broken / name).read_bytes()]
    print(
        f"{len(COMPARED) - len(odd)} of {len(COMPARED)} files are the same, byte by byte"
        + (f": not {odd}" if odd else "")
    )
    sys.exit(bool(odd))


if __name__ == "__main__":
    main()
