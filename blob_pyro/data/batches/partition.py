"""Which items share a forward: the partition of a batch that costs the fewest tokens."""

from __future__ import annotations

from collections.abc import Sequence

FORWARD_TOKENS = 80
"""What a forward costs besides its tokens, in tokens: about 30 ms against 0.38 ms a token (SmolLM2-135M in bfloat16
on two CPU cores)."""


def draws_per_forward(num_items: int, width: int, max_tokens: int) -> int:
    """How many draws of a group share a forward: as many as stay within the budget, and at least one.

    Args:
        num_items: items of the group.
        width: tokens of its longest item.
        max_tokens: most tokens of a forward, draws x items x width.

    Example:
        >>> draws_per_forward(4, 30, max_tokens=500), draws_per_forward(4, 300, max_tokens=500)
        (4, 1)
    """
    return max(1, max_tokens // (num_items * width))


def partition(
    lengths: Sequence[int], max_tokens: int, *, num_draws: int = 1, forward_tokens: int = FORWARD_TOKENS
) -> list[list[int]]:
    r"""Cut a batch into the groups of items whose forwards cost least.

    A group of b items, each padded to the longest of width w, takes f = ceil(S / draws_per_forward(b, w)) forwards
    for S draws, and costs

        f * forward_tokens + S * b * w.

    The groups of least total cost are found by dynamic programming over the items sorted by length, in at most
    n^2 / 2 steps. Sorted neighbours suffice: handing the longest items to the group of greatest width, the next
    ones to the next group, and so on, keeps every group's size and makes no group wider.

    Args:
        lengths: tokens of each item.
        max_tokens: most tokens of one draw of a group, b * w; a longer item stands alone.
        num_draws: posterior draws S that every item is answered under.
        forward_tokens: fixed cost of a forward, in tokens.

    Returns:
        Positions of each group's items, in ascending order; the group of the longest item first.

    Example:
        >>> partition([30, 8, 31, 9], max_tokens=1000, num_draws=10)
        [[0, 2], [1, 3]]
        >>> partition([30, 8, 31, 9], max_tokens=1000)
        [[0, 1, 2, 3]]
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    widths = [max(1, lengths[i]) for i in order]
    ends = _cheapest_ends(widths, max_tokens, num_draws, forward_tokens)
    groups, start = [], 0
    while start < len(order):
        groups.append(sorted(order[start : ends[start]]))
        start = ends[start]
    return groups


def _cheapest_ends(widths: Sequence[int], max_tokens: int, num_draws: int, forward_tokens: int) -> list[int]:
    """For each start, where its group ends in the cheapest partition of widths[start:]; widths fall."""
    count = len(widths)
    ends, least = [count] * count, [0] * (count + 1)
    for start in reversed(range(count)):
        width = widths[start]
        last = min(count, start + max(1, max_tokens // width))
        best = None
        for end in range(start + 1, last + 1):
            size = end - start
            forwards = -(-num_draws // draws_per_forward(size, width, max_tokens))
            cost = forwards * forward_tokens + num_draws * size * width + least[end]
            if best is None or cost <= best:
                best, ends[start], least[start] = cost, end, cost
    return ends
