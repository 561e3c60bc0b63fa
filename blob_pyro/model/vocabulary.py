"""How many token ids a network knows, which may be fewer than its tokenizer gives out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from blob_pyro.errors import DataError


def num_token_ids(network: Any) -> int | None:
    """Rows of the input embedding, or of the output layer where that has fewer; None where neither tells."""
    base = network.get_base_model()
    if not hasattr(base, "get_input_embeddings"):  # no transformers network
        return None
    entry, exit_ = base.get_input_embeddings(), base.get_output_embeddings()
    sizes = (getattr(entry, "num_embeddings", None), getattr(exit_, "out_features", None))
    return min((size for size in sizes if isinstance(size, int)), default=None)


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
    highest = int(ids.max()) if isinstance(ids, Tensor) and ids.numel() else max(map(int, ids), default=-1)
    if known is None or highest < known:
        return
    token = "" if tokenizer is None else f" ({tokenizer.convert_ids_to_tokens(highest)!r})"
    raise DataError(
        f"{what}: expected token ids below {known}, the rows of the network's embedding; got {highest}{token}: call "
        f"resize_token_embeddings({highest + 1}) on the base before it gets its adapter (for a run, and save it), or "
        "take a token that it knows"
    )
