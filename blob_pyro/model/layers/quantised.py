"""Keeps bitsandbytes from repacking 4-bit weights behind the model's back."""

from __future__ import annotations

from typing import Any

from torch import nn


def keep_unpacked(network: nn.Module) -> None:
    """Make every 4-bit layer keep its storage format on the CPU.

    On CPUs with AVX512-BF16, bitsandbytes (seen in 0.50.2) repacks a 4-bit weight at its first forward in
    evaluation mode, for a faster kernel. From then on that layer passes no gradient to its input, in training
    mode too, and dequantising it (merging, the full-weight law) gives noise; both without an error. The way
    back, which saving takes as well, rounds the scales of the blocks.
    """
    for module in network.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            layer: Any = module
            layer.support_avx512bf16_for_cpu = False
            if getattr(getattr(layer.weight, "quant_state", None), "packing_format_for_cpu", False):
                layer.state_dict()  # saving unpacks in place
