"""Tables of several parts as one Markdown file and one CSV file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from blob_pyro.config.sections import RunConfig
from blob_pyro.errors import BlobPyroError
from blob_pyro.experiments.paper.order import Order, Reproduction
from blob_pyro.report.comparison import Rows, comparison_lines, comparison_markdown, scores_of_rows
from blob_pyro.report.plots import methods_plot, save_png_and_svg
from blob_pyro.report.tables import csv_text
from blob_pyro.system.files import write_whole


@dataclass(frozen=True)
class Section:
    """One part of a table.

    Attributes:
        title: its task.
        rows: row -> seed -> outcome; None where a run failed; empty where nothing could be run.
        failures: one line each.
        note: what to read the table by, or nothing.
    """

    title: str
    rows: Rows
    failures: tuple[str, ...] = ()
    note: str = ""

    @property
    def has_outcomes(self) -> bool:
        """Whether any run ended."""
        return any(outcome for by_seed in self.rows.values() for outcome in by_seed.values())


def told(order: Order, config: RunConfig) -> str:
    """One line on what was run.

    Example:
        >>> from blob_pyro.config.sections import DataConfig
        >>> told(Order(Path("out")), RunConfig(DataConfig(task="boolq", num_train=100)))  # doctest: +ELLIPSIS
        'Scale small: model smollm2, 5,000 steps of 4 items, 100 training items, all test items, N = 10, seeds 0, 1, 2.'
    """
    train, data = config.train, config.data
    return (
        f"Scale {order.scale}: model {config.model.id}, {train.num_steps:,} steps of {train.batch_size} items, "
        f"{_count(data.num_train)} training items, {_count(data.num_test)} test items, "
        f"N = {config.predict.num_samples}, seeds {', '.join(map(str, order.seeds))}."
    )


def write_table(order: Order, name: str, heading: str, note: str, sections: Sequence[Section]) -> Reproduction:
    """Write NAME.md and NAME.csv, and a chart for each section with outcomes.

    Args:
        order: says where.
        name: of the files.
        heading: of the Markdown.
        note: what was run.
        sections: the parts, in the order to print.

    Raises:
        BlobPyroError: no run ended in any section.
    """
    if not any(section.has_outcomes for section in sections):
        why = next((failure for section in sections for failure in section.failures), "nothing was run")
        raise BlobPyroError(f"{name}: expected at least one run that ends; all failed: {why}")
    text = "\n\n".join([f"# {heading}", note, *(_markdown(section) for section in sections)])
    files = write_files(order, name, text, _csv(sections))
    for section in sections:
        if section.has_outcomes:
            stem = order.path / f"{name}_{section.title.replace('/', '-')}"
            files += save_png_and_svg(methods_plot(scores_of_rows(section.rows)), stem)
    return Reproduction(text, files)


def write_files(order: Order, name: str, text: str, table: str) -> tuple[Path, ...]:
    """NAME.md and NAME.csv in the order's directory."""
    order.path.mkdir(parents=True, exist_ok=True)
    files = (order.path / f"{name}.md", order.path / f"{name}.csv")
    for file, content in zip(files, (f"{text}\n", table), strict=True):
        write_whole(file, content)
    return files


def _markdown(section: Section) -> str:
    """The title, the table if there is one, and what failed."""
    failed = [f"Failed: {failure.removesuffix('.')}." for failure in section.failures]
    table = [comparison_markdown(section.rows)] if section.has_outcomes else []
    note = [section.note] if section.note else []
    return "\n\n".join([f"## {section.title}", *table, *note, *failed])


def _csv(sections: Sequence[Section]) -> str:
    """The lines of `comparison_csv` of every section, with the task before them; columns a section lacks are empty."""
    there = [section for section in sections if section.has_outcomes]
    return csv_text([{"task": one.title, **line} for one in there for line in comparison_lines(one.rows)])


def _count(number: int | None) -> str:
    return "all" if number is None else f"{number:,}"
