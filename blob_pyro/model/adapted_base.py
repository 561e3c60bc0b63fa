"""Loads a base and puts an adapter on it: in one process, or over several of which the first alone reads the base."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import transformers
from pyro.util import get_rng_state, set_rng_state
from torch import Tensor, nn

from blob_pyro.errors import ConfigError, ModelLoadError
from blob_pyro.model.architectures import tell_random
from blob_pyro.model.layers.sharding import check_shardable, shard_base
from blob_pyro.model.likelihoods import Likelihood
from blob_pyro.model.loading import BaseSource, fill_padding, load_base, load_tokenizer
from blob_pyro.system.processes import Ranks, Together, together

if TYPE_CHECKING:
    from peft import PeftModel

PutAdapter = Callable[[Any], "PeftModel"]
"""Puts an adapter on a base network."""


def load_adapted(
    source: BaseSource,
    likelihood: Likelihood,
    put_adapter: PutAdapter,
    *,
    device_map: Any = None,
    shard: bool = False,
) -> tuple[PeftModel, Any]:
    """A base with an adapter on it, and the tokenizer.

    Args:
        source: the base.
        likelihood: decides its head.
        put_adapter: gets the base.
        device_map: as in `load_base`.
        shard: share the base out over the processes that a launcher has connected; all must call this.

    Raises:
        ModelLoadError: the base was not found.
        ConfigError: a setting that cannot be; with `shard`, as `check_shardable`, or a device map.
        BlobPyroError: as `put_adapter`.
    """
    if shard:
        if device_map is not None:
            raise ConfigError(f"model.shard_base: expected no device_map beside it; got {device_map!r}; leave one out")
        return _load_sharded(source, likelihood, put_adapter, Ranks.here())
    tokenizer = load_tokenizer(source.id, source.revision)
    base = load_base(source, likelihood, device_map)
    fill_padding(base, tokenizer)
    network = put_adapter(base)
    tell_random(network, source.id)
    return network, tokenizer


def _load_sharded(
    source: BaseSource, likelihood: Likelihood, put_adapter: PutAdapter, ranks: Ranks
) -> tuple[PeftModel, Any]:
    """A base with an adapter, of which each process holds its share; one whole copy, in the first one's host memory.

    The first process makes the network as one alone would. The others make the same one without values, on torch's
    meta device, and get its values, and the state of its generators: what is random is the same in all. Where
    something fails in one process, it fails in all.
    """
    check_shardable(None, ranks, source.quantization)
    with together(ranks) as group:
        with group.stage():
            tokenizer = load_tokenizer(source.id, source.revision)

        def adapted(base: Any) -> PeftModel:
            fill_padding(base, tokenizer)
            return put_adapter(base)

        if ranks.is_first:
            network = _made(source, likelihood, adapted, ranks, group)
            tell_random(network, source.id)
        else:
            network = _made_empty(likelihood, adapted, group)
    shard_base(network, ranks)
    return network, tokenizer


def _made(
    source: BaseSource, likelihood: Likelihood, put_adapter: PutAdapter, ranks: Ranks, group: Together
) -> PeftModel:
    """The network of the first process; what the others need to know of it is told to them."""
    with group.stage():
        base = load_base(source, likelihood, computes_on=ranks.device)
        check_shardable(base, ranks)
        found = BaseOutline.of(base)
    group.from_first(found)
    with group.stage():
        network = put_adapter(base)
    group.from_first((outline(network), get_rng_state()))
    with group.stage():
        return network


def _made_empty(likelihood: Likelihood, put_adapter: PutAdapter, group: Together) -> PeftModel:
    """The network of another process, without values; it goes through the stages of `_made`."""
    with group.stage():
        pass
    found = group.from_first()
    with group.stage(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "for .*: copying from a non-meta parameter")  # PEFT's reading of a file
        network = put_adapter(found.empty_base(likelihood))
    tensors, random_state = group.from_first()
    with group.stage():
        put_outline(tensors, network)
        set_rng_state(random_state)
        return network


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
        missing_keys: names of those that its files lack.
    """

    config: Any
    generation_config: Any
    tensors: list[TensorOutline]
    missing_keys: list[str]

    @classmethod
    def of(cls, base: Any) -> BaseOutline:
        """Of a base that transformers has loaded."""
        return cls(
            base.config, getattr(base, "generation_config", None), outline(base), getattr(base, "missing_keys", [])
        )

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
        base.missing_keys = self.missing_keys
        put_outline(self.tensors, base)
        return base.eval()
