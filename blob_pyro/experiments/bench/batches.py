"""Random token batches, the same for every contender."""

from __future__ import annotations

import torch

from blob_pyro.data.examples import Batch
from blob_pyro.experiments.bench.settings import BenchSettings

NUM_CLASSES = 3
NUM_BATCHES = 4


def answer_tokens(vocab_size: int) -> tuple[int, ...]:
    """Vocabulary ids of the K answers: K different ones, spread over the vocabulary.

    Example:
        >>> answer_tokens(100)
        (25, 50, 75)
    """
    return tuple(vocab_size * (k + 1) // (NUM_CLASSES + 1) for k in range(NUM_CLASSES))


def train_batches(settings: BenchSettings, length: int, vocab_size: int) -> list[Batch]:
    """A few labelled batches of `settings.batch_size` items of `length` tokens each, without padding."""
    generator = torch.Generator().manual_seed(settings.seed)
    shape = (settings.batch_size, length)
    return [
        Batch(
            input_ids=torch.randint(vocab_size, shape, generator=generator),
            attention_mask=torch.ones(shape, dtype=torch.long),
            labels=torch.randint(NUM_CLASSES, shape[:1], generator=generator),
        ).to(settings.device)
        for _ in range(NUM_BATCHES)
    ]


def prompt_lengths(settings: BenchSettings) -> list[int]:
    """Lengths of the prompts, evenly from `min_length` to `max_length`.

    Example:
        >>> prompt_lengths(BenchSettings(num_prompts=4, min_length=20, max_length=125))
        [20, 55, 90, 125]
    """
    step = (settings.max_length - settings.min_length) / max(1, settings.num_prompts - 1)
    return [round(settings.min_length + step * row) for row in range(settings.num_prompts)]


def prompt_batch(settings: BenchSettings, vocab_size: int) -> Batch:
    """All prompts, padded on the right to the longest, in a shuffled order."""
    generator = torch.Generator().manual_seed(settings.seed)
    lengths = torch.tensor(prompt_lengths(settings))[torch.randperm(settings.num_prompts, generator=generator)]
    width = int(lengths.max())
    mask = (torch.arange(width) < lengths.unsqueeze(1)).long()
    ids = torch.randint(vocab_size, mask.shape, generator=generator)
    return Batch(input_ids=ids * mask, attention_mask=mask).to(settings.device)
