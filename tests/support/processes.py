"""Commands in processes of their own that start quickly: forked from a server that has the imports done.

They are real processes, to be killed for real.
"""

from __future__ import annotations

import functools
import json
import multiprocessing
import os
import resource
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerContext
from pathlib import Path
from threading import Lock
from typing import IO, Any


class Process:
    """`blob-pyro WORDS` in a process, quiet by default, with what it writes kept in files.

    Args:
        words: of the command line.
        max_file_size: bytes that a file may have, as on a disk that is full beyond; None is no limit.
        launched_as: rank, number of processes and port, as a launcher tells them; None for one process alone.
        quiet: with --quiet, so that nothing tells of progress.
        terminal: path of a terminal that all it writes goes to instead.
        environment: variables of its own.
    """

    def __init__(
        self,
        *words: object,
        max_file_size: int | None = None,
        launched_as: tuple[int, int, int] | None = None,
        quiet: bool = True,
        terminal: str | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        folder = Path(tempfile.mkdtemp())
        self._out, self._err = folder / "out", folder / "err"
        for file in (self._out, self._err):
            file.touch()
        self._start = time.time_ns()
        arguments = (
            [*(str(word) for word in words), *(["--quiet"] if quiet else [])],
            terminal or str(self._out),
            terminal or str(self._err),
            max_file_size,
            launched_as,
            dict(environment or {}),
        )
        self._process: Any = server().Process(target=_command, args=arguments)
        self._process.start()

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    def is_alive(self) -> bool:
        return bool(self._process.is_alive())

    def send(self, number: int) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait(self) -> tuple[int, str, str]:
        """Exit code (minus the signal that killed it), standard output and standard error."""
        self._process.join(240)
        assert self._process.exitcode is not None, f"still running: {self._err.read_text()}"
        return self._process.exitcode, self._out.read_bytes().decode(), self._err.read_bytes().decode()

    def wait_for_lines(self, file: Path, count: int) -> None:
        """Until a file that it has written to has so many lines."""
        deadline = time.monotonic() + 120
        while not file.exists() or file.stat().st_mtime_ns < self._start or file.read_bytes().count(b"\n") < count:
            assert self._process.is_alive(), self.wait()
            assert time.monotonic() < deadline
            time.sleep(0.001)


class Worker:
    """A process of `compare --workers`, used as the `subprocess.Popen` that stands for a fresh interpreter.

    Args:
        place: of the chain that it makes.
        threads: of torch.
        errors: the file that it writes to.
    """

    _lock = (
        Lock()
    )  # multiprocessing reads the end of other processes when it starts one: not while another is waited for

    def __init__(self, place: Path, threads: int, errors: IO[bytes]) -> None:
        end, self._stdin = server().Pipe(duplex=False)
        self._process: Any = server().Process(target=_worker, args=(str(place), threads, errors.name, end))
        with self._lock:
            self._process.start()
        end.close()
        self.pid = int(self._process.pid)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def wait(self) -> int:
        """Exit code, minus the signal that killed it."""
        while True:
            with self._lock:
                if self._process.exitcode is not None:
                    return int(self._process.exitcode)
            time.sleep(0.01)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._stdin.close()


def finished(*words: object, max_file_size: int | None = None) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of a command that runs to its end."""
    return Process(*words, max_file_size=max_file_size).wait()


def together(*words: object, count: int = 2) -> list[tuple[int, str, str]]:
    """The same of a command in connected processes."""
    port = free_port()
    started = [Process(*words, launched_as=(rank, count, port)) for rank in range(count)]
    return [process.wait() for process in started]


def free_port() -> int:
    """A port that nothing listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def worker_ids(parent: int) -> list[int]:
    """Ids of the processes of `blob_pyro.experiments.compare.workers` that `parent` started."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            its_parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):  # it has ended meanwhile
            continue
        if b"blob_pyro.experiments.compare.workers" in words and its_parent == parent:
            found.append(int(entry.name))
    return found


@functools.cache
def server() -> ForkServerContext:
    """Starts processes that have the imports done."""
    context = multiprocessing.get_context("forkserver")
    at_once, when_used = ["blob_pyro.cli.dispatch", "blob_pyro.model.loading"], ["transformers", "peft", "datasets"]
    when_used += ["torchmetrics.functional.classification", "matplotlib.figure"]  # else 2 s of each process
    context.set_forkserver_preload([*at_once, *when_used])
    return context


def launch(rank: int, count: int, port: int) -> None:
    """What torchrun and accelerate put into a process's environment."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
    }  # fmt: skip


def _command(
    words: list[str],
    out: str,
    err: str,
    max_file_size: int | None,
    launched_as: tuple[int, int, int] | None,
    environment: dict[str, str],
) -> None:
    from blob_pyro.cli import main

    as_fresh(out, err, num_threads=1)
    if launched_as is not None:
        launch(*launched_as)
    os.environ |= environment
    if max_file_size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_size, max_file_size))
    sys.exit(main(words))


def _worker(place: str, num_threads: int, errors: str, stdin: Connection) -> None:
    from blob_pyro.system.apart import answer

    os.setsid()
    os.dup2(stdin.fileno(), 0)
    as_fresh(errors, errors, num_threads)
    answer("blob_pyro.experiments.compare.workers", json.dumps(place))


def as_fresh(out: str, err: str, num_threads: int) -> None:
    """Writes to these files, and hears signals, as a program does that somebody has just started."""
    import torch

    for descriptor, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), descriptor)
    # made anew, for a terminal cannot be sought in as what the server writes to can
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", buffering=1, closefd=False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    torch.set_num_threads(num_threads)
