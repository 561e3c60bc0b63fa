"""Shards a frozen base over processes, for one that does not fit a single device.

torch's sharding is imported where it is used: it takes half a second, and brings warning filters of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from blob_pyro.adapters.blocks import block_list
from blob_pyro.errors import ConfigError
from blob_pyro.ranks import Ranks

if TYPE_CHECKING:
    from peft import PeftModel


def shard_base(network: PeftModel, ranks: Ranks) -> None:
    """Give each process a share of every block's frozen weights; a block is whole while it computes (FSDP2).

    The adapters stay whole everywhere: they are small, and their gradients are summed by the step itself. So do
    embeddings and head, which are read outside of blocks. All processes must then make the same forwards.

    Args:
        network: a PEFT model whose blocks stand in one list; it ends on the process's device.
        ranks: the processes.

    Raises:
        ConfigError: one process alone, a network without such a list, or a quantised base, whose weights have no parts.

    Source: Zhao et al. 2023 (arXiv 2304.11277), in torch's second implementation.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    if ranks.num == 1:
        raise ConfigError("model.shard_base: expected several processes; got one: start them with a launcher")
    base = network.get_base_model()
    blocks = block_list(base)
    if blocks is None:
        raise ConfigError("model.shard_base: expected a network whose blocks stand in one list; found none, or several")
    if getattr(base, "quantization_method", None) is not None:
        raise ConfigError("model.shard_base: expected a base that is not quantised; leave one of the two out")
    mesh = init_device_mesh(ranks.device.type, (ranks.num,))
    kept = {parameter for parameter in network.parameters() if parameter.requires_grad}
    for block in blocks:
        fully_shard(block, mesh=mesh, ignored_params=kept, reshard_after_forward=True)
    outside = {parameter for parameter in base.parameters() if not isinstance(parameter, DTensor)}
    fully_shard(base, mesh=mesh, ignored_params=outside)
    network.to(ranks.device)  # what is whole everywhere


def is_sharded(network: PeftModel) -> bool:
    """Whether `shard_base` has shared the base out."""
    from torch.distributed.tensor import DTensor

    return any(isinstance(parameter, DTensor) for parameter in network.parameters())
