"""Which layers are adapted where nothing is said: PEFT's table, and what it lacks."""

from __future__ import annotations

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
