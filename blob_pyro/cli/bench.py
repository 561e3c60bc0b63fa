"""`blob-pyro bench`."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from blob_pyro.cli.command import Command, add_quiet, command_parser
from blob_pyro.cli.outputs import check_output
from blob_pyro.config.checks import unknown_name
from blob_pyro.errors import Stopped
from blob_pyro.experiments.bench import PARTS, BenchResult, BenchSettings, bench, measurement_text, summary_text
from blob_pyro.experiments.bench.results import is_result
from blob_pyro.system.printing import tell, tell_aside

_CHOICES = (*PARTS, "all")


def _bench_parser() -> ArgumentParser:
    parser = command_parser(
        "bench",
        f"blob-pyro bench [{' | '.join(_CHOICES)}] [--key value ...]",
        """
        Time a training step and a prediction against plain PEFT LoRA and plain Pyro,
        and measure the peak memory of each: half an hour on two cores by default.

        example: blob-pyro bench train --length '[64]' --rounds 5 --output bench.json
        """,
    )
    parser.add_argument("part", type=str, nargs="?", default="all", help=f"one of {', '.join(_CHOICES)}")
    parser.add_argument("--output", type=str | None, default=None, help="JSON file to write, after each measurement")
    add_quiet(parser)
    settings = parser.add_argument_group("what is measured, and how", name="settings")
    settings.add_class_arguments(BenchSettings, as_group=False, skip={"parts"})
    return parser


def _bench(parser: ArgumentParser, words: Sequence[str]) -> None:
    options = parser.parse_args(words).as_dict()
    part, output, quiet = (options.pop(name) for name in ("part", "output", "quiet"))
    if part not in _CHOICES:
        raise unknown_name("part", _CHOICES, part)
    settings = BenchSettings(parts=PARTS if part == "all" else (part,), **options)
    if output is not None:
        check_output(output, ("", ".json", ".txt"), "JSON", is_result)

    saved = False

    def report(result: BenchResult) -> None:
        nonlocal saved
        tell(measurement_text(settings, result.measurements[-1]), end="\n\n", flush=True)
        if output is not None:
            result.save(output)
            saved = True

    try:
        result = bench(
            settings, command=shlex.join(["blob-pyro", "bench", *words]), on_measurement=report, progress=not quiet
        )
    except KeyboardInterrupt as error:
        raise Stopped.after(error, f"{output} holds the tables above" if saved else "nothing was saved") from None
    if summary := summary_text(result):
        tell(summary)
    if output is not None:
        tell_aside(f"wrote {output}")


COMMAND = Command("time training and prediction against plain LoRA and plain Pyro", _bench_parser, _bench)
