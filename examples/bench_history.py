"""How fast is it today? A few ratios of `blob-pyro bench` in a dated file, compared with this machine's last one.

    make bench        # or python examples/bench_history.py; some minutes on two cores that have nothing else to do

Each file of docs/bench/ has the seconds of every round: a training step and a prediction with N = 10 on SmolLM2-135M
against plain PEFT LoRA, and what a step costs by itself. It is named by its date and the kind of machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from blob_pyro.experiments.bench import BenchResult, BenchSettings, bench
from blob_pyro.experiments.bench.clock import Spread
from blob_pyro.experiments.bench.settings import as_record
from blob_pyro.experiments.bench.tables import heading
from blob_pyro.report import markdown_table
from blob_pyro.system.machine import machine_name
from blob_pyro.system.terminal import quiet_libraries

FOLDER = Path(__file__).resolve().parents[1] / "docs" / "bench"
SETTINGS = BenchSettings(
    model="smollm2", contenders=("lora_full", "lora_answer", "blob", "lora"), length=(64,), num_samples=(10,),
    num_prompts=4, rounds=9, memory=False,
)  # fmt: skip


def record(settings: BenchSettings, folder: Path, *, progress: bool = False) -> str:
    """Measure, write the file, and tell what is new against the last one of such a machine."""
    with quiet_libraries():
        result = bench(settings, command="make bench", progress=progress)
    name = machine_name(result.machine)
    last = max(folder.glob(f"*_{name}.json"), default=None)  # their names begin with the date
    path = folder / f"{result.date[:19].replace(':', '')}_{name}.json"
    folder.mkdir(parents=True, exist_ok=True)
    result.save(path)
    written = f"written: {path.name}"
    if last is None:
        return f"{written}, the first of such a machine\n\n{table(result, result)}"
    try:
        return f"{written}, against {last.name}\n\n{comparison(BenchResult.load(last), result)}"
    except (OSError, ValueError, TypeError, KeyError) as error:  # damaged, or of a version with other settings
        return f"{written}; not comparable with {last.name}, which cannot be read: {error}"


def comparison(old: BenchResult, new: BenchResult) -> str:
    """The table of both; or why there is none."""
    if different := settings_apart(old, new):
        return f"not comparable: {', '.join(different)}"
    changed = [f"{name} {value} -> {new.machine.get(name)}" for name, value in old.machine.items()
               if new.machine.get(name) != value]  # fmt: skip
    return "\n\n".join([table(old, new), *([f"other versions: {', '.join(changed)}"] if changed else [])])


def settings_apart(old: BenchResult, new: BenchResult) -> list[str]:
    """What was asked for otherwise: settings, and the number of threads."""
    before, now = (as_record(result.settings) | {"threads": result.machine["threads"]} for result in (old, new))
    return [f"{name} {value} -> {now[name]}" for name, value in before.items() if now[name] != value]


def table(old: BenchResult, new: BenchResult) -> str:
    """A line for each ratio, and whether its quartiles lie apart."""
    before = dict(ratios(old))
    rows = [[name, cell(before[name]), cell(now), apart(before[name], now)] for name, now in ratios(new)]
    return markdown_table(["ratio: median (quartiles)", "old", "new", "quartiles apart"], rows)


def ratios(result: BenchResult) -> Iterator[tuple[str, Spread]]:
    """Ours against each other contender, in every case."""
    for one in result.measurements:
        for pair in one.pairs():
            yield f"{heading(result.settings, one)}: {' / '.join(pair)}", one.ratio(*pair)


def apart(old: Spread, new: Spread) -> str:
    """ "slower" or "faster" where all of one's middle half lies beyond the other's.

    Example:
        >>> apart(Spread(1.0, 0.9, 1.1), Spread(1.2, 1.15, 1.3)), apart(Spread(1.0, 0.9, 1.1), Spread(1.1, 1.0, 1.2))
        ('slower', '')
    """
    return "slower" if new.lower > old.upper else "faster" if new.upper < old.lower else ""


def cell(spread: Spread) -> str:
    """A ratio and its quartiles."""
    return f"{spread.median:.3f} ({spread.lower:.3f} to {spread.upper:.3f})"


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the files lie (default: docs/bench)")
    print(record(SETTINGS, parser.parse_args().folder, progress=True))


if __name__ == "__main__":
    main()
