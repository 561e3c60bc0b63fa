"""Training: the two terms of the ELBO, schedules, recipes, the step, the loop."""

from blob_pyro.training.kl_rate import KLSettings, default_kl

__all__ = ["KLSettings", "default_kl"]
