"""Are there draws enough, and do they help?"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from blob_pyro.evaluation.bins import bin_index, bootstrapped, summed_gaps
from blob_pyro.evaluation.checks import SMALLEST_PROB
from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.guides import GUIDES
from blob_pyro.report.page.cautions.caution import Caution
from blob_pyro.report.page.cautions.settings import WITH_KL
from blob_pyro.storage.run_files import RunFiles

NUM_BINS = 15
LEAST = 0.01  # what is worth telling: a point of the ECE, a hundredth of a nat


def too_few_draws(run: RunFiles) -> Iterator[Caution]:
    """The ECE or the NLL still moves between half of the draws and all, by more than its paired standard error."""
    if run.answers is None:
        return
    predictions = run.answers.predictions
    most, few = len(predictions.draws), len(predictions.draws) // 2
    if not GUIDES[run.config.guide.name].is_random or most < 2:
        return
    name = "members" if run.config.guide.name == "ensemble" else "draws"
    if few < 2:
        yield Caution(f"N is small: {most} {name}. How the scores would change with more cannot be seen.")
        return
    for change in (
        _Change("ECE", 100, 1, " %", *ece_difference(predictions, few)),
        _Change("NLL", 1, 3, "", *nll_difference(predictions, few)),
    ):
        if abs(change.after - change.before) > max(LEAST, change.error):
            yield Caution(f"N too small: {change.told(few, most, name)}", serious=True)


def worse_than_the_mean(run: RunFiles) -> Iterator[Caution]:
    """The average over the draws has a higher NLL than one answer, that of the posterior mean.

    Both answer the same items, but a run keeps no answers of the mean, so that the error of the difference, which is
    smaller than those of the scores, cannot be told.
    """
    if run.last in (None, "N=0") or "N=0" not in run.metrics:
        return
    mean, drawn = run.metrics["N=0"], run.metrics[run.last]
    advice = (
        " The posterior may be too wide for so little training: more steps, or a smaller train.kl_width; `--tune` "
        "searches both on held-out items."
    )
    if drawn.nll - mean.nll > LEAST:
        yield Caution(
            f"Averaging does not help here: the NLL is {drawn.nll:.3f} ± {drawn.nll_se:.3f} with {run.last}, and "
            f"{mean.nll:.3f} ± {mean.nll_se:.3f} with one answer alone (N=0)."
            f"{advice if run.config.guide.name in WITH_KL else ''}",
            serious=drawn.nll - mean.nll > drawn.nll_se,
        )


@dataclass(frozen=True)
class _Change:
    """A score with few draws and with all."""

    score: str
    factor: int
    digits: int
    unit: str
    before: float
    after: float
    error: float

    def told(self, few: int, most: int, name: str) -> str:
        """A sentence with numbers."""
        before, after, error = (
            f"{self.factor * value:.{self.digits}f}" for value in (self.before, self.after, self.error)
        )
        size = f"{self.factor * abs(self.after - self.before):.{self.digits}f}"
        points = " points" if self.unit else ""
        advice = "" if name == "members" else f" `blob-pyro evaluate RUN --num_samples {4 * most}` tells."
        return (
            f"{self.score} changes by {size}{points} (± {error}) between N={few} and N={most} {name}, from {before} to "
            f"{after}{self.unit}; with more it may change further.{advice}"
        )


def ece_difference(predictions: Predictions, few: int) -> tuple[float, float, float]:
    """ECE of the first `few` draws and of all, and the standard error of their difference over the items.

    The error is the standard deviation over 200 bootstrap resamples (fixed seed) of the items, the same for both.
    """
    assert predictions.labels is not None
    labels = predictions.labels
    few_draws, all_draws = (_gaps(one, labels) for one in (predictions.first_draws(few), predictions))

    def change(items: Tensor) -> Tensor:
        before, after = (summed_gaps(index[items], gap[items]) for index, gap in (few_draws, all_draws))
        return after - before

    error = float(bootstrapped(change, len(predictions)).std())
    return float(summed_gaps(*few_draws)), float(summed_gaps(*all_draws)), error


def nll_difference(predictions: Predictions, few: int) -> tuple[float, float, float]:
    """NLL of the first `few` draws and of all, and the standard error of their difference over the items."""
    labels = predictions.labels
    assert labels is not None
    before, after = (
        -one.probs.double().gather(1, labels[:, None])[:, 0].clamp(min=SMALLEST_PROB).log()
        for one in (predictions.first_draws(few), predictions)
    )
    error = float((after - before).std()) / math.sqrt(len(labels)) if len(labels) > 1 else math.inf
    return float(before.mean()), float(after.mean()), error


def _gaps(predictions: Predictions, labels: Tensor) -> tuple[Tensor, Tensor]:
    """(n,) bins, and (n,) how far being right is from being sure."""
    confidence, predicted = predictions.probs.double().clamp(0, 1).max(-1)
    return bin_index(confidence, NUM_BINS), (predicted == labels).double() - confidence
