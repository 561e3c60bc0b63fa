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
