"""`blob-pyro bench`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from blob_pyro.cli.command import Command, add_quiet, check_output, command_parser
from blob_pyro.errors import Stopped
from blob_pyro.experiments.bench import PARTS, BenchResult, bench, measurement_text, summary_text
from blob_pyro.experiments.bench.options import add_options, settings_of


def _bench_parser() -> ArgumentParser:
    parser = command_parser(
        "bench",
        f"blob-pyro bench [{' | '.join(PARTS)} | all] [--key value ...]",
        """
        Time a training step and a prediction against plain PEFT LoRA and plain Pyro,
        and measure the peak memory of each: half an hour on two cores by default.

        example: blob-pyro bench train --length 64 --rounds 5 --output bench.json
        """,
    )
    add_options(parser)
    parser.add_argument("--output", type=str | None, default=None, help="JSON file to write, after each measurement")
    add_quiet(parser)
    return parser


def _bench(parser: ArgumentParser, words: Sequence[str]) -> None:
    parsed = parser.parse_args(words)
    asked = parsed.as_dict()
    quiet = asked.pop("quiet")
    settings = settings_of(asked)
    if parsed.output is not None:
        check_output(parsed.output)

    saved = False

    def report(result: BenchResult) -> None:
        nonlocal saved
        print(measurement_text(settings, result.measurements[-1]), end="\n\n", flush=True)
        if parsed.output is not None:
            result.save(parsed.output)
            saved = True

    try:
        result = bench(
            settings, command=shlex.join(["blob-pyro", "bench", *words]), on_measurement=report, progress=not quiet
        )
    except KeyboardInterrupt as error:
        told = f"{parsed.output} holds the tables above" if saved else "nothing was saved"
        raise Stopped.after(error, told) from None
    if summary := summary_text(result):
        print(summary)


COMMAND = Command("time training and prediction against plain LoRA and plain Pyro", _bench_parser, _bench)
