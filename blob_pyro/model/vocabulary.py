"""What ids and how many tokens a network can read: fewer ids, perhaps, than its tokenizer gives out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn

from blob_pyro.data.examples import Batch
from blob_pyro.errors import DataError


def num_token_ids(network: Any) -> int | None:
    """Rows of the input embedding, or of the output layer where that has fewer; None where neither tells."""
    base = network.get_base_model()
    if not hasattr(base, "get_input_embeddings"):  # no transformers network
        return None
    try:
        entry, exit_ = base.get_input_embeddings(), base.get_output_embeddings()
    except NotImplementedError:  # of letters, which are hashed (CANINE)
        return None
    sizes = (getattr(entry, "num_embeddings", None), getattr(exit_, "out_features", None))
    return min((size for size in sizes if isinstance(size, int)), default=None)


def context(network: Any) -> int | None:
    """Most tokens of an item by the network's configuration; None where it tells of no limit.

    RoBERTa and its kin count positions from behind their padding token's id, and have so many fewer.
    """
    base = network.get_base_model()
    if not hasattr(base, "config"):  # no transformers network
        return None
    longest = getattr(base.config.get_text_config(decoder=True), "max_position_embeddings", None)
    if not isinstance(longest, int) or longest < 1:
        return None
    tables = [module for name, module in base.named_modules() if name.endswith("position_embeddings")]
    counted = (one for one in tables if isinstance(one, nn.Embedding) and one.padding_idx is not None)
    return min((longest, *(one.num_embeddings - one.padding_idx - 1 for one in counted if one.padding_idx is not None)))


def num_positions(network: Any) -> int | None:
    """Positions that a network has an embedding for; None where it computes them (rotary, relative), without an end."""
    config = getattr(network.get_base_model(), "config", None)
    rotary = config is not None and getattr(config.get_text_config(decoder=True), "rope_parameters", None) is not None
    return None if rotary else context(network)


def check_batch(batch: Batch, model: Any) -> None:
    """Raise where a model's network cannot read a batch. Ids are looked at on CPUs: elsewhere the host would wait.

    Args:
        batch: the items.
        model: the BayesianLoRA.

    Raises:
        UnsupportedLayerError: the adapter is not the active, enabled and unmerged one (`check_alive`).
        DataError: an item is longer than the network's context or has no token, or a token id is none of its embedding.
    """
    model.check_alive()
    longest = model.num_positions
    if longest is not None and batch.input_ids.shape[1] > longest:
        lengths = batch.lengths
        if int(lengths.max()) > longest:
            item = int(lengths.argmax())
            raise DataError(
                f"input_ids: expected at most {longest} tokens, the network's context; got {int(lengths[item])} in "
                f"item {item} of a batch: shorten it (`bp.encode` does, with max_length={longest})"
            )
    if batch.input_ids.device.type == "cpu":
        if 0 in (tokens := batch.lengths.tolist()):
            raise DataError(
                f"attention_mask: expected a token in each item; got none in item {tokens.index(0)}: leave it out"
            )
        check_token_ids(batch.input_ids, model.network, model.tokenizer, "input_ids")


def ready(batch: Batch, model: Any) -> Batch:
    """A batch that `check_batch` has looked at, on its model's device.

    Raises:
        UnsupportedLayerError, DataError: as `check_batch` says.
    """
    check_batch(batch, model)
    return batch.to(model.device)


def check_to_learn(batch: Batch, model: Any) -> None:
    """`check_batch`, and labels, where there are any, are looked at likewise.

    Raises:
        UnsupportedLayerError, DataError: as `check_batch` says.
        LabelError: a label is none that the likelihood observes.
    """
    check_batch(batch, model)
    if batch.labels is not None and batch.labels.device.type == "cpu":
        model.likelihood.check_labels(batch.labels)


def check_token_ids(ids: Iterable[int] | Tensor, network: Any, tokenizer: Any, what: str) -> None:
    """Raise where an id is none of the network's.

    Args:
        ids: token ids.
        network: the PEFT model.
        tokenizer: names the token in the message; or None.
        what: what they are, for the message.

    Raises:
        DataError: names the highest id, and the cure.
    """
    known = num_token_ids(network)
    values = ids.flatten().aminmax() if isinstance(ids, Tensor) and ids.numel() else _ends(ids)
    lowest, highest = map(int, values)
    if known is None or (lowest >= 0 and highest < known):
        return
    odd = highest if highest >= known else lowest
    token = "" if tokenizer is None or odd < 0 else f" ({tokenizer.convert_ids_to_tokens(odd)!r})"
    resize = (
        f"call resize_token_embeddings({odd + 1}) on the base before it gets its adapter (for a run, and save it), or "
    )
    raise DataError(
        f"{what}: expected token ids from 0 to {known - 1}, the rows of the network's embedding; got {odd}{token}: "
        f"{resize if odd > 0 else ''}take a token that it knows"
    )


def _ends(ids: Iterable[Any]) -> tuple[int, int]:
    """The lowest and the highest; of none two that are known."""
    values = [int(one) for one in ids]
    return (min(values), max(values)) if values else (0, 0)
