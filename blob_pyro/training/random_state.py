"""Where every generator of a process stands: torch's on each device, NumPy's and Python's."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """The state of a process's global generators.

    Attributes:
        torch: of the CPU, uint8.
        cuda: of the device in use, uint8; None without one.
        others: of NumPy and of Python's `random`; JSON types only.
    """

    torch: Tensor
    cuda: Tensor | None
    others: dict[str, Any]

    @classmethod
    def here(cls) -> RandomState:
        """As they stand now."""
        cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
        numpy = np.random.get_state(legacy=False)
        assert isinstance(numpy, dict)
        key, position = numpy["state"]["key"], numpy["state"]["pos"]
        own = {"key": [int(word) for word in key], "pos": int(position)}
        version, words, gauss = random.getstate()
        others = {
            "numpy": {"state": own, "has_gauss": int(numpy["has_gauss"]), "gauss": float(numpy["gauss"])},
            "python": [version, list(words), gauss],
        }
        return cls(torch.get_rng_state(), cuda, others)

    def restore(self) -> None:
        """Put them back.

        Raises:
            ValueError, TypeError, KeyError, RuntimeError: it is no state.
        """
        torch.set_rng_state(self.torch)
        if self.cuda is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(self.cuda)
        numpy = self.others["numpy"]
        own = {"key": np.array(numpy["state"]["key"], dtype=np.uint32), "pos": numpy["state"]["pos"]}
        np.random.set_state({"bit_generator": "MT19937"} | numpy | {"state": own})
        version, words, gauss = self.others["python"]
        random.setstate((version, tuple(words), gauss))


@contextlib.contextmanager
def kept_random_state() -> Iterator[None]:
    """Whatever is drawn inside, the generators stand afterwards as before."""
    before = RandomState.here()
    try:
        yield
    finally:
        before.restore()


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's global random numbers from a seed on; afterwards the states of the CPU and of one device as before."""
    devices, kind = ([], "cuda") if device.type == "cpu" else ([device], device.type)
    with torch.random.fork_rng(devices, device_type=kind):
        torch.manual_seed(seed)
        yield
