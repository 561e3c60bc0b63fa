"""What the network's output means, one likelihood a file."""

from blob_pyro.likelihoods.base import Likelihood
from blob_pyro.likelihoods.causal_lm import CausalLM
from blob_pyro.likelihoods.classes import ClassLikelihood
from blob_pyro.likelihoods.multiple_choice import MultipleChoice
from blob_pyro.likelihoods.sequence_classification import SequenceClassification
from blob_pyro.likelihoods.whole_answer import WholeAnswer

LIKELIHOODS: dict[str, type[Likelihood]] = {
    likelihood.__name__: likelihood for likelihood in (MultipleChoice, WholeAnswer, SequenceClassification, CausalLM)
}

__all__ = [
    "LIKELIHOODS",
    "CausalLM",
    "ClassLikelihood",
    "Likelihood",
    "MultipleChoice",
    "SequenceClassification",
    "WholeAnswer",
]
