"""Where every generator of a process stands: torch's on each device, NumPy's and Python's."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class RandomState:
    """The state of a process's global generators.

    Attributes:
        torch: of the CPU, uint8.
        devices: of the devices that a network lies on, uint8: "cuda" for the first of that type, "cuda.1" for the next.
        others: of NumPy and of Python's `random`; JSON types only.
    """

    torch: Tensor
    devices: dict[str, Tensor]
    others: dict[str, Any]

    @classmethod
    def here(cls, network: nn.Module) -> RandomState:
        """As they stand now, on the CPU and where the network lies."""
        numpy = np.random.get_state(legacy=False)
        assert isinstance(numpy, dict)
        key, position = numpy["state"]["key"], numpy["state"]["pos"]
        own = {"key": [int(word) for word in key], "pos": int(position)}
        version, words, gauss = random.getstate()
        others = {
            "numpy": {"state": own, "has_gauss": int(numpy["has_gauss"]), "gauss": float(numpy["gauss"])},
            "python": [version, list(words), gauss],
        }
        devices = {name: _backend(device).get_rng_state(device) for name, device in _devices(network).items()}
        return cls(torch.get_rng_state(), devices, others)

    def restore(self, network: nn.Module) -> None:
        """Put them back; those of devices where the network lies on ones of that type.

        Raises:
            ValueError, TypeError, KeyError, RuntimeError: it is no state.
        """
        torch.set_rng_state(self.torch)
        for name, device in _devices(network).items():
            if name in self.devices:
                _backend(device).set_rng_state(self.devices[name], device)
        numpy = self.others["numpy"]
        own = {"key": np.array(numpy["state"]["key"], dtype=np.uint32), "pos": numpy["state"]["pos"]}
        np.random.set_state({"bit_generator": "MT19937"} | numpy | {"state": own})
        version, words, gauss = self.others["python"]
        random.setstate((version, tuple(words), gauss))


def _devices(network: nn.Module) -> dict[str, torch.device]:
    """Those with a generator of their own, in the order of the parameters, by the names of `RandomState.devices`."""
    found: dict[str, torch.device] = {}
    for device in dict.fromkeys(parameter.device for parameter in network.parameters()):
        if device.type != "cpu" and hasattr(_backend(device), "get_rng_state"):
            place = sum(other.type == device.type for other in found.values())
            found[f"{device.type}.{place}" if place else device.type] = device
    return found


def _backend(device: torch.device) -> Any:
    """`torch.cuda`, `torch.xpu`, ...; None of a device without such a module (meta)."""
    return getattr(torch, device.type, None)


@contextlib.contextmanager
def kept_random_state(network: nn.Module) -> Iterator[None]:
    """Whatever is drawn inside, the generators of the CPU and of the network's devices stand afterwards as before."""
    before = RandomState.here(network)
    try:
        yield
    finally:
        before.restore(network)


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """torch's global random numbers from a seed on; afterwards the states of the CPU and of one device as before."""
    devices, kind = ([], "cuda") if device.type == "cpu" else ([device], device.type)
    with torch.random.fork_rng(devices, device_type=kind):
        torch.manual_seed(seed)
        yield
