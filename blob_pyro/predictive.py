"""`PosteriorPredictive`: Bayesian model averaging with exactly as many forwards as it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from pyro import poutine
from pyro.infer.autoguide import AutoGuide
from torch import Tensor
from tqdm.auto import tqdm

from blob_pyro.data.examples import Batch
from blob_pyro.errors import ConfigError, DataError
from blob_pyro.guides import AdapterGuide
from blob_pyro.handlers import LocalParamsMessenger
from blob_pyro.inference.trainer import training_mode
from blob_pyro.model import BayesianLoRA
from blob_pyro.predictions import Predictions

Draws = dict[str, Tensor]


class PosteriorPredictive:
    r"""p(y | x) = 1/N sum_s softmax(logits(x, A_s)), A_s ~ guide: the mean of the draws' probabilities.

    The N draws are made once a call and held for all items, so that an item's answer does not depend on
    the batch it came in. No trace is kept; what is held is N times the adapter's A matrices and the
    (N, n, K) probabilities. The network is in evaluation mode inside and gets its former modes back.

    Against `pyro.infer.Predictive`, which agrees with it draw by draw: no extra forwards, no stored
    traces, no dropout.

    Args:
        model: the model.
        guide: one of `bp.guides`, or any Pyro guide of this model (an autoguide, say).
        num_samples: posterior draws N; 0 answers with the posterior mean.
        max_rows: several draws share a forward as long as draws times items stay within this many rows.

    Raises:
        ConfigError: num_samples below 0, max_rows below 1, or N = 0 with a guide that has no mean.

    Source: BLoB, arXiv 2406.11675, equation 12.
    """

    def __init__(
        self, model: BayesianLoRA, guide: Callable[..., Any], num_samples: int = 10, *, max_rows: int = 64
    ) -> None:
        if num_samples < 0:
            raise ConfigError(f"num_samples: expected at least 0 draws; got {num_samples}")
        if max_rows < 1:
            raise ConfigError(f"max_rows: expected at least 1; got {max_rows}")
        self.model, self.guide = model, guide
        self.num_samples, self.max_rows = num_samples, max_rows

    def __call__(
        self, data: Batch | Iterable[Batch], *, progress: bool = False, description: str = "predict"
    ) -> Predictions:
        """Answer one batch, or every item of a loader.

        Args:
            data: a Batch, or an iterable of them; where the batches carry an index, the answers come in
                its order.
            progress: show a progress bar.
            description: title of the progress bar.

        Returns:
            Predictions with labels where every batch has them, on the CPU.

        Raises:
            DataError: no item at all.
        """
        batches = [data] if isinstance(data, Batch) else data
        with torch.no_grad(), training_mode(self.model, False):
            draws = self.sample_draws(data if isinstance(data, Batch) else None)
            parts = [
                (self._batch_probs(batch.to(self.model.device), draws), batch)
                for batch in tqdm(batches, desc=description, disable=not progress, unit="batch", dynamic_ncols=True)
            ]
        return _gather(parts)

    def sample_draws(self, batch: Batch | None = None) -> list[Draws | None]:
        """N draws of every site; for N = 0 one entry, the posterior mean.

        An entry is site -> A of shape (r, n); None stands for the adapter's own weights.

        Args:
            batch: handed to the guide, for guides that need one to set themselves up.
        """
        if self.num_samples == 0:
            return [posterior_mean(self.model, self.guide)]
        with torch.no_grad(), LocalParamsMessenger():
            return [self._sample_draw(batch) for _ in range(self.num_samples)]

    def _sample_draw(self, batch: Batch | None) -> Draws:
        trace = poutine.trace(self.guide).get_trace(batch)
        return {site: trace.nodes[site]["value"].detach() for site in self.model.sites}

    def _batch_probs(self, batch: Batch, draws: list[Draws | None]) -> Tensor:
        """(S, B, K) probabilities of one batch under each draw."""
        group = max(1, self.max_rows // len(batch))
        logits = [self._group_logits(batch, draws[i : i + group]) for i in range(0, len(draws), group)]
        return torch.cat(logits).softmax(-1).cpu()

    def _group_logits(self, batch: Batch, draws: list[Draws | None]) -> Tensor:
        """(len(draws), B, K) logits in one forward."""
        held = [draw for draw in draws if draw is not None]
        if len(held) < len(draws):
            return self.model.logits(batch).unsqueeze(0)
        if len(held) == 1:
            return self.model.logits(batch, held[0]).unsqueeze(0)
        stacked = {site: torch.stack([draw[site] for draw in held]) for site in self.model.sites}
        return self.model.logits(batch, stacked)


def posterior_mean(model: BayesianLoRA, guide: Callable[..., Any]) -> Draws | None:
    """The posterior mean of every site; None where it is the adapter's own weights.

    Raises:
        ConfigError: the guide has no mean to ask for.
    """
    if isinstance(guide, AdapterGuide):
        return None
    if isinstance(guide, AutoGuide):
        median: Mapping[str, Tensor] = guide.median()
        return {site: median[site].detach() for site in model.sites}
    raise ConfigError(
        f"num_samples: expected at least 1 with a guide of type {type(guide).__name__}, which has no mean; got 0"
    )


def _gather(parts: list[tuple[Tensor, Batch]]) -> Predictions:
    """Put the batches together, in the order of their index where they have one."""
    if not parts:
        raise DataError("expected at least one batch to predict; got an empty loader")
    draws = torch.cat([probs for probs, _ in parts], dim=1)
    labels = _cat([batch.labels for _, batch in parts])
    index = _cat([batch.index for _, batch in parts])
    if index is not None:
        order = index.argsort()
        draws, labels = draws[:, order], None if labels is None else labels[order]
    return Predictions(probs=draws.mean(0), draws=draws, labels=labels)


def _cat(values: list[Tensor | None]) -> Tensor | None:
    """All of them below one another on the CPU; None unless every one is there."""
    present = [value.cpu() for value in values if value is not None]
    return torch.cat(present) if len(present) == len(values) else None
