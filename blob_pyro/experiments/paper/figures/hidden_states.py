"""What a network's last layer holds where it answers, under posterior draws."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from blob_pyro.data.batches.loaders import batches_of, num_items, only_batch
from blob_pyro.data.examples import Batch
from blob_pyro.errors import DataError
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.likelihoods import MultipleChoice
from blob_pyro.prediction.predictive import PosteriorPredictive
from blob_pyro.system.progress import counted


@dataclass(frozen=True)
class HiddenStates:
    """Hidden states and answers of n items under S draws, on the CPU.

    Attributes:
        states: (S, n, D) hidden states behind the last block and its norm, float32.
        probs: (S, n, K) probabilities of the same forwards.
        labels: (n,) true classes, -1 where there is none.
    """

    states: Tensor
    probs: Tensor
    labels: Tensor


def hidden_states(
    model: BayesianLoRA,
    guide: Callable[..., Any],
    data: Batch | Iterable[Batch],
    num_samples: int,
    *,
    progress: bool = False,
) -> HiddenStates:
    """Hidden states at the position from which the answer is read.

    With answer tokens that is the last token of the prompt; with a classification head it is the first token, from
    which encoders classify. One draw a forward; the network is in evaluation mode inside.

    Args:
        model: the model.
        guide: its guide.
        data: a Batch, or an iterable of them; where the batches carry an index, the items come in its order.
        num_samples: posterior draws S; 0 is the posterior mean, S = 1.
        progress: show progress.

    Returns:
        The draws are those of `PosteriorPredictive` with that number of them, from the same random state.

    Raises:
        DataError: no item at all.
    """
    with torch.no_grad(), model.evaluating():
        # before the loader is begun, which draws a seed of its own
        draws = PosteriorPredictive(model, guide, num_samples).sample_draws(only_batch(data))
        batches = list(batches_of(data))
        if not batches:
            raise DataError("expected at least one batch; got none; give a Batch or a loader of some")
        with counted(num_items(batches), f"hidden states N={num_samples}", unit="items", show=progress) as tell:
            parts = []
            for batch in batches:
                parts.append(_of_batch(model, batch.to(model.device).right_padded(), draws))
                tell(len(batch))
    found = HiddenStates(*(torch.cat(one, dim) for one, dim in zip(zip(*parts, strict=True), (1, 1, 0), strict=True)))
    if any(batch.index is None for batch in batches):
        return found
    order = torch.cat([batch.index.cpu() for batch in batches if batch.index is not None]).argsort()
    return HiddenStates(found.states[:, order], found.probs[:, order], found.labels[order])


def _of_batch(
    model: BayesianLoRA, batch: Batch, draws: Iterable[Mapping[str, Tensor] | None]
) -> tuple[Tensor, Tensor, Tensor]:
    """States (S, b, D), probabilities (S, b, K) and labels (b,) of right-padded items."""
    rows = torch.arange(len(batch), device=batch.input_ids.device)
    answers = isinstance(model.likelihood, MultipleChoice)
    position = batch.attention_mask.sum(1) - 1 if answers else torch.zeros_like(rows)
    states, probs = [], []
    for draw in draws:
        with _last_hidden_state(model) as seen:
            probs.append(model.logits(batch, draw).softmax(-1).cpu())
        states.append(seen[0][rows, position].float().cpu())
    labels = torch.full((len(batch),), -1) if batch.labels is None else batch.labels.cpu()
    return torch.stack(states), torch.stack(probs), labels


@contextmanager
def _last_hidden_state(model: BayesianLoRA) -> Iterator[list[Tensor]]:
    """A list that a forward appends its last hidden state (B, T, D) to."""
    seen: list[Tensor] = []
    network = model.network.get_base_model()
    backbone = getattr(network, network.base_model_prefix)

    def look(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        seen.append(output[0])  # of a model output, too, the last hidden state is the first entry

    handle = backbone.register_forward_hook(look)
    try:
        yield seen
    finally:
        handle.remove()
