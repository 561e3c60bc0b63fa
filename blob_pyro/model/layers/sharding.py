"""Shards a frozen base over processes, for one that does not fit a single device.

torch's sharding is imported where it is used: it takes half a second, and brings warning filters of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from blob_pyro.errors import ConfigError
from blob_pyro.model.layers.targets import block_list
from blob_pyro.system.processes import Ranks

if TYPE_CHECKING:
    from peft import PeftModel


def shard_base(network: PeftModel, ranks: Ranks) -> None:
    """Give each process a share of every block's frozen weights; a block is whole while it computes (FSDP2).

    The adapters stay whole everywhere: they are small, and their gradients are summed by the step itself. So do
    embeddings and head, which are read outside of blocks. All processes must then make the same forwards.

    Every value is the first process's; the others may hold the network without values, on torch's meta device. Blocks
    are handed out one after another, so that no other process ever holds more than its shares, one whole block, and
    what is whole everywhere.

    Args:
        network: a PEFT model whose blocks stand in one list, the same in all processes. It ends on the
            process's device.
        ranks: the processes.

    Raises:
        ConfigError: as `check_shardable`.

    Source: Zhao et al. 2023 (arXiv 2304.11277), in torch's second implementation.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    base = network.get_base_model()
    blocks = check_shardable(base, ranks)
    mesh = init_device_mesh(ranks.device.type, (ranks.num,))
    handing = _HandingOut(network, ranks)
    for block in blocks:
        handing.hand_out(block)
        kept = {parameter for parameter in block.parameters() if parameter.requires_grad}
        fully_shard(block, mesh=mesh, ignored_params=kept, reshard_after_forward=True)
    handing.hand_out(network)  # what is whole everywhere
    outside = {parameter for parameter in base.parameters() if not _is_share(parameter)}
    fully_shard(base, mesh=mesh, ignored_params=outside)


def check_shardable(base: nn.Module | None, ranks: Ranks, quantization: str | None = None) -> Iterable[nn.Module]:
    """Refuse what cannot be shared out; returns the base's blocks.

    Args:
        base: the network; None where it is not there yet.
        ranks: the processes.
        quantization: how the base is to be quantised.

    Raises:
        ConfigError: one process alone, a network whose blocks do not stand in one list, or a quantised base, whose
            weights have no parts.
    """
    if ranks.num == 1:
        raise ConfigError("model.shard_base: expected several processes; got one: start them with a launcher")
    if (quantization or getattr(base, "quantization_method", None)) is not None:
        raise ConfigError("model.shard_base: expected a base that is not quantised; leave one of the two out")
    if base is None:
        return ()
    blocks = block_list(base)
    if blocks is None:
        raise ConfigError("model.shard_base: expected a network whose blocks stand in one list; found none, or several")
    return blocks


def is_sharded(network: PeftModel) -> bool:
    """Whether `shard_base` has shared the base out."""
    return any(map(_is_share, network.parameters()))


def _is_share(tensor: Tensor) -> bool:
    """Whether a tensor is a process's share of one."""
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


class _HandingOut:
    """Gives the first process's tensors to all, each once, on the device where they compute.

    Args:
        network: the whole network; tied tensors stay tied.
        ranks: the processes.
    """

    def __init__(self, network: nn.Module, ranks: Ranks) -> None:
        self._ranks = ranks
        # by the id of a tensor without values: the places where it stands
        self._places: dict[int, list[tuple[dict[str, Any], str]]] = {}
        self._done: set[int] = set()
        for module in network.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None and tensor.is_meta:
                        self._places.setdefault(id(tensor), []).append((tensors, name))

    def hand_out(self, module: nn.Module) -> None:
        """Hand out those of a module's tensors that are not sharded, and were not handed out before."""
        for tensor in (*module.parameters(), *module.buffers()):
            if not _is_share(tensor) and id(tensor) not in self._done:
                here = self._here(tensor)
                self._ranks.hand_out(here.data)
                self._done.add(id(here))

    def _here(self, tensor: Tensor) -> Tensor:
        """The tensor on this process's device, contiguous; a new one, of any values, in place of one without."""
        values: Tensor = torch.empty(tensor.shape, dtype=tensor.dtype, device=self._ranks.device)
        if (
            not tensor.is_meta
        ):  # a copy on the CPU, too: one tensor that is left of a mapped file keeps all of it mapped
            tensor.data = values.copy_(tensor.data)
            return tensor
        if isinstance(tensor, nn.Parameter):
            values = nn.Parameter(values, requires_grad=tensor.requires_grad)
        for tensors, name in self._places[id(tensor)]:
            tensors[name] = values
        return values
