"""The forwards that a step's batch is shared out to, over processes and one after another."""

from __future__ import annotations

from dataclasses import dataclass

from blob_pyro.data.examples import Batch
from blob_pyro.model.likelihoods import Likelihood
from blob_pyro.system.processes import Ranks


@dataclass(frozen=True)
class Piece:
    """What one forward reads.

    Attributes:
        batch: its items.
        weight: how much of the whole batch it is, by what the likelihood counts. The weights of all pieces of all
            processes sum to 1, and with them the pieces' mean NLLs to that of the whole batch.
    """

    batch: Batch
    weight: float


def share_out(batch: Batch, likelihood: Likelihood, ranks: Ranks, num_pieces: int) -> list[Piece]:
    """This process's pieces of a batch that every process has.

    Every process gets the same number of pieces, so that forwards that wait for one another do; where there are fewer
    items than pieces, some hold the batch's first item at weight 0.

    Args:
        batch: all items of the step.
        likelihood: what counts them (items, or predicted tokens).
        ranks: the processes.
        num_pieces: most forwards of a process.
    """
    longest = -(-len(batch) // ranks.num)
    num_pieces = min(num_pieces, longest)
    if ranks.num == num_pieces == 1:
        return [Piece(batch, 1.0)]
    own = ranks.share(range(len(batch)))
    total = likelihood.count(batch)
    return [_piece(batch, list(own[start::num_pieces]), likelihood, total) for start in range(num_pieces)]


def _piece(batch: Batch, rows: list[int], likelihood: Likelihood, total: int) -> Piece:
    if not rows:
        return Piece(batch.select([0]), 0.0)
    items = batch.select(rows)
    return Piece(items, likelihood.count(items) / total)
