"""Loads a base and puts an adapter on it: in one process, or over several of which the first alone reads the base."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pyro.util import get_rng_state, set_rng_state

from blob_pyro.errors import ConfigError
from blob_pyro.model.layers.sharding import check_shardable, shard_base
from blob_pyro.model.likelihoods import Likelihood
from blob_pyro.model.loading import BaseSource, fill_padding, load_base, load_tokenizer
from blob_pyro.model.outlines import BaseOutline, outline, put_outline
from blob_pyro.system.processes import Ranks
from blob_pyro.system.together import Together, together

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
    tokenizer = load_tokenizer(source.id)
    base = load_base(source, likelihood, device_map)
    fill_padding(base, tokenizer)
    return put_adapter(base), tokenizer


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
            tokenizer = load_tokenizer(source.id)

        def adapted(base: Any) -> PeftModel:
            fill_padding(base, tokenizer)
            return put_adapter(base)

        if ranks.is_first:
            network = _made(source, likelihood, adapted, ranks, group)
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
