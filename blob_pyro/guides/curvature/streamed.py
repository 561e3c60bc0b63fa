"""Leading eigenpairs of a sum of outer products that is never formed."""

from __future__ import annotations

import torch
from torch import Tensor

CHUNK = 64
"""Rows that are taken in at once where not all pairs are kept; the work of a step is (2 rank + CHUNK)^2 d."""


class LeadingEigenpairs:
    r"""The `rank` leading eigenpairs of sum_i x_i x_i^T, x_i in R^d, from rows that come in pieces.

    A factor B (d, 2 rank) with B B^T close to the sum so far is kept. New rows X are put beside it and the singular
    vectors of [B, X^T] that belong to the largest singular values are kept; of the 2 rank pairs, `rank` are the
    result. Exact while the sum's own rank is 2 rank at most, so always for rank >= d; otherwise each step drops the
    directions that are least so far. The work is done in float64 on Gram matrices of the smaller side of [B, X^T]:
    no d x d matrix is made for large d.

    Source: Laplace-LoRA (arXiv 2308.13111), appendix on low-rank factors, does such updates.

    Args:
        size: d.
        rank: eigenpairs to keep, clipped to d.
        device: where the sum is kept.

    Example:
        >>> pairs = LeadingEigenpairs(3, rank=2)
        >>> pairs.add(torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
        >>> pairs.result()[0].tolist()
        [4.0, 1.0]
    """

    def __init__(self, size: int, rank: int, device: torch.device | str = "cpu") -> None:
        self.rank = min(rank, size)
        self._factor = torch.zeros(size, min(2 * rank, size), dtype=torch.float64, device=device)

    def add(self, rows: Tensor) -> None:
        """Add x x^T for every row x of `rows`, (P, d)."""
        size, kept = self._factor.shape
        for part in rows.split(CHUNK if kept < size else max(1, len(rows))):
            values, vectors = _leading(torch.cat([self._factor, part.mT.to(self._factor)], dim=1), kept)
            self._factor = vectors * values.sqrt()

    def result(self) -> tuple[Tensor, Tensor]:
        """(rank,) eigenvalues, falling, and (d, rank) orthonormal eigenvectors; float64.

        Where the sum's own rank is lower, the eigenvalues left are zero and so are their vectors.
        """
        return _leading(self._factor, self.rank)


def _leading(wide: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Leading eigenvalues (rank,) and eigenvectors (d, rank) of wide wide^T, by the smaller Gram matrix."""
    d, count = wide.shape
    if d <= count:
        values, vectors = torch.linalg.eigh(wide @ wide.mT)
        values, vectors = values.flip(-1)[:rank], vectors.flip(-1)[:, :rank]
    else:
        values, right = torch.linalg.eigh(wide.mT @ wide)
        values, right = values.flip(-1)[:rank], right.flip(-1)[:, :rank]
        vectors = wide @ right
        vectors = vectors / torch.linalg.vector_norm(vectors, dim=0).clamp(min=torch.finfo(wide.dtype).tiny)
    # an eigenvalue of rounding size has a vector of no meaning
    kept = values > 1e-12 * values[:1].clamp(min=0)
    return torch.where(kept, values, 0.0), torch.where(kept, vectors, 0.0)
