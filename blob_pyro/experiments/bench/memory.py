"""Peak memory of one contender, in a process of its own."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from blob_pyro.errors import BlobPyroError
from blob_pyro.experiments.bench.lineup import line_up
from blob_pyro.experiments.bench.networks import Base
from blob_pyro.experiments.bench.settings import BenchSettings, Case, as_record, from_record
from blob_pyro.system.apart import run_apart

NUM_ROUNDS = 3
PAGE = 4096  # bytes


@dataclass(frozen=True)
class Memory:
    """Memory of a contender's process, or of its GPU, in bytes.

    Attributes:
        peak: most that was ever in use from the loaded model onwards, over a few rounds.
        loaded: in use when the model, adapter and optimiser stood ready.
    """

    peak: int
    loaded: int

    @property
    def above(self) -> int:
        """What the rounds added to the loaded model."""
        return self.peak - self.loaded


def measure_memory(settings: BenchSettings, case: Case, name: str) -> Memory:
    """Run contender `name` in a fresh process for a few rounds.

    Raises:
        BlobPyroError: the process failed, or was killed (as the system does where memory ends).
    """
    request = {"settings": as_record(settings), "case": as_record(case), "contender": name}
    try:
        return Memory(**run_apart(__name__, request))
    except BlobPyroError as error:
        raise BlobPyroError(f"memory of {name}: {error}; leave it out with --memory false") from error


def memory_here(settings: BenchSettings, case: Case, name: str) -> Memory:
    """The same in this process, whose peak from now on is all that can be told where there is no /proc."""
    base = Base(settings)
    action = line_up(settings, case, base, [name])[name]
    _touch(base)
    meter = memory_meter(settings.device)
    loaded = meter.restart()
    for number in range(NUM_ROUNDS):
        action(number)
    return Memory(peak=meter.peak(), loaded=loaded)


class _CudaMeter:
    """Memory that torch's allocator holds for tensors on a GPU."""

    def __init__(self, device: str) -> None:
        self._device = device

    def restart(self) -> int:
        """Forget the peak; returns what is in use."""
        torch.cuda.synchronize(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        return torch.cuda.memory_allocated(self._device)

    def peak(self) -> int:
        torch.cuda.synchronize(self._device)
        return torch.cuda.max_memory_allocated(self._device)


class _LinuxMeter:
    """Resident memory of this process, whose high-water mark Linux can set back."""

    def restart(self) -> int:
        """Forget the peak; returns what is in use."""
        Path("/proc/self/clear_refs").write_text("5")
        return self._status("VmRSS")

    def peak(self) -> int:
        return self._status("VmHWM")

    @staticmethod
    def _status(field: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


class _UsageMeter:
    """Resident memory of this process by getrusage: the high-water mark since the process began."""

    def restart(self) -> int:
        """The peak until now; it cannot be forgotten."""
        return self.peak()

    def peak(self) -> int:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def memory_meter(device: str) -> _CudaMeter | _LinuxMeter | _UsageMeter:
    """What tells peak memory from `restart()` on: of tensors on a GPU, of this process elsewhere."""
    if device.startswith("cuda"):
        return _CudaMeter(device)
    meter = _LinuxMeter()
    try:
        meter.restart()
    except OSError:  # another system, or a container that forbids it
        return _UsageMeter()
    return meter


def _touch(base: Base) -> None:
    """Read a byte of each page of the weights: mapped files count as resident only once they have been read."""
    for tensor in base.tensors():
        if tensor.device.type == "cpu" and tensor.is_contiguous():
            tensor.detach().reshape(-1).view(torch.uint8)[::PAGE].sum()


def main(request: dict[str, Any]) -> dict[str, int]:
    """Answer a request of `measure_memory`."""
    settings, case = BenchSettings(**from_record(request["settings"])), Case(**from_record(request["case"]))
    return vars(memory_here(settings, case, request["contender"]))
