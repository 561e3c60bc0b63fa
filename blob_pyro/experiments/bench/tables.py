"""A benchmark's findings as Markdown tables that a plain terminal shows well."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from blob_pyro.experiments.bench.bookkeeping import num_normals
from blob_pyro.experiments.bench.clock import Spread
from blob_pyro.experiments.bench.results import BenchResult, Growth, Measurement
from blob_pyro.experiments.bench.settings import BenchSettings
from blob_pyro.report.tables import markdown_table

MIB = 1024**2


def measurement_text(settings: BenchSettings, measurement: Measurement) -> str:
    """Heading, median times, and ratios (or, for bookkeeping, what our step costs more) of one case."""
    parts = [f"{heading(settings, measurement)}, {settings.rounds} rounds", _times(measurement)]
    if measurement.case.part == "bookkeeping":
        parts += _bookkeeping(settings, measurement)
    elif measurement.pairs():
        parts.append(_ratios(measurement))
    return "\n\n".join(parts)


def summary_text(result: BenchResult) -> str:
    """What only several cases together tell: the growth along the axes, and bookkeeping's share of a step."""
    parts = []
    growth = result.growth()
    if growth:
        parts += ["growth of the median time, by least squares", _growth(growth)]
    shares = result.shares()
    if shares:
        parts.append(
            "\n".join(
                f"bookkeeping's share of our step ({heading(result.settings, measurement)}): {share:.1%}"
                for measurement, share in shares
            )
        )
    return "\n\n".join(parts)


def heading(settings: BenchSettings, measurement: Measurement) -> str:
    """What is measured in a case, in words."""
    case = measurement.case
    if case.part == "bookkeeping":
        whose = f"of {_layers(case.layers)}" if case.own_sites else "alone"
        widths = " and ".join(map(str, sorted(set(case.in_features))))
        return f"bookkeeping {whose}: {len(case.in_features)} sites of ({settings.r}, {widths})"
    if case.part == "train":
        return f"train: {settings.batch_size} x {case.length} tokens, {_layers(case.layers)}"
    lengths = f"{settings.min_length} to {settings.max_length} tokens"
    return f"predict: N = {case.num_samples}, {settings.num_prompts} prompts of {lengths}, {_layers(case.layers)}"


def _times(measurement: Measurement) -> str:
    rows = [list(_time_row(measurement, name)) for name in measurement.seconds]
    header = ["contender", "median ms", "quartiles", "tokens/s", "peak MiB", "above loaded MiB"]
    columns = 6 if measurement.memory else 3 if measurement.case.part == "bookkeeping" else 4
    return markdown_table(header[:columns], [row[:columns] for row in rows])


def _time_row(measurement: Measurement, name: str) -> Iterator[str]:
    spread = Spread.of(measurement.seconds[name])
    yield from (name, _ms(spread.median), f"{_ms(spread.lower)} to {_ms(spread.upper)}")
    yield f"{measurement.tokens / spread.median:,.0f}"
    if name in measurement.memory:
        memory = measurement.memory[name]
        yield from (f"{memory.peak / MIB:,.0f}", f"{memory.above / MIB:,.0f}")


def _ratios(measurement: Measurement) -> str:
    rows = []
    for one, other in measurement.pairs():
        spread, memory = measurement.ratio(one, other), measurement.memory_ratio(one, other)
        rows.append(
            [f"{one} / {other}", f"{spread.median:.3f}", f"{spread.lower:.3f} to {spread.upper:.3f}",
             "-" if memory is None else f"{memory:.3f}"]
        )  # fmt: skip
    columns = 4 if measurement.memory else 3
    return markdown_table(["ratio", "median", "quartiles", "peak memory"][:columns], [row[:columns] for row in rows])


def _bookkeeping(settings: BenchSettings, measurement: Measurement) -> Iterable[str]:
    extra = measurement.bookkeeping()
    if extra is not None:
        yield f"blob - lora: {_ms(extra.median)} ms ({_ms(extra.lower)} to {_ms(extra.upper)})"
    if "randn" in measurement.seconds:
        yield f"randn draws the {num_normals(settings, measurement.case.in_features):,} Gaussian numbers of one step"


def _growth(growth: list[Growth]) -> str:
    rows = []
    for found in growth:
        fixed = ", ".join(f"{axis} {value:,}" for axis, value in found.fixed.items())
        points = ", ".join(f"{x:,}: {_ms(y)}" for x, y in found.points.items())
        explained = "-" if found.line.r_squared is None else f"{found.line.r_squared:.4f}"
        rows.append(
            [f"{found.part}: {found.contender}", found.axis, fixed, points, _ms(found.line.intercept),
             f"{1000 * found.line.slope:.3g}", explained]
        )  # fmt: skip
    return markdown_table(["contender", "against", "at", "median ms", "intercept ms", "slope ms", "R^2"], rows)


def _layers(count: int | None) -> str:
    return "1 layer" if count == 1 else f"{count} layers"


def _ms(seconds: float) -> str:
    """Milliseconds, to four digits or a hundredth."""
    value = 1000 * seconds
    return f"{value:.2f}" if abs(value) < 99.995 else f"{value:.0f}"
