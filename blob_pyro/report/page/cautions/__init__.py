"""What to be wary of in a run's numbers: each rule computed from the run's own files, with its size and its error.

A rule that finds nothing says nothing: the absence of a caution proves nothing beyond the rules listed in `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from blob_pyro.report.page.cautions import draws, items, settings, training
from blob_pyro.report.page.cautions.caution import Caution
from blob_pyro.report.page.cautions.several import cautions_of_several
from blob_pyro.storage.run_files import RunFiles

RULES = (
    training.ended_early,
    training.skipped_steps,
    training.still_falling,
    training.underfitted,
    training.spread_at_start,
    training.spread_at_prior,
    draws.too_few_draws,
    draws.worse_than_the_mean,
    items.other_predictions,
    items.shared_items,
    items.no_better_than_one_class,
    items.few_items,
    items.calibration_floor,
    items.impossible_labels,
    settings.not_the_paper,
    settings.shifted_probabilities,
    settings.held_out,
)

OF_THE_POSTERIOR = (training.underfitted, draws.worse_than_the_mean)
"""Whether the posterior helps: what `blob-pyro fit` says at its end, beside what `BLoBSVI` has warned of."""


def cautions_of(run: RunFiles, rules: Sequence[Callable[[RunFiles], Iterator[Caution]]] = RULES) -> list[Caution]:
    """What the rules find in a run, serious ones first."""
    found = [caution for rule in rules for caution in rule(run)]
    return sorted(found, key=lambda caution: not caution.serious)


__all__ = ["OF_THE_POSTERIOR", "RULES", "Caution", "cautions_of", "cautions_of_several"]
