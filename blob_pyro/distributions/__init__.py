"""Distributions that Pyro does not have."""

from blob_pyro.distributions.column_normal import ColumnNormal
from blob_pyro.distributions.dropped_columns import DroppedColumns
from blob_pyro.distributions.full_weight import FullWeightNormal
from blob_pyro.distributions.gaussian_kl import gaussian_kl
from blob_pyro.distributions.kronecker_normal import KroneckerNormal
from blob_pyro.distributions.label_categorical import LabelCategorical
from blob_pyro.distributions.low_rank_normal import LowRankNormal
from blob_pyro.distributions.point import UnpenalisedDelta
from blob_pyro.distributions.pooled_normal import PooledNormal, pooled_normals
from blob_pyro.distributions.radial_normal import RadialNormal

__all__ = [
    "ColumnNormal",
    "DroppedColumns",
    "FullWeightNormal",
    "KroneckerNormal",
    "LabelCategorical",
    "LowRankNormal",
    "PooledNormal",
    "RadialNormal",
    "UnpenalisedDelta",
    "gaussian_kl",
    "pooled_normals",
]
