"""Figure 2: how the standard deviation grows under the KL alone, squared against softplus."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from torch import Tensor

from blob_pyro.config.sections import ModelConfig, TrainConfig
from blob_pyro.experiments.paper.figures.common import write
from blob_pyro.experiments.paper.order import Order, Reproduction
from blob_pyro.experiments.paper.scale_growth import scale_growth
from blob_pyro.report.plots import growth_plot
from blob_pyro.report.tables import csv_text, markdown_table
from blob_pyro.training.kl_rate import INIT_SCALE, PAPER_RATE, with_warmup
from blob_pyro.training.kl_schedule import cycle_length, kl_schedule

NUM_DATA = 640  # winogrande_s
SQUARE, SOFTPLUS = "σ = ρ²", "σ = log(1 + exp ρ)"
FIRST_STEPS = (1, 10, 100)


def figure2(order: Order) -> Reproduction:
    """Growth of one standard deviation under the KL and nothing else, at the paper's settings whatever the scale.

    Two pairs of lines: under the whole KL at every step, and as training has it on winogrande_s, with the KL in a pulse
    at the end of each cycle, under warm-up and decay. No model is needed: model, seeds and tasks are not used.

    Args:
        order: says where to write.

    Source: BLoB, arXiv 2406.11675, Figure 2.
    """
    train, prior_scale = TrainConfig(), ModelConfig().prior_scale
    cycle = cycle_length(NUM_DATA, train.batch_size)
    curves = growth_curves(train, cycle, prior_scale)
    axes = growth_plot(
        {name: (list(range(len(curve))), curve) for name, curve in curves.items()}, prior_scale=prior_scale
    )
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlim(0, train.num_steps)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    title = (
        f"Figure 2: standard deviation under the KL alone, {train.num_steps:,} steps, prior {prior_scale:g}, KL "
        f"learning rate {PAPER_RATE:g}, from {INIT_SCALE:.4f}. In pulses: cycles of {cycle} steps (winogrande_s), "
        "with warm-up and decay."
    )
    return write(order, "figure2", [title, _table(curves, cycle)], _csv(curves), figure2=axes)


def growth_curves(train: TrainConfig, cycle: int, prior_scale: float) -> dict[str, Tensor]:
    """Parametrisation and weights -> standard deviations before the first and after every step, float64.

    Args:
        train: steps and warm-up.
        cycle: steps between pulses.
        prior_scale: where all of them tend to.
    """
    pulsed = with_warmup(kl_schedule("reweighted", cycle), train.num_steps, train.warmup_ratio)

    def curve(scale: str, kl_weight: Callable[[int], float]) -> Tensor:
        return scale_growth(
            scale,
            init_scale=INIT_SCALE,
            prior_scale=prior_scale,
            kl_lr=PAPER_RATE,
            num_steps=train.num_steps,
            kl_weight=kl_weight,
        )

    def whole(step: int) -> float:
        return 1.0

    return {
        f"{SQUARE}, every step": curve("square", whole),
        f"{SOFTPLUS}, every step": curve("softplus", whole),
        f"{SQUARE}, in pulses": curve("square", pulsed),
        f"{SOFTPLUS}, in pulses": curve("softplus", pulsed),
    }


def _table(curves: Mapping[str, Tensor], cycle: int) -> str:
    """Standard deviations after the first steps, after the first four pulses, and at the end."""
    last = len(next(iter(curves.values()))) - 1
    steps = [*FIRST_STEPS, *(cycle * pulse for pulse in range(1, 5)), last]
    header = ["after step", *(f"{step:,}" for step in steps)]
    return markdown_table(header, [[name, *(f"{curve[step]:.3f}" for step in steps)] for name, curve in curves.items()])


def _csv(curves: Mapping[str, Tensor]) -> str:
    """One line a step."""
    steps = enumerate(zip(*(curve.tolist() for curve in curves.values()), strict=True))
    return csv_text([{"step": step, **dict(zip(curves, values, strict=True))} for step, values in steps])
