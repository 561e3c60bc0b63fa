"""Runs of several methods made at once, each in a process of its own.

A step on a few short items leaves cores idle between its small products, so that two processes of one thread get more
done than one of two threads.
"""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import IO

import torch

from blob_pyro.config.file import to_dict
from blob_pyro.config.methods import METHODS, Method
from blob_pyro.config.sections import RunConfig
from blob_pyro.experiments.compare.runs import Ended, is_finished, make_run
from blob_pyro.storage.directory import CONFIG, read_config, write_yaml
from blob_pyro.system.apart import start_apart, why_ended
from blob_pyro.system.terminal import Console

CHAIN, ENDED, ERRORS = "chain.json", "ended.jsonl", "errors.txt"
Start = Callable[[Path, int, IO[bytes]], "subprocess.Popen[bytes]"]


@dataclass(frozen=True)
class Chain:
    """Runs of one seed that one process makes in turn: a method, and those that start from its run."""

    names: tuple[str, ...]
    seed: int


def chains_of(methods: Sequence[Method], seeds: Sequence[int]) -> list[Chain]:
    """What can be made side by side.

    Example:
        >>> chains = chains_of([METHODS[name] for name in ("mle", "blob", "tfb")], (0,))
        >>> [chain.names for chain in chains]
        [('mle', 'tfb'), ('blob',)]
    """
    names: dict[str, list[str]] = {}
    for method in methods:
        names.setdefault(method.after or method.name, []).append(method.name)
    return [Chain(tuple(found), seed) for seed in seeds for found in names.values()]


def start_interpreter(place: Path, threads: int, errors: IO[bytes]) -> subprocess.Popen[bytes]:
    """A fresh interpreter that makes the chain of `place`, with so many threads; what it writes goes to `errors`.

    In a session of its own, where Ctrl-C in the terminal does not reach it a second time.
    """
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    return start_apart(__name__, str(place), stdout=errors, stderr=errors, env=environment, start_new_session=True)


def make_runs_at_once(
    config: RunConfig,
    methods: Sequence[Method],
    seeds: Sequence[int],
    workers: int,
    console: Console,
    start: Start = start_interpreter,
) -> Generator[Ended, None, None]:
    """Make every run where it is not there yet, as `runs.make_runs`, in several processes.

    Each process has its share of this one's threads. When the caller stops, as after Ctrl-C, each process is
    interrupted as by Ctrl-C: what it had learnt is saved, with a checkpoint from which the next call goes on. When the
    caller is killed, its processes end at once, so that they are not at the runs that the next call goes on with.

    Args:
        config: what the methods share.
        methods: of the runs; what a method starts from is among them.
        seeds: of the runs.
        workers: how many processes at once.
        console: receives lines for the user, those of a process when it has ended.
        start: starts one that ends when its standard input is closed.
    """
    chains = chains_of(methods, seeds)
    total, done = len(methods) * len(seeds), 0
    for chain in [chain for chain in chains if all(is_finished(config, name, chain.seed) for name in chain.names)]:
        chains.remove(chain)
        for name in chain.names:
            done += 1
            console.log(f"[{done}/{total}] {name}, seed {chain.seed}")
            yield make_run(config, METHODS[name], chain.seed, console)  # only says that it is there
    if not chains:
        return
    threads = max(1, torch.get_num_threads() // workers)
    console.log(f"{min(workers, len(chains))} processes at once, threads of each: {threads}")
    with tempfile.TemporaryDirectory() as folder, _Processes(workers, threads, start) as processes:
        for position, chain in enumerate(chains):
            processes.start(_hand_over(config, chain, Path(folder) / str(position)), chain)
        for chain, place, code in processes.as_they_end():
            for ended, said in _results(chain, place, code):
                done += 1
                for line in (f"[{done}/{total}] {ended.name}, seed {ended.seed}", *said):
                    console.log(line)
                yield ended


class _Processes:
    """At most `workers` processes at once; those that run when the block is left are interrupted, once."""

    def __init__(self, workers: int, threads: int, start: Start) -> None:
        self._pool = ThreadPoolExecutor(workers)  # its threads only wait for their processes
        self._threads, self._start = threads, start
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopping, self._lock = False, Lock()
        self._futures: dict[Future[int], tuple[Chain, Path]] = {}

    def __enter__(self) -> _Processes:
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:  # no process starts between the signals and the end
            self._stopping = True
            for process in self._running:
                process.send_signal(signal.SIGINT)
        self._pool.shutdown(cancel_futures=True)

    def start(self, place: Path, chain: Chain) -> None:
        """Start a process as soon as another has ended, or now."""
        self._futures[self._pool.submit(self._work, place)] = (chain, place)

    def as_they_end(self) -> Iterator[tuple[Chain, Path, int]]:
        """Chain, folder and exit code of each process."""
        for future in as_completed(self._futures):
            chain, place = self._futures[future]
            yield chain, place, future.result()

    def _work(self, place: Path) -> int:
        with (place / ERRORS).open("wb") as errors:
            with self._lock:
                if self._stopping:
                    return -signal.SIGINT
                process = self._start(place, self._threads, errors)
                self._running.add(process)
            with process:  # its standard input stays open meanwhile
                code = process.wait()
            with self._lock:
                self._running.discard(process)
            return code


def _hand_over(config: RunConfig, chain: Chain, place: Path) -> Path:
    """A folder that tells a process what to make."""
    place.mkdir()
    write_yaml(place / CONFIG, to_dict(config))
    (place / CHAIN).write_text(json.dumps(dataclasses.asdict(chain)), encoding="utf-8")
    return place


def _results(chain: Chain, place: Path, code: int) -> list[tuple[Ended, list[str]]]:
    """What became of each run of a chain, and what was said of it; where the process died, its last word."""
    text = (place / ENDED).read_text(encoding="utf-8") if (place / ENDED).exists() else ""
    found = [(Ended(**line["ended"]), line["said"]) for line in map(json.loads, text.splitlines())]
    errors = (place / ERRORS).read_text(encoding="utf-8", errors="replace")
    why = why_ended(code, errors)
    missing = [Ended(name, chain.seed, why) for name in chain.names[len(found) :]]
    results = found + [(ended, [f"{ended.name}, seed {ended.seed}: {why}"]) for ended in missing]
    warnings = list(dict.fromkeys(word for word in errors.splitlines() if word.startswith("warning: ")))
    return [(ended, warnings + said if ended is results[0][0] else said) for ended, said in results]


def main(folder: str) -> None:
    """Make the runs that a folder names; a line there for each that has ended."""
    place = Path(folder)
    config, chain = read_config(place), Chain(**json.loads((place / CHAIN).read_text(encoding="utf-8")))
    for name in chain.names:
        said: list[str] = []
        ended = make_run(config, METHODS[name], chain.seed, Console(progress=False, log=said.append))
        with (place / ENDED).open("a", encoding="utf-8") as file:
            file.write(json.dumps({"ended": dataclasses.asdict(ended), "said": said}) + "\n")
