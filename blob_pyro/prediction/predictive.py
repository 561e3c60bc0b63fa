"""`PosteriorPredictive`: Bayesian model averaging with exactly as many forwards as it needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from pyro.infer.autoguide import AutoGuide
from torch import Tensor

from blob_pyro.config.ranges import MOST_DRAWS, check_range
from blob_pyro.data.batches.loaders import batches_of, num_items, only_batch, tell_of_order
from blob_pyro.data.batches.partition import draws_per_forward, partition
from blob_pyro.data.examples import Batch
from blob_pyro.errors import ConfigError, DataError
from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.guides import AdapterGuide
from blob_pyro.guides.base import traced_draws
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.handlers import take_up_loaded
from blob_pyro.model.vocabulary import ready
from blob_pyro.system.progress import counted

Draws = dict[str, Tensor]

CPU_TOKENS = 1536
"""Default budget of a forward on a CPU. The temporaries of a large forward outgrow what malloc keeps, and page faults
slow it down: a token costs the same from 640 to 3,200 tokens a forward, 1.07 times as much at 6,400 and 1.35 times at
12,800 (SmolLM2-135M in bfloat16, two cores, 16 items of 80 tokens under 10 draws)."""

ACCELERATOR_TOKENS = 16384
"""Default budget of a forward elsewhere. Not measured."""


class PosteriorPredictive:
    r"""p(y | x) = 1/N sum_s softmax(logits(x, A_s)), A_s ~ guide: the mean of the draws' probabilities.

    The N draws are made once a call and held for all items, so that an item's answer does not depend on
    the batch it came in beyond rounding. (8-bit bases with llm_int8_threshold above 0 couple the rows of a
    forward, see docs/gotchas.md.) No trace is kept; what is held is N times the adapter's A matrices and
    the (N, n, K) probabilities. The network is in evaluation mode inside and gets its former modes back.

    Each batch is cut again into the forwards that cost least (`blob_pyro.data.batches.partition`): items of similar
    length, without the padding they do not need, under as many draws as fit the budget of tokens.

    Against `pyro.infer.Predictive`, which agrees with it draw by draw: no extra forwards, no stored
    traces, no dropout.

    Args:
        model: the model.
        guide: one of `bp.guides`, or any Pyro guide of this model (an autoguide, say).
        num_samples: posterior draws N; 0 answers with the posterior mean.
        max_tokens: most tokens of a forward, draws x items x padded width; a forward takes one draw of one
            item whatever the budget. None: 1536 on a CPU, and elsewhere 16384, which is not measured. Lower
            it where memory is short.

    Raises:
        ConfigError: num_samples below 0, max_tokens below 1, or N = 0 with a guide that has no mean.

    Source: BLoB, arXiv 2406.11675, equation 12.
    """

    def __init__(
        self, model: BayesianLoRA, guide: Callable[..., Any], num_samples: int = 10, *, max_tokens: int | None = None
    ) -> None:
        check_counts(num_samples, max_tokens)
        self.model, self.guide = model, guide
        self.num_samples, self.max_tokens = num_samples, max_tokens

    def __call__(
        self, data: Batch | Iterable[Batch], *, progress: bool = False, description: str = "predict"
    ) -> Predictions:
        """Answer one batch, or every item of a loader.

        Args:
            data: a Batch, or an iterable of them. Where the batches carry an index the answers come in its order;
                without one in that of the loader, and a warning tells where that shuffles.
            progress: show a progress bar.
            description: title of the progress bar.

        Returns:
            Predictions with labels, or shares of annotators, where every batch has them, on the CPU.

        Raises:
            DataError: no item at all.
            ConfigError: the likelihood has no classes; `TokenPredictive` is for those of tokens.
        """
        self.model.class_likelihood("PosteriorPredictive")
        with torch.no_grad(), self.model.evaluating():
            draws = stack(self.sample_draws(only_batch(data)))

            def probs(items: Batch, budget: int) -> Tensor:
                return self._group_probs(items, draws, budget)

            return answer(
                self.model,
                data,
                probs,
                num_draws=1 if self.one_a_forward(draws) else max(1, self.num_samples),
                max_tokens=self.max_tokens,
                progress=progress,
                description=description,
            )

    def sample_draws(self, batch: Batch | None = None) -> list[Draws | None]:
        """N draws of every site; for N = 0 one entry, the posterior mean.

        An entry is site -> A of shape (r, n), and values of point parameters where the guide has some of its own;
        None stands for the adapter's own weights.

        Args:
            batch: handed to the guide, for guides that need one to set themselves up.

        Raises:
            ConfigError, UnsupportedPosteriorError: as `check_guide`.
        """
        check_guide(self.model, self.guide)
        if self.num_samples == 0:
            return [posterior_mean(self.model, self.guide)]
        if isinstance(self.guide, AdapterGuide):
            return list(self.guide.sample_draws(self.num_samples, batch))
        return list(traced_draws(self.guide, self.model.sites, self.num_samples, batch))

    def one_a_forward(self, draws: Draws | None) -> bool:
        """Whether the draws hold more than sites: the network has one place for a head."""
        return draws is not None and bool(draws.keys() - self.model.sites.keys())

    def _group_probs(self, items: Batch, draws: Draws | None, budget: int) -> Tensor:
        """(S, b, K) probabilities of items that share their forwards, under each draw."""
        size = draws_per_forward(len(items), items.input_ids.shape[1], budget)
        size = 1 if self.one_a_forward(draws) else size
        logits = [self.model.logits(items, chunk) for chunk in chunks(draws, size)]
        return torch.cat([part.reshape(-1, *part.shape[-2:]) for part in logits]).softmax(-1)


def check_counts(num_samples: int, max_tokens: int | None) -> None:
    """Refuse settings that no predictive can have.

    Raises:
        ConfigError: num_samples below 0 or beyond MOST_DRAWS, or max_tokens below 1.
    """
    if num_samples < 0:
        raise ConfigError(f"num_samples: expected at least 0 draws; got {num_samples}")
    check_range("num_samples", num_samples, 0, MOST_DRAWS)
    if max_tokens is not None and max_tokens < 1:
        raise ConfigError(f"max_tokens: expected at least 1, or None; got {max_tokens}")


def check_guide(model: BayesianLoRA, guide: Callable[..., Any]) -> None:
    """Raise where the guide is another model's, or the model was trained under another guide since (both share B).

    Raises:
        ConfigError: the guide was made for another model.
        UnsupportedPosteriorError: the model was trained under another guide since.
    """
    take_up_loaded(model.point_parameters())
    if isinstance(guide, AdapterGuide):
        take_up_loaded(guide.pyro_parameters())
        guide.check_model(model)
    else:
        model.turns.check(model.turns.turn_of(guide), model.marks)


def answer(
    model: BayesianLoRA,
    data: Batch | Iterable[Batch],
    probs: Callable[[Batch, int], Tensor],
    *,
    num_draws: int = 1,
    max_tokens: int | None = None,
    progress: bool = False,
    description: str = "predict",
) -> Predictions:
    """Cut batches into the forwards that cost least, answer each, and put the answers in order.

    Args:
        model: the model; its device is the items'.
        data: a Batch, or an iterable of them.
        probs: (S, b, K) probabilities of b items that share their forwards, given the budget of tokens.
        num_draws: draws that every item is answered under, each with tokens of its own.
        max_tokens: the budget; None takes the device's default.
        progress: show a progress bar.
        description: title of the progress bar.

    Raises:
        DataError: no item at all.
    """
    budget = max_tokens or (CPU_TOKENS if model.device.type == "cpu" else ACCELERATOR_TOKENS)
    budget = max(1, budget // model.likelihood.rows_per_item)
    with counted(num_items(data), description, unit="items", show=progress) as tell:

        def batch_probs(batch: Batch) -> Tensor:
            groups = partition(batch.lengths.tolist(), budget, num_draws=num_draws)
            parts = []
            for rows in groups:
                parts.append(probs(ready(batch.select(rows), model), budget))
                tell(len(rows))
            order = torch.tensor([row for rows in groups for row in rows]).argsort()
            return torch.cat(parts, dim=1).cpu()[:, order]

        found = _gather([(batch_probs(batch), batch) for batch in batches_of(data) if len(batch)])
    tell_of_order(data, found.index is not None)
    return found


def stack(draws: list[Draws | None]) -> Draws | None:
    """Site -> all draws of it, (S, r, n); None stands for the adapter's own weights."""
    held = [draw for draw in draws if draw is not None]
    return {site: torch.stack([draw[site] for draw in held]) for site in held[0]} if held else None


def chunks(draws: Draws | None, size: int) -> Iterator[Draws | None]:
    """The draws in pieces of at most `size`, site -> (s, r, n)."""
    if draws is None:
        yield None
        return
    for parts in zip(*(value.split(size) for value in draws.values()), strict=True):
        yield dict(zip(draws, parts, strict=True))


def posterior_mean(model: BayesianLoRA, guide: Callable[..., Any]) -> Draws | None:
    """The posterior mean of every site; None where it is the adapter's own weights.

    Raises:
        ConfigError: the guide has no mean to ask for.
    """
    if isinstance(guide, AdapterGuide):
        return guide.mean()
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
        index, draws, labels = index[order], draws[:, order], None if labels is None else labels[order]
    if labels is not None and labels.dim() == 2:
        return Predictions(draws.mean(0), draws, shares=labels, index=index)
    return Predictions(draws.mean(0), draws, labels, index=index)


def _cat(values: list[Tensor | None]) -> Tensor | None:
    """All of them below one another on the CPU; None unless every one is there."""
    present = [value.cpu() for value in values if value is not None]
    return torch.cat(present) if len(present) == len(values) else None
