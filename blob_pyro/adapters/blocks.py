"""Where the repeated blocks of a transformer are."""

from __future__ import annotations

from torch import nn


def block_list(network: nn.Module) -> nn.ModuleList | None:
    """The list of a network's blocks: its only outermost ModuleList; None where there is none, or several."""
    lists = {name: module for name, module in network.named_modules() if isinstance(module, nn.ModuleList)}
    outermost = [name for name in lists if not any(name.startswith(other + ".") for other in lists)]
    return lists[outermost[0]] if len(outermost) == 1 else None
