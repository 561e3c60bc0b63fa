"""What the network's output means, one likelihood a file."""

from blob_pyro.model.likelihoods.base import Likelihood
from blob_pyro.model.likelihoods.causal_lm import CausalLM
from blob_pyro.model.likelihoods.classes import ClassLikelihood
from blob_pyro.model.likelihoods.multiple_choice import MultipleChoice
from blob_pyro.model.likelihoods.sequence_classification import SequenceClassification
from blob_pyro.model.likelihoods.whole_answer import WholeAnswer

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
