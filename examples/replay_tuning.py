"""What margin should `--tune` ask for? The search, replayed on the finished runs of a figure 4.

    blob-pyro reproduce figure4 --model minilm --tasks mrpc --out reproduced/figure4
    python examples/replay_tuning.py reproduced/figure4/runs/mrpc-encoder

The runs of figure 4 have every KL rate under every prior scale, and the answers to many test items. Some of these items
are taken for held-out ones, the search of `--tune` chooses by them, and its choice is scored on the others; many times,
for every seed. Settings that figure 4 has no runs of count as trials that failed, and are never taken.
"""

from __future__ import annotations

import argparse
import dataclasses
import random
import statistics
from functools import cache
from pathlib import Path

from blob_pyro.config.sections import RunConfig, TuneConfig
from blob_pyro.experiments.paper.figures.settings_grid import cell_config
from blob_pyro.report import markdown_table
from blob_pyro.runs.tuning import Measured, label_nlls, search
from blob_pyro.storage.answers import read_predictions
from blob_pyro.storage.directory import PREDICTIONS, read_config

MARGINS = (0.0, 0.25, 0.5, 1.0, 2.0)


@cache
def item_nlls(path: Path) -> tuple[float, ...] | None:
    """NLL of each test item of a run in nats; None where there is no such run."""
    return label_nlls(read_predictions(path)) if path.is_file() else None


def run_nlls(start: RunConfig, trial: RunConfig, seed: int) -> tuple[float, ...] | None:
    """NLLs of the run that has a trial's settings."""
    assert trial.train.kl_lr is not None  # figure 4's runs have numbers
    cell = (trial.model.prior_scale, trial.train.kl_lr)
    own = dataclasses.replace(start, model=trial.model, train=trial.train)
    if cell_config(start, cell).train != own.train or own.model.bayesian_layers is not None:
        return None  # other steps or layers
    return item_nlls(Path(cell_config(start, cell).output) / "blob" / f"seed{seed}" / PREDICTIONS)


def replay(start: RunConfig, seed: int, margin: float, num_held_out: int, number: int) -> tuple[float, bool]:
    """NLL that the search gains on the items it did not choose by, nats per item, and whether it chose anything."""
    own = run_nlls(start, start, seed)
    assert own is not None
    items = random.Random(number).sample(range(len(own)), len(own))
    held_out, others = items[:num_held_out], items[num_held_out:]

    def measure(trial: RunConfig) -> Measured:
        found = run_nlls(start, trial, seed)
        return Measured(None if found is None else tuple(found[i] for i in held_out), num_blocks=0, seconds=0.0)

    config = dataclasses.replace(start, tune=TuneConfig(search=True, margin=margin))
    tuning = search(config, measure, num_data=1, say=lambda line: None)  # the rates are numbers: no rule is asked
    chosen = run_nlls(start, tuning.config, seed)
    assert chosen is not None
    return statistics.fmean(own[i] - chosen[i] for i in others), bool(tuning.changes)


def main() -> None:
    """Print a row for each margin."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of the runs of a figure 4 on one task")
    parser.add_argument("--num_held_out", type=int, default=60, help="items to choose by (default: 60)")
    parser.add_argument("--num_replays", type=int, default=200, help="for each seed and margin (default: 200)")
    options = parser.parse_args()
    cells = [options.runs / "blob", *options.runs.glob("grid/*/blob")]
    seeds = sorted(set.intersection(*({path.name for path in cell.glob("seed*")} for cell in cells)))
    if not seeds:
        raise SystemExit(f"{options.runs}: expected runs of a figure 4 (blob/seed0 and so on); got none")
    # the runs may have been moved: only their settings are taken from their configuration
    start = dataclasses.replace(read_config(options.runs / "blob" / seeds[0]), output=str(options.runs))
    rows = []
    for margin in MARGINS:
        by_seed = {
            seed: [
                replay(start, int(seed.removeprefix("seed")), margin, options.num_held_out, k)
                for k in range(options.num_replays)
            ]
            for seed in seeds
        }
        gains = [1000 * statistics.fmean(gain for gain, _ in found) for found in by_seed.values()]
        everything = [one for found in by_seed.values() for one in found]
        cells = [f"{statistics.fmean(gains):+.1f}", " ".join(f"{gain:+.1f}" for gain in gains)]
        worse = statistics.fmean(gain < 0 for gain, _ in everything)
        changed = statistics.fmean(change for _, change in everything)
        rows.append([f"{margin:g}", *cells, f"{100 * changed:.0f} %", f"{100 * worse:.0f} %"])
    print(markdown_table(["margin", "gain, mnats", "by seed", "changed something", "made worse"], rows))


if __name__ == "__main__":
    main()
