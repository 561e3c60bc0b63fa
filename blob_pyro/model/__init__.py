"""The pretrained network with its LoRA adapter as a Pyro model: layers, likelihoods, prior, loading."""

from blob_pyro.model.bayesian_lora import BayesianLoRA

__all__ = ["BayesianLoRA"]
