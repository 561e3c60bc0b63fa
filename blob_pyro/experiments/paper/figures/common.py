"""What the figures share: their configuration, their runs' items, what they keep of a run, and what they write."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader

from blob_pyro.config.methods import METHODS
from blob_pyro.config.sections import RunConfig
from blob_pyro.data.batches.collate import Encoded, padding_id
from blob_pyro.data.batches.loaders import predict_loader
from blob_pyro.experiments.compare.comparison import run_methods
from blob_pyro.experiments.compare.runs import is_finished, run_path
from blob_pyro.experiments.paper.order import Order, Reproduction
from blob_pyro.experiments.paper.settings import config_for
from blob_pyro.experiments.paper.writing import write_files
from blob_pyro.runs.answerer import load_run
from blob_pyro.runs.build import encode_items, load_data
from blob_pyro.storage.directory import read_config
from blob_pyro.storage.saving import Run
from blob_pyro.system.files import new_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Found = TypeVar("Found")


@dataclass(frozen=True)
class LoadedRun:
    """A finished run and test items of its own.

    Attributes:
        config: what it was made with.
        run: model and posterior.
        items: the test items in batches, which carry an index.
        labels: answer words in class order.
    """

    config: RunConfig
    run: Run
    items: DataLoader[tuple[int, Encoded]]
    labels: tuple[str, ...]


def configuration(order: Order, task: str, small_task: str | None = None) -> RunConfig:
    """The settings for the order's first task, or else for the figure's.

    Args:
        order: what was asked for.
        task: the paper's.
        small_task: another at small scale, where a small model learns nothing of the paper's; None takes the same.
    """
    own = small_task if order.scale == "small" and small_task is not None else task
    return config_for(order, order.tasks[0] if order.tasks else own)


def of_runs(
    order: Order, config: RunConfig, names: Sequence[str], make: Callable[[Path], Found]
) -> tuple[dict[str, dict[int, Found]], tuple[str, ...]]:
    """What is made of each run, once `run_methods` has made the runs.

    Args:
        order: what was asked for.
        config: what the runs share.
        names: of the methods.
        make: run directory of a finished run -> what is wanted of it.

    Returns:
        Title of the method -> seed -> what was made, without methods that have no finished run; and the failures.

    Raises:
        ConfigError, RunDirectoryError: as `run_methods`; also where no run ends.
    """
    failures = run_methods(config, names, order.seeds, workers=order.workers, console=order.console).failures
    found = {
        METHODS[name].title: {seed: make(path) for seed, path in finished_runs(config, name, order.seeds).items()}
        for name in names
    }
    return {title: by_seed for title, by_seed in found.items() if by_seed}, failures


def finished_runs(config: RunConfig, method: str, seeds: tuple[int, ...]) -> dict[int, Path]:
    """Seed -> run directory of the runs that `run_methods` has finished."""
    return {seed: run_path(config, method, seed) for seed in seeds if is_finished(config, method, seed)}


def load_with_items(path: Path, num_items: int | None = None) -> LoadedRun:
    """A run and its first test items.

    Args:
        path: the run directory.
        num_items: how many; None takes all.
    """
    config = read_config(path)
    data = load_data(config)
    run = load_run(path, data.labels)
    items = encode_items(data.test[:num_items], run.model, config.data, config.data.test_file)
    loader = predict_loader(items, config.predict.batch_size, padding_id(run.model.tokenizer))
    return LoadedRun(config, run, loader, data.labels)


def kept(path: Path, make: Callable[[], Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which is made where it is not there yet, whole or not at all."""
    if not path.is_file():
        tensors = {name: value.contiguous() for name, value in make().items()}
        with new_file(path) as file:
            save_file(tensors, file)
    return load_file(path)


def describe(order: Order, config: RunConfig) -> str:
    """One line: task, model, steps, items, seeds and scale."""
    data = config.data
    counts = [
        f"{'all' if count is None else count} {part} items"
        for part, count in (("training", data.num_train), ("test", data.num_test))
    ]
    seeds = f"{'seed' if len(order.seeds) == 1 else 'seeds'} {', '.join(map(str, order.seeds))}"
    parts = [str(data.task), config.model.id, f"{config.train.num_steps:,} steps", *counts, seeds]
    return f"{', '.join(parts)} (scale {order.scale})."


def write(
    order: Order, name: str, paragraphs: list[str], table: str, **pictures: Axes | Iterable[Axes]
) -> Reproduction:
    """Write NAME.md and NAME.csv, and each picture as PNG and SVG.

    Args:
        order: says where.
        name: of the figure.
        paragraphs: of the Markdown text; empty ones are left out.
        table: text of the CSV file.
        pictures: name of the files -> axes of the picture.
    """
    from blob_pyro.report.plots import save_png_and_svg

    text = "\n\n".join(filter(None, [*paragraphs, *(f"![{picture}]({picture}.png)" for picture in pictures)]))
    files = write_files(order, name, text, table)
    drawn = [file for stem, axes in pictures.items() for file in save_png_and_svg(axes, order.path / stem)]
    return Reproduction(text, (*files, *drawn))


def failed(failures: tuple[str, ...]) -> str:
    """A paragraph on the runs that failed; empty where none did."""
    return "\n\n".join(f"Failed: {failure}." for failure in failures)
