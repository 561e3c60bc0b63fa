"""Text from posterior draws that are held for a whole sequence, and how sure each of its tokens is."""

from blob_pyro.prediction.generation.record import Generations
from blob_pyro.prediction.generation.writing import generate, hold_draws

__all__ = ["Generations", "generate", "hold_draws"]
