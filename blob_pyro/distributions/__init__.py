"""Distributions that Pyro does not have."""

from blob_pyro.distributions.full_weight import FullWeightNormal
from blob_pyro.distributions.gaussian_kl import gaussian_kl
from blob_pyro.distributions.point import UnpenalisedDelta
from blob_pyro.distributions.pooled_normal import PooledNormal, pooled_normals

__all__ = ["FullWeightNormal", "PooledNormal", "UnpenalisedDelta", "gaussian_kl", "pooled_normals"]
