"""`TokenPredictive`: how probable the tokens of given texts are, under posterior draws and on average."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blob_pyro.data.batches.loaders import batches_of, num_items, only_batch, tell_of_order
from blob_pyro.data.batches.partition import draws_per_forward, partition
from blob_pyro.data.examples import Batch
from blob_pyro.errors import ConfigError, DataError
from blob_pyro.evaluation.predictions import TokenPredictions
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.likelihoods import CausalLM
from blob_pyro.model.likelihoods.causal_lm import Targets
from blob_pyro.model.vocabulary import ready
from blob_pyro.prediction.predictive import CPU_TOKENS, Draws, PosteriorPredictive, chunks, stack
from blob_pyro.system.progress import counted


class TokenPredictive:
    r"""Next-token probabilities averaged over posterior draws, read off at the tokens of given texts.

    .. math:: p(y_t \mid x, y_{<t}) = \frac1S \sum_s p(y_t \mid x, y_{<t}, A_s)

    The counterpart of `PosteriorPredictive` for `CausalLM`: the N draws are made once a call and held for all texts.
    Memory: the logits of a forward, tokens x vocabulary in float32 for each draw that it holds.

    Args:
        model: a model with the likelihood `CausalLM`.
        guide: one of `bp.guides`, or any Pyro guide of this model.
        num_samples: posterior draws N; 0 takes the posterior mean.
        max_tokens: most tokens of a forward, draws x items x padded width. None: 1536.

    Raises:
        ConfigError: the likelihood is another one, or as `PosteriorPredictive`.

    Source: BLoB, arXiv 2406.11675, equation 12, for each token.
    """

    def __init__(
        self, model: BayesianLoRA, guide: Callable[..., Any], num_samples: int = 10, *, max_tokens: int | None = None
    ) -> None:
        if not isinstance(model.likelihood, CausalLM):
            raise ConfigError(
                f"TokenPredictive: expected the likelihood CausalLM; got {type(model.likelihood).__name__}; "
                "use PosteriorPredictive"
            )
        self.model = model
        self.max_tokens = max_tokens or CPU_TOKENS
        self._posterior = PosteriorPredictive(model, guide, num_samples, max_tokens=max_tokens)

    def __call__(
        self, data: Batch | Iterable[Batch], *, progress: bool = False, description: str = "predict"
    ) -> TokenPredictions:
        """Read the tokens of one batch, or of every batch of a loader.

        Args:
            data: batches with token labels; those without predict every token but an item's first. Where they carry an
                index, the answers come in its order; without one in that of the loader, and a warning tells where that
                shuffles.
            progress: show a progress bar.
            description: title of the progress bar.

        Raises:
            DataError: no token at all.
        """
        with (
            torch.no_grad(),
            self.model.evaluating(),
            counted(num_items(data), description, unit="items", show=progress) as tell,
        ):
            draws = stack(self._posterior.sample_draws(only_batch(data)))
            parts, indices, seen, has_index = [], [], 0, True
            for batch in batches_of(data):
                index = torch.arange(seen, seen + len(batch)) if batch.index is None else batch.index.cpu()
                has_index = has_index and batch.index is not None
                indices.append(index)
                for count, part in self._of_batch(batch, draws):
                    parts.append(part.of_items(index))
                    tell(count)
                seen += len(batch)
        if not sum(len(part.items) for part in parts):
            raise DataError("expected at least one token to predict; got none")
        tell_of_order(data, has_index)
        return _in_order(parts, torch.cat(indices).sort().values)

    def _of_batch(self, batch: Batch, draws: Draws | None) -> Iterator[tuple[int, _Part]]:
        """The tokens of some items at a time, and how many these are."""
        num_draws = 1 if draws is None else len(next(iter(draws.values())))
        together = not self._posterior.one_a_forward(draws)
        for rows in partition(batch.lengths.tolist(), self.max_tokens, num_draws=num_draws if together else 1):
            items = ready(batch.select(rows), self.model)
            size = draws_per_forward(len(items), items.input_ids.shape[1], self.max_tokens) if together else 1
            logits = (self.model.logits(items, chunk) for chunk in chunks(draws, size))
            yield len(rows), _read(logits, Targets.of(items), torch.tensor(rows))


@dataclass(frozen=True)
class _Part:
    """Tokens of some items: fields as in `TokenPredictions`, with the position of each token in its item."""

    log_probs: Tensor
    entropy: Tensor
    mutual_information: Tensor
    items: Tensor
    places: Tensor

    def of_items(self, index: Tensor) -> _Part:
        """The same with the items' positions in the data set in place of those in the batch."""
        return _Part(self.log_probs, self.entropy, self.mutual_information, index[self.items], self.places)


def _read(logits: Iterable[Tensor], targets: Targets, rows: Tensor) -> _Part:
    """The target tokens, in some draws at a time.

    Args:
        logits: pieces (B, L, V), or (s, B, L, V).
        targets: of the B items.
        rows: (B,) their positions in the batch.
    """
    width = targets.mask.shape[1]
    places = torch.cat([torch.arange(count) for count in targets.counts])
    items = torch.arange(len(rows)).repeat_interleave(torch.tensor(targets.counts))
    chosen = (items * width + places).to(targets.mask.device)  # a mask would wait at each use
    tokens = targets.tokens.flatten()[chosen]
    picked, mean, entropies, count = [], None, None, 0
    for piece in logits:
        log_probs = piece.reshape(-1, targets.mask.numel(), piece.shape[-1])[:, chosen].log_softmax(-1)  # (s, M, V)
        picked.append(log_probs.gather(-1, tokens.expand(len(log_probs), -1)[..., None])[..., 0])
        probs = log_probs.exp()
        total, own = probs.sum(0), -(probs * log_probs).sum(-1).sum(0)
        mean, entropies = (total, own) if mean is None or entropies is None else (mean + total, entropies + own)
        count += len(log_probs)
    assert mean is not None and entropies is not None
    entropy = torch.special.entr(mean / count).sum(-1)
    information = (entropy - entropies / count).clamp(min=0) if count > 1 else torch.zeros_like(entropy)
    found = torch.cat([*picked, entropy[None], information[None]]).cpu()
    return _Part(found[:-2], found[-2], found[-1], rows[items], places)


def _in_order(parts: list[_Part], index: Tensor) -> TokenPredictions:
    """The tokens in the order of their items, of which `index` has the positions, ascending."""
    items, places = torch.cat([part.items for part in parts]), torch.cat([part.places for part in parts])
    order = places.argsort(stable=True)
    order = order[items[order].argsort(stable=True)]
    return TokenPredictions(
        log_probs=torch.cat([part.log_probs for part in parts], dim=1)[:, order],
        entropy=torch.cat([part.entropy for part in parts])[order],
        mutual_information=torch.cat([part.mutual_information for part in parts])[order],
        items=torch.searchsorted(index, items[order]),
        num_items=len(index),
    )
