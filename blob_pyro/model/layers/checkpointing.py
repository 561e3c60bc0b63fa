"""Gradient checkpointing that sees the same draws when it recomputes.

The backward pass of a checkpointed block runs its forward again, when the step's draws are no longer
held. torch's non-reentrant checkpointing takes a `context_fn` whose second context surrounds each
recomputation: it holds the draws of that very forward again, so gradients are bit-equal with
checkpointing on and off, however many graphs are alive.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from torch import nn

from blob_pyro.errors import UnsupportedCheckpointingError
from blob_pyro.model.layers.compiling import refuse_checkpointed

Contexts = Callable[[], tuple[AbstractContextManager[Any], AbstractContextManager[Any]]]


def enable_checkpointing(network: Any, use_reentrant: bool = False) -> None:
    """Have a transformers model recompute its blocks in the backward; 5.23 gave the method another name."""
    name = "activation_checkpointing_enable"
    enable = getattr(network, name if hasattr(network, name) else "gradient_checkpointing_enable")
    enable({"use_reentrant": use_reentrant})


def checkpointing_modules(network: nn.Module) -> list[Any]:
    """The modules of a transformers model that can recompute their forward."""
    return [module for module in network.modules() if hasattr(module, "gradient_checkpointing")]


def follow_draws(modules: list[Any], contexts: Contexts) -> None:
    """Make every module that checkpoints use `contexts` as its `context_fn`.

    Raises:
        UnsupportedCheckpointingError: checkpointing is reentrant: it would recompute without the
            draws, and backpropagate through them twice. Or a module that checkpoints is compiled.
    """
    for module in modules:
        if module.gradient_checkpointing and module.training:
            refuse_checkpointed(module)
            function = module._gradient_checkpointing_func
            settings = function.keywords if isinstance(function, partial) else {}
            if settings.get("use_reentrant", True):
                raise UnsupportedCheckpointingError(
                    "expected non-reentrant gradient checkpointing; got use_reentrant=True; call network."
                    "gradient_checkpointing_enable(gradient_checkpointing_kwargs={'use_reentrant': False})"
                )
            if settings.get("context_fn") != contexts:
                module._gradient_checkpointing_func = partial(function, context_fn=contexts)
