"""`blob-pyro evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from blob_pyro.cli.command import Command, add_run_arguments, command_parser, print_metrics
from blob_pyro.runs.evaluate import evaluate_run
from blob_pyro.storage.directory import METRICS, PREDICTIONS
from blob_pyro.system.printing import tell_line
from blob_pyro.system.processes import connected


def _evaluate_parser() -> ArgumentParser:
    parser = command_parser(
        "evaluate",
        "blob-pyro evaluate RUN [--num_samples N]",
        """
        Predict a run's test items again and rewrite its metrics.

        example: blob-pyro evaluate runs/short --num_samples 40
        """,
    )
    add_run_arguments(parser)
    return parser


def _evaluate(parser: ArgumentParser, words: Sequence[str]) -> None:
    parsed = parser.parse_args(words)
    with connected() as ranks:
        result = evaluate_run(parsed.run, num_samples=parsed.num_samples, base=parsed.base, progress=not parsed.quiet)
        if ranks.is_first:
            print_metrics(result.metrics)
            tell_line(f"wrote {result.path / METRICS}, {result.path / PREDICTIONS}")


COMMAND = Command("predict a run's test items again", _evaluate_parser, _evaluate, is_shared=True)
