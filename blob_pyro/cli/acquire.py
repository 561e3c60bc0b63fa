"""`blob-pyro acquire`."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from blob_pyro.cli.command import Command, add_run_arguments, command_parser
from blob_pyro.cli.outputs import check_rows_output, write_rows
from blob_pyro.evaluation import SCORES
from blob_pyro.runs.acquire import acquire_run
from blob_pyro.system.printing import tell_aside


def _acquire_parser() -> ArgumentParser:
    parser = command_parser(
        "acquire",
        "blob-pyro acquire RUN FILE --k K [--score NAME] [--output OUT.jsonl]",
        """
        Choose the K items of a file (.jsonl, .csv, .tsv, .parquet) to have labelled
        next: those a saved run is least sure of. They come back, the least sure first,
        with "line" (where it stands in FILE) and "score" added. bald finds where draws
        disagree; the other scores also find items that are ambiguous whatever the
        weights (docs/decisions.md).

        example: blob-pyro acquire runs/short unlabelled.jsonl --k 50
        """,
    )
    add_run_arguments(parser)
    parser.add_argument("file", type=str, help="a file with the fields of the run's prompt")
    parser.add_argument("--k", type=int, required=True, help="how many items to choose")
    parser.add_argument("--score", type=str, default="bald", help=f"one of {', '.join(SCORES)}")
    parser.add_argument("--output", type=str | None, default=None, help="where to write; standard output by default")
    return parser


def _acquire(parser: ArgumentParser, words: Sequence[str]) -> None:
    parsed = parser.parse_args(words)
    check_rows_output(parsed.output, parsed.run, parsed.file)
    chosen = acquire_run(
        parsed.run,
        parsed.file,
        parsed.k,
        score=parsed.score,
        num_samples=parsed.num_samples,
        base=parsed.base,
        progress=not parsed.quiet,
        say=tell_aside,
    )
    write_rows(chosen, parsed.output)


COMMAND = Command("choose the items of a file to have labelled next", _acquire_parser, _acquire)
