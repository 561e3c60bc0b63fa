"""Distributions that Pyro does not have."""

from blob_pyro.distributions.full_weight import FullWeightNormal
from blob_pyro.distributions.point import UnpenalisedDelta

__all__ = ["FullWeightNormal", "UnpenalisedDelta"]
