"""Which layers are meant: by name where nothing is said (PEFT's table, and what it lacks), and by block."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn
from transformers.pytorch_utils import Conv1D

from blob_pyro.errors import ConfigError

if TYPE_CHECKING:
    from peft import PeftModel

# DeBERTa-v2 applies its query projection, which is in PEFT's table, to the relative positions too, which all items
# share, so that items cannot have draws of their own.
DEFAULT_TARGET_MODULES: Mapping[str, tuple[str, ...]] = {"deberta-v2": ("value_proj",)}

# What architectures call their query and value projections, or what holds them; the first that a network has. Those of
# experts are not among them: an adapter on attention alone is what mixtures of experts are usually given.
CONVENTIONS = (
    ("q_proj", "v_proj"),
    ("query", "value"),
    ("q_lin", "v_lin"),
    ("q_b_proj", "kv_b_proj"),
    ("q_proj", "kv_b_proj"),
    ("query_key_value",),
    ("qkv_proj",),
    ("c_attn",),
    ("Wqkv",),
    ("q", "v"),
)


def default_target_modules(network: Any) -> list[str] | str | None:
    """Which layers to adapt where nobody says: the library's choice, or PEFT's, or by what they are called.

    Args:
        network: a transformers network.

    Returns:
        As PEFT takes them; None where nothing is known.
    """
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFTS

    kind = network.config.model_type
    known = DEFAULT_TARGET_MODULES.get(kind) or PEFTS.get(kind)
    if known is None:
        there = linear_layer_names(network)
        known = next((names for names in CONVENTIONS if set(names) <= set(there)), None)
    return known if known is None or isinstance(known, str) else list(known)


def linear_layer_names(network: nn.Module) -> list[str]:
    """Last parts of the names of a network's linear layers, each once: what target_modules may hold."""
    kinds = (nn.Linear, Conv1D)
    return sorted({name.rsplit(".", 1)[-1] for name, module in network.named_modules() if isinstance(module, kinds)})


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
        if type(index) is not int or not -len(every_block) <= index < len(every_block):
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
