"""`Ranks`: the processes that train or predict together, or a single one; `together`: stages that all go through."""

from __future__ import annotations

import contextlib
import datetime
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from blob_pyro.errors import BlobPyroError, ModelLoadError
from blob_pyro.system.hub_errors import one_line
from blob_pyro.system.launchers import num_launched, refuse_unsupported, told_to_use_cpu


@dataclass(frozen=True)
class Ranks:
    """One of the processes of a run, and how it meets the others. Every method is called by all of them, in one order.

    Attributes:
        index: this process, from 0; the first one writes files and speaks.
        num: how many there are; where it is 1 nothing is sent and no tensor is touched.
    """

    index: int = 0
    num: int = 1

    @classmethod
    def here(cls) -> Ranks:
        """The processes that a launcher has started and connected (accelerate, torchrun); one where none has."""
        if not (dist.is_available() and dist.is_initialized()):
            return cls()
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def device(self) -> torch.device:
        """Where this process computes: its own GPU; the CPU where there is none, or accelerate is told to take it."""
        if not torch.cuda.is_available() or told_to_use_cpu():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.index == 0

    def add_(self, tensors: Iterable[Tensor]) -> None:
        """Put the sum over the processes into each tensor; all of one dtype and device travel together."""
        if self.num == 1:
            return
        for group in _alike(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            dist.all_reduce(flat)
            _put(flat, group)

    def copy_from_first_(self, tensors: Iterable[Tensor]) -> None:
        """Put the first process's values into each tensor."""
        if self.num == 1:
            return
        for group in _alike(tensors):
            flat = torch.cat([tensor.reshape(-1) for tensor in group])
            dist.broadcast(flat, 0)
            _put(flat, group)

    def hand_out(self, tensor: Tensor) -> None:
        """Put the first process's bytes into a contiguous tensor, whatever its type; without a copy of it."""
        if self.num > 1:
            dist.broadcast(tensor.detach().view(-1).view(torch.uint8), 0)

    def totals(self, numbers: Sequence[float]) -> list[float]:
        """The sum of each number over the processes, in float64."""
        if self.num == 1:
            return list(numbers)
        found = torch.tensor(numbers, dtype=torch.float64, device=_device())
        dist.all_reduce(found)
        return [float(number) for number in found.tolist()]

    def gather(self, value: Any) -> list[Any]:
        """What each process has, in their order; any object that pickles, from processes of this run alone."""
        if self.num == 1:
            return [value]
        found: list[Any] = [None] * self.num
        dist.all_gather_object(found, value)
        return found

    def share(self, items: Sequence[Any]) -> Sequence[Any]:
        """This process's part of a list that all have: each num-th one, so that sorted items come out even."""
        return items[self.index :: self.num]

    def wait(self) -> None:
        """Go on when all have come here."""
        if self.num > 1:
            dist.barrier()


@contextlib.contextmanager
def connected() -> Iterator[Ranks]:
    """The processes of this run, connected for the while where a launcher has started several.

    accelerate chooses the backend and the device, as its own `Accelerator` does. When the launcher is killed each
    process is told to stop, as by SIGTERM.

    Raises:
        ConfigError: the launcher was told to do what is not done here.
    """
    refuse_unsupported()
    if num_launched() == 1 or (dist.is_available() and dist.is_initialized()):
        yield Ranks.here()
        return
    from accelerate import PartialState  # type: ignore[import-untyped]

    with _ends_with_launcher():
        PartialState(cpu=Ranks().device.type == "cpu")
        try:
            yield Ranks.here()
        finally:
            dist.destroy_process_group()
            PartialState._reset_state()


@contextlib.contextmanager
def _ends_with_launcher() -> Iterator[None]:
    """SIGTERM to this process where torchrun, which accelerate uses too, has been killed and sends none any more."""
    launcher, over = os.getppid(), Event()

    def watch() -> None:
        while not over.wait(0.5):
            if os.getppid() != launcher:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    if "TORCHELASTIC_RUN_ID" in os.environ:  # others than torchrun may end before what they have started
        Thread(target=watch, daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _alike(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    """Tensors of one dtype and device, in order of appearance."""
    groups: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for tensor in tensors:
        groups.setdefault((tensor.dtype, tensor.device), []).append(tensor)
    return list(groups.values())


def _put(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def _device() -> torch.device:
    """Where a tensor must be to travel."""
    return Ranks.here().device if "nccl" in dist.get_backend() else torch.device("cpu")


PATIENCE = datetime.timedelta(days=1)
"""How long a process waits for the others; NCCL gives up after ten minutes, and loading may take hours."""


class Together:
    """Several processes that meet after each stage. Every method is called by all of them, in one order.

    Args:
        ranks: the processes; more than one.
        group: of all of them, over gloo.
    """

    def __init__(self, ranks: Ranks, group: Any) -> None:
        self._ranks, self._group = ranks, group

    @contextlib.contextmanager
    def stage(self) -> Iterator[None]:
        """Go on when all have come through the inside; where it raises in one process, it raises in all.

        Raises:
            BlobPyroError: in those that came through: what the first that failed was told, of the same kind.
                ModelLoadError where that was no error of ours, or a process has ended.
        """
        try:
            yield
        except BaseException as error:  # of Ctrl-C, too, the others must hear
            with contextlib.suppress(ModelLoadError):  # another has gone already: what happened here counts
                self._meet(_told(error))
            raise
        for index, told in enumerate(self._meet(None)):
            if told is not None:
                kind, message = told
                raise (ModelLoadError(f"process {index}: {message}") if kind is None else kind(message))

    def from_first(self, value: Any = None) -> Any:
        """What the first process gives, in all; any object that pickles, from processes of this run alone."""
        return self._meet(value if self._ranks.is_first else None)[0]

    def _meet(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self._ranks.num
        try:
            dist.all_gather_object(found, value, group=self._group)
        except RuntimeError as error:  # gloo's, where a connection closes
            raise ModelLoadError(
                "model.shard_base: expected all processes to load the base together; one has ended, perhaps killed for "
                "want of memory: see what it and the system say"
            ) from error
        return found


@contextlib.contextmanager
def together(ranks: Ranks) -> Iterator[Together]:
    """Several processes, with a connection of their own that waits as long as it takes."""
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield Together(ranks, group)
    finally:
        dist.destroy_process_group(group)


def _told(error: BaseException) -> tuple[type[BlobPyroError] | None, str]:
    """What the others need to know of an error."""
    if isinstance(error, BlobPyroError):
        return type(error), str(error)
    if not isinstance(error, Exception):
        return None, "it was stopped"
    return None, f"{type(error).__name__}: {one_line(error, limit=300)}"
