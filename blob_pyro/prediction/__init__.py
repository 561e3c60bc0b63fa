"""Answers from posterior draws: probabilities of classes and of tokens, and texts."""
