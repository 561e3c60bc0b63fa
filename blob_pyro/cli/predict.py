"""`blob-pyro predict`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from blob_pyro.cli.command import Command, add_run_arguments, command_parser
from blob_pyro.errors import DataError
from blob_pyro.workflow import predict_run


def _predict_parser() -> ArgumentParser:
    parser = command_parser(
        "predict",
        "blob-pyro predict RUN FILE [--output OUT.jsonl] [--num_samples N]",
        """
        Answer the items of a file (.jsonl, .csv, both also .gz, or .parquet); each comes back as a line of JSON with
        "prediction", "probabilities", "entropy" and "mutual_information" (nats) added.

        example: blob-pyro predict runs/short new.jsonl --output answers.jsonl
        """,
    )
    add_run_arguments(parser)
    parser.add_argument("file", type=str, help="a file with the fields of the run's prompt")
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
    lines = "".join(_json_line(answer, encoding) for answer in answers)
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


def _json_line(answer: Mapping[str, Any], encoding: str) -> str:
    """One line of JSON, with escapes only where the characters cannot be written as they are."""
    line = json.dumps(answer, ensure_ascii=False)
    try:
        line.encode(encoding)
    except UnicodeEncodeError:
        line = json.dumps(answer)
    return line + "\n"


COMMAND = Command("answer the items of a file", _predict_parser, _predict)
