"""`blob-pyro predict`."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from blob_pyro.cli.command import Command, add_run_arguments, command_parser, json_line
from blob_pyro.errors import DataError
from blob_pyro.workflow import predict_run


def _predict_parser() -> ArgumentParser:
    parser = command_parser(
        "predict",
        "blob-pyro predict RUN FILE [--output OUT.jsonl] [--num_samples N]",
        """
        Answer the items of a JSON-lines file; each line comes back with "prediction", "probabilities",
        "entropy" and "mutual_information" (nats) added.

        example: blob-pyro predict runs/short new.jsonl --output answers.jsonl
        """,
    )
    add_run_arguments(parser)
    parser.add_argument("file", type=str, help="JSON lines with the fields of the run's prompt")
    parser.add_argument("--output", type=str | None, default=None, help="where to write; standard output by default")
    return parser


def _predict(parser: ArgumentParser, words: Sequence[str]) -> None:
    parsed = parser.parse_args(words)
    if parsed.output is not None and Path(parsed.output).resolve() == Path(parsed.file).resolve():
        raise DataError(f"--output: expected another file than the input; got {parsed.output} for both")
    if parsed.output is not None and not Path(parsed.output).resolve().parent.is_dir():
        raise DataError(f"--output: expected a file in a folder that exists; got {parsed.output}")
    answers = predict_run(
        parsed.run, parsed.file, num_samples=parsed.num_samples, progress=not parsed.quiet, say=_say_aside
    )
    encoding = sys.stdout.encoding if parsed.output is None else "utf-8"
    lines = "".join(json_line(answer, encoding) for answer in answers)
    if parsed.output is None:
        sys.stdout.write(lines)
        return
    try:
        Path(parsed.output).write_text(lines, encoding="utf-8")
    except OSError as error:
        raise DataError(f"--output: expected a file to write to; got {parsed.output}: {error.strerror}") from error


def _say_aside(line: str) -> None:
    """To standard error, since standard output holds the answers."""
    print(line, file=sys.stderr)


COMMAND = Command("answer the items of a JSON-lines file", _predict_parser, _predict)
