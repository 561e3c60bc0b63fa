"""Says why there is no second derivative through torch's fused attention, where somebody asks for one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from blob_pyro.errors import ConfigError

_FUSED = ("ScaledDotProductFlash", "ScaledDotProductEfficient", "ScaledDotProductCudnn")


def guarded(logits: Tensor) -> Tensor:
    """The logits, whose backward raises one line where its own derivative is wanted and cannot be had.

    torch's error would come later, from the middle of its engine. Pyro's `AutoLaplaceApproximation` takes the Hessian
    so; nothing here does.
    """
    if logits.grad_fn is not None:
        before = [node for node, _ in logits.grad_fn.next_functions]  # the node itself would be a circle

        def refuse(gradient: Tensor) -> None:
            if torch.is_grad_enabled() and (kernel := _fused_kernel(before)):
                raise ConfigError(
                    "attn_implementation: expected an attention that has second derivatives, which a Hessian takes; "
                    f"got {kernel}, which has none: take attn_implementation='eager', or put `with torch.nn.attention."
                    "sdpa_kernel(torch.nn.attention.SDPBackend.MATH):` around it"
                )

        logits.register_hook(refuse)
    return logits


def _fused_kernel(nodes: list[Any]) -> str | None:
    """The name of a fused attention's node in the graph behind some nodes; None where there is none."""
    seen, left = set(), list(nodes)
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name().startswith(_FUSED):
            return str(node.name()).removesuffix("Backward0")
        left += [other for other, _ in node.next_functions]
    return None
