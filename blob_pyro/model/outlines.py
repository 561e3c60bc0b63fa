"""What a network's tensors are, without their values: enough for another process to hold the same network empty."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers
from torch import Tensor, nn

from blob_pyro.errors import ModelLoadError

if TYPE_CHECKING:
    from blob_pyro.model.likelihoods import Likelihood


@dataclass(frozen=True)
class TensorOutline:
    """A parameter or buffer of a network.

    Attributes:
        names: every name that it has; several of tied weights.
        shape, dtype: its own.
        trained: requires_grad of a parameter; None of a buffer.
    """

    names: tuple[str, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    trained: bool | None

    def empty(self) -> Tensor:
        """Such a tensor without values, on torch's meta device."""
        values = torch.empty(self.shape, dtype=self.dtype, device="meta")
        return values if self.trained is None else nn.Parameter(values, requires_grad=self.trained)


def outline(network: nn.Module) -> list[TensorOutline]:
    """All tensors of a network, each once."""
    names: dict[int, list[str]] = {}
    tensors: dict[int, Tensor] = {}
    for name, tensor in _named_tensors(network):
        names.setdefault(id(tensor), []).append(name)
        tensors[id(tensor)] = tensor
    return [
        TensorOutline(
            names=tuple(names[key]),
            shape=tuple(tensor.shape),
            dtype=tensor.dtype,
            trained=tensor.requires_grad if isinstance(tensor, nn.Parameter) else None,
        )
        for key, tensor in tensors.items()
    ]


def put_outline(found: list[TensorOutline], network: nn.Module) -> None:
    """Make a network's tensors those of an outline, without values: same types, same ties.

    Raises:
        ModelLoadError: the network has other names.
    """
    own, wanted = {name for name, _ in _named_tensors(network)}, {name for part in found for name in part.names}
    if odd := sorted(own ^ wanted):
        raise ModelLoadError(
            f"model.shard_base: expected a base that its configuration describes; it has {len(odd)} tensors more or "
            f"less once it is loaded ({', '.join(odd[:3])}): leave shard_base out"
        )
    for part in found:
        tensor = part.empty()
        for name in part.names:
            put_tensor(network, name, tensor)


def put_tensor(network: nn.Module, name: str, tensor: Tensor) -> None:
    """Put a parameter or buffer in the place of the one that a network has under a name."""
    path, _, last = name.rpartition(".")
    module = network.get_submodule(path)
    places: dict[str, Any] = module._parameters if last in module._parameters else module._buffers
    places[last] = tensor


def _named_tensors(network: nn.Module) -> list[tuple[str, Tensor]]:
    parameters = network.named_parameters(remove_duplicate=False)
    return [*parameters, *network.named_buffers(remove_duplicate=False)]


@dataclass(frozen=True)
class BaseOutline:
    """A loaded base without its values.

    Attributes:
        config: its configuration.
        generation_config: how it generates; None of one that does not.
        tensors: all of them.
    """

    config: Any
    generation_config: Any
    tensors: list[TensorOutline]

    @classmethod
    def of(cls, base: Any) -> BaseOutline:
        """Of a base that transformers has loaded."""
        return cls(base.config, getattr(base, "generation_config", None), outline(base))

    def empty_base(self, likelihood: Likelihood) -> Any:
        """The base on torch's meta device.

        Args:
            likelihood: decides the head.

        Raises:
            ModelLoadError: the loaded base has other tensors than its configuration makes.
        """
        auto_class = getattr(transformers, likelihood.auto_class)
        attention = self.config._attn_implementation
        with torch.device("meta"):
            base = auto_class.from_config(self.config, attn_implementation=attention, trust_remote_code=False)
        if self.generation_config is not None:
            base.generation_config = self.generation_config
        put_outline(self.tensors, base)
        return base.eval()
