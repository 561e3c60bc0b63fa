"""Compiles the blocks of a network with torch.compile; the held draws are inputs of what is compiled.

Blocks of one kind share their compiled code: it is made once, for whichever block comes first. A held draw is read
off its layer at every call and guarded by its type, dtype and number of dimensions, never by its values, so the draw
of the next step is served by the same code.
"""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import torch
from torch import nn

from blob_pyro.errors import ConfigError, UnsupportedCheckpointingError
from blob_pyro.model.layers.targets import block_list

MAX_VARIANTS = 64
"""Most variants of the compiled code, of all blocks together; torch.compile's own default is 8 for a whole process."""


def compile_blocks(network: nn.Module, *, dynamic: bool | None = True, **settings: Any) -> None:
    """Compile every block of a network, in place: the names of modules and parameters stay, copies are not compiled.

    Args:
        network: a network whose blocks stand in one list.
        dynamic, settings: as in `torch.compile`.

    Raises:
        ConfigError: the network has no list of blocks, or several.
        UnsupportedCheckpointingError: the blocks recompute their forward in the backward pass.
    """
    blocks = block_list(network)
    if blocks is None:
        raise ConfigError(
            "compile_blocks: expected a network whose blocks stand in one list; found none, or several; "
            "call compile() of its modules instead"
        )
    for block in blocks:
        if getattr(block, "gradient_checkpointing", False):
            _refuse_checkpointing()
    compiled = torch.compile(_call, dynamic=dynamic, **_own_limit(), **settings)
    for block in blocks:
        # where nn.Module.compile keeps its result, too; that would make code of its own for each block
        block._compiled_call_impl = partial(_call_compiled, compiled, block)


def refuse_checkpointed(module: nn.Module) -> None:
    """Raise where a module that recomputes its forward is compiled.

    What is compiled cannot hold draws again for a recomputation: torch.compile takes no contexts for that.

    Raises:
        UnsupportedCheckpointingError: `module` is compiled.
    """
    if module._compiled_call_impl is not None:
        _refuse_checkpointing()


def _refuse_checkpointing() -> None:
    raise UnsupportedCheckpointingError(
        "expected compiled blocks or gradient checkpointing; got both; call network.gradient_checkpointing_disable(), "
        "or leave the blocks uncompiled"
    )


def _own_limit() -> dict[str, Any]:
    """Variants counted for this network alone, where this torch can: else other networks in the process use them up."""
    wanted = {"recompile_limit": MAX_VARIANTS, "isolate_recompiles": True}
    known = inspect.signature(torch.compile).parameters
    return {name: value for name, value in wanted.items() if name in known}


def _call(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    return block._call_impl(*args, **kwargs)


def _call_compiled(compiled: Any, block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    """Run a block compiled; but with a KV cache as it is: each block has its own place there, a variant for each."""
    from transformers import Cache

    cached = any(isinstance(value, Cache) for value in (*args, *kwargs.values()))
    return (_call if cached else compiled)(block, *args, **kwargs)
