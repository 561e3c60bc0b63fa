"""The command line: `blob-pyro fit | evaluate | predict | tasks`.

Every mistake of the user's ends in one line on standard error and exit code 2, never in a traceback.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from jsonargparse import ArgumentError, ArgumentParser

from blob_pyro.config import RunConfig
from blob_pyro.data.tasks import describe_tasks
from blob_pyro.errors import BlobPyroError, ConfigError, DataError
from blob_pyro.evaluation import Metrics
from blob_pyro.report.table import metrics_table
from blob_pyro.report.terminal import quiet_libraries
from blob_pyro.workflow import evaluate_run, fit_run, predict_run


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
        help: one line for `blob-pyro --help`.
        parser: makes its parser.
        run: does its work.
    """

    help: str
    parser: Callable[[], ArgumentParser]
    run: Callable[[ArgumentParser, Sequence[str]], None]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
        The exit code: 0, 2 for a user's mistake, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with quiet_libraries():
            return _dispatch(words)
    except KeyboardInterrupt:
        print("\nblob-pyro: stopped by Ctrl-C; what was learnt is saved if training had begun", file=sys.stderr)
        return 130
    except (BlobPyroError, ArgumentError) as error:
        print(f"blob-pyro: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # the reader (head, less) closed our output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _dispatch(words: list[str]) -> int:
    if not words or words[0] in ("-h", "--help"):
        print(_overview())
        return 0 if words else 2
    if words[0] not in COMMANDS:
        raise ConfigError(f"expected a command ({', '.join(COMMANDS)}); got {words[0]!r}; see blob-pyro --help")
    command = COMMANDS[words[0]]
    command.run(command.parser(), words[1:])
    return 0


def _overview() -> str:
    commands = "\n".join(f"  {name:<9} {command.help}" for name, command in COMMANDS.items())
    return (
        "usage: blob-pyro COMMAND ...\n\nFine-tune a language model with BLoB and get calibrated probabilities.\n\n"
        f"commands:\n{commands}\n\nexample:\n  blob-pyro fit my.yaml --train.num_steps 200\n\n"
        "`blob-pyro COMMAND --help` tells its options."
    )


def _parser(command: str, usage: str, description: str) -> ArgumentParser:
    return ArgumentParser(
        prog=f"blob-pyro {command}",
        usage=usage,
        description=textwrap.dedent(description).strip(),
        formatter_class=RawDescriptionHelpFormatter,
        exit_on_error=False,
    )


def _fit_parser() -> ArgumentParser:
    parser = _parser(
        "fit",
        "blob-pyro fit CONFIG.yaml [--key value ...]",
        """
        Fine-tune, predict the test items, write a run directory. Every key of the YAML file can be
        given (or given anew) on the command line.

        example: blob-pyro fit my.yaml --train.num_steps 200 --output runs/short
        """,
    )
    parser.add_argument("--config", action="config", help="a YAML file; the same as CONFIG.yaml")
    parser.add_class_arguments(RunConfig)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


def _fit(parser: ArgumentParser, words: Sequence[str]) -> None:
    # jsonargparse reads configuration files through an option: the positional file becomes that option
    positional = ["--config", words[0]] if words and not words[0].startswith("-") else []
    parsed = parser.instantiate(parser.parse_args([*positional, *words[len(positional) // 2 :]]))
    fields = {name: parsed[name] for name in ("data", "model", "guide", "train", "predict", "seed", "output")}
    result = fit_run(RunConfig(**fields), progress=not parsed.quiet)
    _print_metrics(result.metrics)
    print(f"run directory: {result.path}")


def _evaluate_parser() -> ArgumentParser:
    parser = _parser(
        "evaluate",
        "blob-pyro evaluate RUN [--num_samples N]",
        """
        Predict a run's test items again and rewrite its metrics.

        example: blob-pyro evaluate runs/short --num_samples 40
        """,
    )
    _add_run_arguments(parser)
    return parser


def _evaluate(parser: ArgumentParser, words: Sequence[str]) -> None:
    parsed = parser.parse_args(words)
    result = evaluate_run(parsed.run, num_samples=parsed.num_samples, progress=not parsed.quiet)
    _print_metrics(result.metrics)


def _predict_parser() -> ArgumentParser:
    parser = _parser(
        "predict",
        "blob-pyro predict RUN FILE [--output OUT.jsonl] [--num_samples N]",
        """
        Answer the items of a JSON-lines file; each line comes back with "prediction", "probabilities",
        "entropy" and "mutual_information" (nats) added.

        example: blob-pyro predict runs/short new.jsonl --output answers.jsonl
        """,
    )
    _add_run_arguments(parser)
    parser.add_argument("file", type=str, help="JSON lines with the fields of the run's prompt")
    parser.add_argument("--output", type=str | None, default=None, help="where to write; standard output by default")
    return parser


def _predict(parser: ArgumentParser, words: Sequence[str]) -> None:
    parsed = parser.parse_args(words)
    if parsed.output is not None and Path(parsed.output).resolve() == Path(parsed.file).resolve():
        raise DataError(f"--output: expected another file than the input; got {parsed.output} for both")
    answers = predict_run(parsed.run, parsed.file, num_samples=parsed.num_samples, progress=not parsed.quiet)
    lines = "".join(json.dumps(answer, ensure_ascii=False) + "\n" for answer in answers)
    if parsed.output is None:
        sys.stdout.write(lines)
        return
    try:
        Path(parsed.output).write_text(lines, encoding="utf-8")
    except OSError as error:
        raise DataError(f"--output: expected a file to write to; got {parsed.output}: {error.strerror}") from error


def _tasks_parser() -> ArgumentParser:
    return _parser("tasks", "blob-pyro tasks", "List the built-in tasks.\n\nexample: blob-pyro tasks")


def _tasks(parser: ArgumentParser, words: Sequence[str]) -> None:
    parser.parse_args(words)
    for name, labels, description, source in describe_tasks():
        print(f"{name}: {description}\n  labels: {', '.join(label.strip() for label in labels)}\n  source: {source}")


def _add_run_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=str, help="a run directory")
    parser.add_argument(
        "--num_samples", type=int | None, default=None, help="posterior draws; the run's own by default"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def _print_metrics(metrics: Mapping[str, Metrics]) -> None:
    print(metrics_table(metrics) if metrics else "no test items: nothing to evaluate")


COMMANDS = {
    "fit": Command("fine-tune a model and write a run directory", _fit_parser, _fit),
    "evaluate": Command("predict a run's test items again", _evaluate_parser, _evaluate),
    "predict": Command("answer the items of a JSON-lines file", _predict_parser, _predict),
    "tasks": Command("list the built-in tasks", _tasks_parser, _tasks),
}
