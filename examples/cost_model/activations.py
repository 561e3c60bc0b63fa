"""Bytes that a forward keeps for its backward, counted operation by operation.

The base is frozen, so its linear layers keep nothing; what is kept are the inputs of norms, of adapters, of the
attention and of the MLP's product. Items are taken to be of one length: a padding mask makes "sdpa" keep keys and
values once for each head of the queries.
"""

from __future__ import annotations

from cost_model.setup import FLOAT32, Setup
from cost_model.shapes import Shapes

# The layers that read the same tensor.
INPUTS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


def kept(shapes: Shapes, setup: Setup) -> int:
    """Bytes that one forward of the network keeps, without the draws; with checkpointing, those between blocks."""
    stream = setup.rows * setup.length * shapes.hidden
    if setup.gradient_checkpointing:
        return shapes.layers * stream * setup.bytes + _last_norm(shapes, setup)
    blocks = sum(kept_by_block(shapes, setup, first=index == 0) for index in range(shapes.layers))
    return blocks + _last_norm(shapes, setup)


def kept_by_block(shapes: Shapes, setup: Setup, *, first: bool = False) -> int:
    """Bytes of one block; of the first one, whose input needs no gradient, a norm less."""
    tokens = setup.rows * setup.length
    norms = (1 if first else 2) * tokens * (shapes.hidden + 1) * FLOAT32
    if shapes.head_norms:
        norms += tokens * (shapes.heads + shapes.kv_heads) * (shapes.head_dim + 1) * FLOAT32
    mlp = 3 * tokens * shapes.intermediate * setup.bytes
    return norms + mlp + _attention(shapes, setup) + _adapters(shapes, setup)


def block_backward(shapes: Shapes, setup: Setup) -> int:
    """Most bytes that a block's backward needs for a while beside `kept`; with checkpointing, all of the block's.

    The gradients of the MLP's product and of its two factors; or two of the attention's probabilities in float32, by
    when what the MLP kept is gone.
    """
    tokens = setup.rows * setup.length
    of_mlp = 3 * tokens * shapes.intermediate * setup.bytes
    gradients = of_mlp + 2 * tokens * shapes.hidden * setup.bytes
    if setup.attn_implementation == "eager":
        gradients = max(gradients, 2 * FLOAT32 * setup.rows * shapes.heads * setup.length**2 - of_mlp)
    return gradients + (kept_by_block(shapes, setup) if setup.gradient_checkpointing else 0)


def head(shapes: Shapes, setup: Setup) -> int:
    """Bytes of the logits, and of the head in float32; 0 for a few answers.

    Five arrays live at once: the logits, their logarithms, probabilities, and the gradients of two of them.
    """
    if not setup.answer_tokens:
        return 0
    places = setup.rows * setup.answer_tokens
    copy = 0 if setup.dtype == "float32" else shapes.vocab * shapes.hidden * FLOAT32
    return 5 * places * shapes.vocab * FLOAT32 + copy


def draws(setup: Setup, numbers: int, *, random: bool) -> int:
    """Bytes of what stands for all A matrices in a forward.

    Args:
        setup: under flipout each item has matrices of its own.
        numbers: entries of the A matrices.
        random: whether there are noise and scales; a point is held as a value, all sites' in one array beside each.
    """
    if not random:
        return numbers * FLOAT32 * 2
    return numbers * FLOAT32 * (3 + (setup.rows if setup.flips else 0))


def _last_norm(shapes: Shapes, setup: Setup) -> int:
    return setup.rows * setup.length * (shapes.hidden + 1) * FLOAT32


def _attention(shapes: Shapes, setup: Setup) -> int:
    tokens, scores = setup.rows * setup.length, setup.rows * shapes.heads * setup.length**2
    queries, keys = tokens * shapes.heads * shapes.head_dim, tokens * shapes.kv_heads * shapes.head_dim
    if setup.attn_implementation == "sdpa":  # queries, keys, values, result; the logarithm of each row's sum
        return 2 * (queries + keys) * setup.bytes + tokens * shapes.heads * FLOAT32
    probabilities = scores * (FLOAT32 if setup.dtype == "float32" else FLOAT32 + setup.bytes)
    return 3 * queries * setup.bytes + probabilities  # keys and values once for each head of the queries


def _adapters(shapes: Shapes, setup: Setup) -> int:
    """The inputs of A, which are copied to float32 for each adapter where they are not, and those of B."""
    tokens, linears = setup.rows * setup.length, shapes.block_linears
    total = 0
    for group in INPUTS:
        adapted = [name for name in group if name in setup.target_modules]
        if adapted:
            copies = 1 if setup.dtype == "float32" else len(adapted)
            total += tokens * FLOAT32 * (copies * linears[adapted[0]][1] + len(adapted) * setup.r)
    return total
