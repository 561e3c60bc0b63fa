"""Where the base's weights go: what `device_map` may be, and whether this machine has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from blob_pyro.errors import ConfigError

if TYPE_CHECKING:
    from torch import nn

STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
"""What accelerate distributes by itself over the devices that there are."""

_EXPECTED = f"a device (cpu, cuda, cuda:0), {', '.join(STRATEGIES)}, or devices by name of a module"


def check_device_map(value: Any, name: str = "device_map") -> None:
    """Refuse what cannot be a device map; whether its devices are here is not asked.

    Args:
        value: None; a strategy; a device, or its number; or module name -> one of these, "" being the whole network.
        name: of the setting.

    Raises:
        ConfigError: it is none of these, or weights are put on the disk or nowhere ("meta").
    """
    if isinstance(value, Mapping) and not value:
        raise ConfigError(f"{name}: expected {_EXPECTED}; got {value!r}")
    for place in _places(value):
        if place in ("disk", "meta"):
            raise ConfigError(
                f"{name}: expected devices that hold the weights; got {place!r}: training cannot work with weights "
                "that are not in memory; quantise the base (8bit, 4bit) where it does not fit"
            )
        if not _is_device(place):
            raise ConfigError(f"{name}: expected {_EXPECTED}; got {value!r}")


def missing_device(value: Any) -> str | None:
    """The first device of a map that this machine does not have; None where it has all of them.

    Example:
        >>> missing_device("auto"), missing_device({"": "cpu"}), missing_device("cuda:99")
        (None, None, 'cuda:99')
    """
    for place in _places(value):
        try:
            torch.empty(0, device=place)
        except Exception:  # each backend has an error of its own
            return f"cuda:{place}" if isinstance(place, int) else str(place)
    return None


def refuse_missing_device(value: Any, name: str = "device_map") -> None:
    """Refuse a map with a device that this machine does not have.

    Raises:
        ConfigError: names the device, and those that there are.
    """
    if (missing := missing_device(value)) is not None:
        raise ConfigError(f"{name}: expected devices of this machine ({', '.join(_here())}); got {missing}")


def refuse_offloaded(network: nn.Module, name: str = "device_map") -> None:
    """Refuse a network of which a strategy found no place for some weights in memory of its own.

    accelerate keeps such weights on the disk, or on the CPU beside an accelerator, and shows "meta" tensors for them.

    Raises:
        ConfigError: some are offloaded.
    """
    away = [key for key, value in network.named_parameters() if value.device.type == "meta"]
    if away:
        raise ConfigError(
            f"{name}: expected devices with room for the whole base; got {len(away)} of its tensors offloaded "
            f"({away[0]}): training cannot work with those; quantise the base (8bit, 4bit), or take a smaller one"
        )


def refuse_unknown_modules(network: nn.Module, value: Any, name: str = "device_map") -> None:
    """Refuse a map with a name that is no module, tensor or beginning of one: transformers passes over it.

    Raises:
        ConfigError: names it, and the largest modules that there are.
    """
    if not isinstance(value, Mapping):
        return
    known = [path for path, _ in (*network.named_modules(), *network.named_parameters())]
    if unknown := [key for key in value if key not in known]:
        parts = ", ".join(path for path in known if path and "." not in path)
        raise ConfigError(f"{name}: expected names of modules ({parts}, or parts of these); got {unknown[0]!r}")


def _places(value: Any) -> list[Any]:
    """The devices that a map names; none for None or a strategy."""
    places = list(value.values()) if isinstance(value, Mapping) else [value]
    return [place for place in places if place is not None and not (place in STRATEGIES and place is value)]


def _is_device(place: Any) -> bool:
    if isinstance(place, bool) or not isinstance(place, int | str | torch.device):
        return False
    if isinstance(place, int):
        return place >= 0
    try:
        torch.device(place)
    except RuntimeError:
        return False
    return True


def _here() -> list[str]:
    """The devices of this machine."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if accelerator is None:
        return ["cpu"]
    return ["cpu", *(f"{accelerator.type}:{i}" for i in range(torch.accelerator.device_count()))]
