"""Which layers are meant: by name where nothing is said (PEFT's table, and what it lacks), and by block."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from blob_pyro.errors import ConfigError

if TYPE_CHECKING:
    from peft import PeftModel

# The query and value projections, as in PEFT's table, of architectures that it does not know. DeBERTa-v2 applies its
# query projection to the relative positions too, which all items share, so that items cannot have draws of their own.
DEFAULT_TARGET_MODULES: Mapping[str, tuple[str, ...]] = {
    "cohere": ("q_proj", "v_proj"),
    "deberta-v2": ("value_proj",),
    "distilbert": ("q_lin", "v_lin"),
    "granite": ("q_proj", "v_proj"),
    "modernbert": ("Wqkv",),
    "phi3": ("qkv_proj",),
    "smollm3": ("q_proj", "v_proj"),
}


def default_target_modules(model_type: str) -> list[str] | None:
    """Names of the layers to adapt; None leaves it to PEFT, which knows the architecture or asks for names.

    Example:
        >>> default_target_modules("phi3")
        ['qkv_proj']
    """
    names = DEFAULT_TARGET_MODULES.get(model_type)
    return None if names is None else list(names)


_MAX_REPEATS, _MAX_CHOICES = 4, 8


def may_search_long(pattern: str) -> bool:
    """Whether searching a name for a regular expression may take exponentially long, or too many nested loops.

    Example:
        >>> may_search_long(r".*layers\\.[0-9]+\\.(self_attn|mlp)\\.(q|v)_proj"), may_search_long("(.+)+x")
        (False, True)
    """
    bare = re.sub(r"\\.", "a", pattern)
    bare = re.sub(r"\[\^?\]?[^\]]*\]", "a", bare)
    if re.search(r"\)[*+{]", bare):
        return True
    return len(re.findall(r"[*+{]", bare)) > _MAX_REPEATS or bare.count("?") > _MAX_CHOICES


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
    every_block = block_list(network.get_base_model())
    if every_block is None:
        raise ConfigError(
            "bayesian_layers: expected a network whose blocks stand in one list; found none, or several; "
            "choose layers with target_modules and layers_to_transform of LoraConfig"
        )
    for index in blocks:
        if isinstance(index, bool) or not isinstance(index, int) or not -len(every_block) <= index < len(every_block):
            raise ConfigError(
                f"bayesian_layers: expected indices of the network's {len(every_block)} blocks, "
                f"{-len(every_block)} to {len(every_block) - 1}; got {index!r}"
            )
    wanted = {index % len(every_block) for index in blocks}
    inside = next(name for name, module in network.named_modules() if module is every_block) + "."
    return [path for path in paths if not path.startswith(inside) or _index(path, inside) in wanted]


def _index(path: str, inside: str) -> int:
    """Index of the block that a path below the list leads to."""
    return int(path.removeprefix(inside).split(".")[0])
