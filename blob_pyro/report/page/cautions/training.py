"""Was the training long enough, and did it train the spread?"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Sequence

from blob_pyro.report.page.cautions.caution import Caution
from blob_pyro.report.plots.sources import members_of
from blob_pyro.storage.run_files import RunFiles
from blob_pyro.training.svi import LEAST_GROWTH, NARROW, NEAR_PRIOR, StepResult

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
    """A spread that is still about as wide as it began, and not as the prior."""
    widths = _widths(run)
    if widths is None or widths[1] > NEAR_PRIOR or not 1 / LEAST_GROWTH < widths[1] / widths[0] < LEAST_GROWTH:
        return
    if widths[0] > NARROW:
        why = "The KL widens it, and does not narrow it: for less, a smaller eps or init_scale of the guide."
    elif run.config.train.eval_steps is not None:
        why = (
            "The parameters of the lowest held-out NLL may be from before the KL acts: leave train.eval_steps and "
            "train.patience out, or let it act earlier (train.kl_schedule: reweighted)."
        )
    else:
        why = (
            "It was hardly trained, and draws differ as little as they did at random: a higher train.kl_width, or more "
            "steps."
        )
    yield Caution(
        f"The posterior's spread is about where it began: {100 * widths[1]:.3g} % of the prior's standard deviation "
        f"after the training, {100 * widths[0]:.3g} % before it. {why}",
        serious=True,
    )


def spread_at_prior(run: RunFiles) -> Iterator[Caution]:
    """A posterior as wide as the prior: the data have taught it nothing."""
    widths = _widths(run)
    if widths is None or widths[1] <= NEAR_PRIOR:
        return
    if widths[0] > NEAR_PRIOR:
        why = f"It began so ({100 * widths[0]:.3g} %): a smaller eps or init_scale of the guide, or a larger prior."
    elif run.config.model.prior_scale_spread is not None:
        why = "The learned prior scale has come down to it: hold it (leave model.prior_scale_spread out)."
    else:
        why = (
            "The KL outweighs the data: a smaller train.kl_width (or train.kl_lr, train.kl_weight, where they are set)."
        )
    yield Caution(
        f"The posterior is as wide as the prior, or wider: {100 * widths[1]:.3g} % of its standard deviation. {why}",
        serious=True,
    )


def _widths(run: RunFiles) -> tuple[float, float] | None:
    """The spread as a share of the prior's, before the training and after it; None where that is not told."""
    if run.width is None:
        return None
    first = next((step.scale for step in run.steps if step.scale is not None and step.scale > 0), None)
    return None if first is None else (first / run.config.model.prior_scale, run.width)
