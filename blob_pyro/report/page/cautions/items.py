"""Do the test items allow what is read from them?"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

import torch

from blob_pyro.evaluation import calibrated_ece, evaluate
from blob_pyro.evaluation.bins import standard_error
from blob_pyro.evaluation.checks import SMALLEST_PROB
from blob_pyro.evaluation.metrics import Metrics
from blob_pyro.evaluation.tokens import TokenMetrics
from blob_pyro.report.page.cautions.caution import Caution
from blob_pyro.storage.run_files import RunFiles

FEW_ITEMS, FEW_TEXTS = 200, 30
TOLERANCE = 1e-4
ODD_ITEMS = ("also occur in", " share ", "label that no training item has")


def few_items(run: RunFiles) -> Iterator[Caution]:
    """So few test items that the scores are known to some points only."""
    scores = None if run.last is None else run.metrics[run.last]
    if isinstance(scores, Metrics) and scores.num_items < FEW_ITEMS:
        error = "unknown" if math.isnan(scores.accuracy_se) else f"{100 * scores.accuracy_se:.1f} points"
        yield Caution(
            f"Only {scores.num_items} test items: the standard error of the accuracy is {error}, and the ECE of so few "
            "is biased upwards.",
            serious=True,
        )
    if isinstance(scores, TokenMetrics) and scores.num_items < FEW_TEXTS:
        yield Caution(f"Only {scores.num_items} test texts, whose tokens are no independent items.", serious=True)


def calibration_floor(run: RunFiles) -> Iterator[Caution]:
    """An ECE that perfect calibration could have on as many items."""
    if run.answers is None or len(run.answers.predictions) < 2:
        return
    ece = evaluate(run.answers.predictions).ece
    mean, spread = calibrated_ece(run.answers.predictions)
    if ece <= mean + 2 * spread:
        yield Caution(
            f"The ECE of {100 * ece:.1f} % cannot be told from perfect calibration on {len(run.answers.predictions):,} "
            f"items: with labels drawn from these very answers it would be {100 * mean:.1f} ± {100 * spread:.1f} %. "
            "Lower values prove nothing more."
        )


def no_better_than_one_class(run: RunFiles) -> Iterator[Caution]:
    """Answers that are right no more often than always naming the most frequent label."""
    if run.answers is None or len(run.answers.predictions) < 2:
        return
    labels = run.answers.predictions.labels
    assert labels is not None
    most = int(torch.bincount(labels).argmax())
    right = (run.answers.predictions.probs.argmax(-1) == labels).double()
    better = right - (labels == most).double()
    gain, error = float(better.mean()), standard_error(better)
    if gain <= 2 * error:
        share = float((labels == most).double().mean())
        yield Caution(
            f"No better than one class: always answering “{run.answers.class_names[most]}” would be right on "
            f"{100 * share:.1f} % of the test items, these answers on {100 * float(right.mean()):.1f} % (difference "
            f"{100 * gain:.1f} ± {100 * error:.1f} points).",
            serious=True,
        )


def impossible_labels(run: RunFiles) -> Iterator[Caution]:
    """True labels of probability zero: their share of the NLL is the floor of float32, and no measurement."""
    if run.answers is None:
        return
    predictions = run.answers.predictions
    assert predictions.labels is not None
    found = predictions.probs.gather(1, predictions.labels[:, None])[:, 0]
    if count := int((found < SMALLEST_PROB).sum()):
        yield Caution(
            f"{count} test items gave their true label a probability of zero: each counts "
            f"{-math.log(SMALLEST_PROB):.1f} nats in the NLL, which is float32's floor.",
            serious=True,
        )


def shared_items(run: RunFiles) -> Iterator[Caution]:
    """What was noted when the run was made: prompts, groups or labels that two parts share, or should share.

    Counts of the classes are no caution; `facts_of` has all notes.
    """
    for note in run.notes:
        part, _, rest = note.partition(": ")
        if part in ("test", "validation", "train") and any(words in rest for words in ODD_ITEMS):
            leaks = part == "test" and ("also occur in" in rest or re.search(r"items share .+ with items of", rest))
            yield Caution(f"Noted of the items: {note}.", serious=bool(leaks))


def other_predictions(run: RunFiles) -> Iterator[Caution]:
    """Scores and predictions that do not belong together."""
    if run.answers is None or run.last is None:
        return
    told, found = run.metrics[run.last], evaluate(run.answers.predictions)
    if isinstance(told, Metrics) and (
        told.num_items != found.num_items or abs(told.accuracy - found.accuracy) > TOLERANCE
        or not math.isclose(told.nll, found.nll, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    ):  # fmt: skip
        yield Caution(
            f"metrics.json and predictions.parquet do not belong together: NLL {told.nll:.4f} on {told.num_items} "
            f"items, against {found.nll:.4f} on {found.num_items}. `blob-pyro evaluate RUN` makes both anew.",
            serious=True,
        )
