"""Where the repeated blocks of a transformer are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from torch import nn

from blob_pyro.errors import ConfigError

if TYPE_CHECKING:
    from peft import PeftModel


def block_list(network: nn.Module) -> nn.ModuleList | None:
    """The list of a network's blocks: its only outermost ModuleList; None where there is none, or several."""
    lists = {name: module for name, module in network.named_modules() if isinstance(module, nn.ModuleList)}
    outermost = [name for name in lists if not any(name.startswith(other + ".") for other in lists)]
    return lists[outermost[0]] if len(outermost) == 1 else None


def in_blocks(network: PeftModel, paths: Iterable[str], blocks: Sequence[int]) -> list[str]:
    """Those of the modules at `paths` that stand in the given blocks, or in no block at all.

    Args:
        network: a PEFT model.
        paths: dotted paths of modules of `network`.
        blocks: indices into the list of the network's blocks; negative ones count from its end.

    Raises:
        ConfigError: the network has no such list, or not so many blocks.
    """
    found = block_list(network.get_base_model())
    if found is None:
        raise ConfigError(
            "bayesian_layers: expected a network whose blocks stand in one list; found none, or several; "
            "choose layers with target_modules and layers_to_transform of LoraConfig"
        )
    for index in blocks:
        if isinstance(index, bool) or not isinstance(index, int) or not -len(found) <= index < len(found):
            raise ConfigError(
                f"bayesian_layers: expected indices of the network's {len(found)} blocks, "
                f"{-len(found)} to {len(found) - 1}; got {index!r}"
            )
    wanted = {index % len(found) for index in blocks}
    inside = next(name for name, module in network.named_modules() if module is found) + "."
    return [path for path in paths if not path.startswith(inside) or _index(path, inside) in wanted]


def _index(path: str, inside: str) -> int:
    """Index of the block that a path below the list leads to."""
    return int(path.removeprefix(inside).split(".")[0])
