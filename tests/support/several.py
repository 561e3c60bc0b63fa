"""Functions in several processes that are connected as a launcher connects them (gloo, on the CPU)."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from processes import free_port, launch, server


def in_processes(count: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(*arguments)` returns in each of `count` connected processes.

    Args:
        count: how many.
        function: of a module that processes can import; what it returns is saved by torch.
        arguments: the same for all.
    """
    folder = Path(tempfile.mkdtemp())
    port = free_port()
    processes = [
        server().Process(target=_in_process, args=(rank, count, port, folder, function, arguments))
        for rank in range(count)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
    errors = [file.read_text() for file in sorted(folder.glob("*.err"))]
    assert all(process.exitcode == 0 for process in processes), "\n".join(errors)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(count)]


def _in_process(
    rank: int, count: int, port: int, folder: Path, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    from blob_pyro.system.processes import connected

    with (folder / f"{rank}.err").open("w") as errors:
        os.dup2(errors.fileno(), 2)
        launch(rank, count, port)
        torch.set_num_threads(1)
        with connected():
            found = function(*arguments)
        torch.save(found, folder / f"{rank}.pt")
