"""Was the training long enough, and did it train the spread?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from blob_pyro.report.page.cautions.caution import Caution
from blob_pyro.report.plots.sources import members_of
from blob_pyro.storage.run_files import RunFiles
from blob_pyro.training.svi import LEAST_GROWTH, NEAR_PRIOR, StepResult

FEWEST_STEPS = 50  # to speak of a trend
LEAST_FALL = 0.05
UNDERFITTED = 0.9  # of what the label frequencies alone would cost


def ended_early(run: RunFiles) -> Iterator[Caution]:
    """Fewer steps than the configuration asks for."""
    wanted = run.config.train.num_steps
    short = [len(steps) for steps in members_of(run.steps) if steps[-1].step < wanted]
    if short and run.config.train.patience is not None and not run.unfinished:
        yield Caution(f"Training stopped after {short[0]:,} of {wanted:,} steps: held-out items did no better.")
    elif short:
        yield Caution(
            f"Training ended after {short[0]:,} of {wanted:,} steps (stopped, or its loss was not finite); "
            "`blob-pyro fit CONFIG --resume` goes on where there is a checkpoint.",
            serious=True,
        )
    elif run.unfinished:
        yield Caution("The run has not ended: its checkpoints are still there.", serious=True)


def skipped_steps(run: RunFiles) -> Iterator[Caution]:
    """Steps whose loss or gradient was not finite, and which changed nothing."""
    skipped = [step.step for step in run.steps if step.skipped]
    if skipped:
        listed = ", ".join(map(str, skipped[:5])) + (", …" if len(skipped) > 5 else "")
        yield Caution(
            f"{len(skipped)} of {len(run.steps):,} steps were skipped (step {listed}): their loss or gradient was not "
            "finite. A smaller train.lr may be needed.",
            serious=True,
        )


def still_falling(run: RunFiles) -> Iterator[Caution]:
    """An NLL of the last fifth of the steps below that of the fifth before, by more than twice its standard error."""
    falls = [fall for steps in members_of(run.steps) if (fall := fall_at_the_end(steps)) is not None]
    if falls:
        before, after, error = falls[0]
        yield Caution(
            f"The training NLL was still falling: {after:.3f} over the last fifth of the steps, {before:.3f} over the "
            f"fifth before (difference {before - after:.3f} ± {error:.3f}). More steps may help."
        )
    scored = [step for step in run.steps if step.held_out_nll is not None and math.isfinite(step.held_out_nll)]
    best = min(scored, key=lambda step: step.held_out_nll or 0.0, default=None)
    if best is not None and len(scored) > 2 and best is scored[-1] and run.config.guide.name != "ensemble":
        yield Caution("The held-out NLL was lowest at the last evaluation: more steps may help.")


def underfitted(run: RunFiles) -> Iterator[Caution]:
    """A training NLL near what the label frequencies alone would cost: there is no answer yet to be less sure of."""
    entropy = run.about.get("label_entropy")
    if not isinstance(entropy, float) or not entropy > 0:
        return
    for steps in members_of(run.steps):
        nlls = [step.nll for step in steps if math.isfinite(step.nll)]
        last = nlls[-max(1, len(nlls) // 5) :]
        if nlls and (nll := statistics.fmean(last)) > UNDERFITTED * entropy:
            yield Caution(
                f"Underfitted: the training NLL is {nll:.3f} over the last fifth of the steps, and naming each label "
                f"as often as it occurs would cost {entropy:.3f}. Train longer, or at a higher train.lr, before you "
                "widen: the spread of a model that has learnt little says little.",
                serious=True,
            )
            return


def fall_at_the_end(steps: Sequence[StepResult]) -> tuple[float, float, float] | None:
    """Mean NLL of the fifth of the steps before the last one, of the last fifth, and the standard error of the fall.

    None where there are too few steps, or no fall of a twentieth and twice that error.
    """
    nlls = [step.nll for step in steps if math.isfinite(step.nll)]
    fifth = len(nlls) // 5
    if len(nlls) < FEWEST_STEPS:
        return None
    before, after = nlls[-2 * fifth : -fifth], nlls[-fifth:]
    means = statistics.fmean(before), statistics.fmean(after)
    error = math.sqrt((statistics.variance(before) + statistics.variance(after)) / fifth)
    fall = means[0] - means[1]
    return (*means, error) if fall > 2 * error and fall > LEAST_FALL * abs(means[0]) else None


def spread_at_start(run: RunFiles) -> Iterator[Caution]:
    """A posterior scale that is still about where it began."""
    scales = _trained_scales(run)
    if len(scales) > 1 and 1 / LEAST_GROWTH < scales[-1] / scales[0] < LEAST_GROWTH:
        yield Caution(
            f"The posterior's spread is about where it began: a mean standard deviation of {scales[-1]:.4f} after the "
            f"training, {scales[0]:.4f} before it (prior scale {run.config.model.prior_scale:g}). It was hardly "
            "trained, and draws differ as little as they did at random: a higher train.kl_width, or more steps.",
            serious=True,
        )


def spread_at_prior(run: RunFiles) -> Iterator[Caution]:
    """A posterior as wide as the prior: the data have taught it nothing."""
    scales = _trained_scales(run)
    if (
        scales
        and scales[-1] > NEAR_PRIOR * run.config.model.prior_scale
        and run.config.model.prior_scale_spread is None
    ):
        yield Caution(
            f"The posterior is as wide as the prior: a mean standard deviation of {scales[-1]:.4f}, prior scale "
            f"{run.config.model.prior_scale:g}. The KL outweighs the data: a smaller train.kl_width, or a smaller "
            "train.kl_lr or train.kl_weight where they are set.",
            serious=True,
        )


def _trained_scales(run: RunFiles) -> list[float]:
    """The mean standard deviation at each step that tells it."""
    return [step.scale for step in run.steps if step.scale is not None and step.scale > 0]
