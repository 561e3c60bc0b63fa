"""Which layers are adapted where nothing is said: PEFT's table, and what it lacks."""

from __future__ import annotations

import re
from collections.abc import Mapping

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
