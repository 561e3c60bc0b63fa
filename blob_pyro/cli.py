"""The command line: `blob-pyro fit | compare | reproduce | evaluate | predict | tasks | bench`.

Every mistake of the user's ends in one line on standard error and exit code 2, never in a traceback.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import sys
import textwrap
from argparse import SUPPRESS, RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter

from blob_pyro.bench import PARTS, BenchResult, bench, measurement_text, summary_text
from blob_pyro.compare import compare
from blob_pyro.config import RunConfig
from blob_pyro.config_file import KEYS, check_file, expected_type, unknown_key
from blob_pyro.contenders.options import add_options, settings_of
from blob_pyro.data.task import Task
from blob_pyro.data.tasks import describe_tasks
from blob_pyro.errors import BlobPyroError, ConfigError, DataError
from blob_pyro.evaluation import Metrics
from blob_pyro.methods import ABLATIONS, METHODS, SYSTEMS
from blob_pyro.report.table import metrics_table
from blob_pyro.report.terminal import quiet_libraries
from blob_pyro.reproduce import ITEMS, Order, find_item
from blob_pyro.reproduce.settings import CHANGEABLE
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


class _HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of a description; tells each option's type and default."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
        The exit code: 0, 2 for a user's mistake, 130 after Ctrl-C.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # "±" on a terminal that has none
    try:
        with quiet_libraries():
            _dispatch(words)
        sys.stdout.flush()  # a closed pipe shows here, not in a traceback when the interpreter ends
    except SystemExit as end:  # --help and --print_config
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt as interrupt:
        # the terminal has echoed ^C without a new line
        start = "\n" if sys.stderr.isatty() else ""
        print(f"{start}blob-pyro: stopped by Ctrl-C; {str(interrupt) or 'nothing was saved'}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader (head, less) closed our output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (BlobPyroError, OSError) as error:  # of the latter: a full disk, no permission
        return _fail(str(error))
    return 0


def _fail(message: str) -> int:
    print(f"blob-pyro: error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _dispatch(words: list[str]) -> None:
    if words and words[0] in ("-h", "--help"):
        print(_overview())
        return
    if not words or words[0] not in COMMANDS:
        got = repr(words[0]) if words else "none"
        raise ConfigError(f"expected a command ({', '.join(COMMANDS)}); got {got}; see blob-pyro --help")
    command = COMMANDS[words[0]]
    parser = command.parser()
    try:
        command.run(parser, words[1:])
    except ArgumentError as error:
        raise ConfigError(_in_our_words(error, parser)) from error


def _in_our_words(error: ArgumentError, parser: ArgumentParser) -> str:
    """jsonargparse's message as "expected X; got Y"."""
    text = " ".join(str(error).split())
    if found := re.match(r"unrecognized arguments: (.*)", text):
        return _unknown_word(found[1].split()[0], parser)
    if not (found := re.match(r'Parser key "([\w.]+)"(?: element \d+)?: (.*)', text)):
        return f"{text}; see {parser.prog} --help"
    key, rest = found.groups()
    # of a union the message tells each member's complaint, and the value at the end
    patterns = (r"Given value: (.*)$", r"Got value: (.*)$", r"Unable to load config '(.*?)'")
    value = next(filter(None, (re.search(pattern, rest) for pattern in patterns)), None)
    kind = KEYS.get(key) or next((getattr(a, "_typehint", a.type) for a in parser._actions if a.dest == key), None)
    return f"{key}: expected {expected_type(kind)}; got {value[1]}" if value and kind else f"{key}: {rest}"


def _unknown_word(word: str, parser: ArgumentParser) -> str:
    if not word.startswith("--"):
        return f"expected {parser.usage}; got {word!r} beside that"
    options = [name[2:] for action in parser._actions for name in action.option_strings if name[:2] == "--"]
    return unknown_key(word[2:].split("=")[0], options, prefix="--")


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
        formatter_class=_HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
    )


def _fit_parser() -> ArgumentParser:
    parser = _parser(
        "fit",
        "blob-pyro fit CONFIG.yaml [--key value ...]",
        """
        Fine-tune, predict the test items, write a run directory. Every key of the YAML file can be
        given (or given anew) on the command line; of a key under `train:` the option is --train.KEY.

        The smallest file:

          data:
            train_file: train.jsonl              # {"text": "Lovely day", "label": "positive"}
            test_file: test.jsonl
            prompt: "Tweet: {text}\\nSentiment:"  # in double quotes, so that \\n is a new line
            labels: [" negative", " positive"]   # each a single token: mind the space

        --tune searches steps, KL rate, prior scale and layers on held-out items first (data.num_validation);
        it is short for --tune.search true.

        example: blob-pyro fit my.yaml --train.num_steps 200 --output runs/short
        """,
    )
    parser.add_argument("--config", action="config", help="a YAML file; the same as CONFIG.yaml")
    parser.add_class_arguments(RunConfig)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


def _config_of(parser: ArgumentParser, words: Sequence[str]) -> tuple[RunConfig, Any]:
    """The configuration that a file and options give, and all that was parsed."""
    # jsonargparse reads configuration files through an option: the positional file becomes that option
    if not words:
        raise ConfigError(f"expected {parser.usage}; got no configuration; see {parser.prog} --help")
    positional = not words[0].startswith("-")
    words = _tune_in_full(["--config", *words] if positional else list(words))
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    for option, path in pairwise(words):
        if option == "--config":
            check_file(path)
    parsed = parser.instantiate(parser.parse_args(words))
    fields = {name: parsed[name] for name in ("data", "model", "guide", "train", "predict", "tune", "seed", "output")}
    return RunConfig(**fields), parsed


def _tune_in_full(words: Sequence[str]) -> list[str]:
    """`--tune` without a value is `--tune.search true`; with one it is the section's file, as of any section.

    Example:
        >>> _tune_in_full(["--tune", "--seed", "1"])
        ['--tune.search=true', '--seed', '1']
    """
    after = [*words[1:], "--"]
    return [
        "--tune.search=true" if word == "--tune" and following.startswith("-") else word
        for word, following in zip(words, after, strict=True)
    ]


def _fit(parser: ArgumentParser, words: Sequence[str]) -> None:
    config, parsed = _config_of(parser, words)
    result = fit_run(config, progress=not parsed.quiet)
    _print_metrics(result.metrics)
    print(f"run directory: {result.path}")


def _compare_parser() -> ArgumentParser:
    listed = "\n".join(f"          {name:<20} {method.description}" for name, method in METHODS.items())
    parser = _parser(
        "compare",
        "blob-pyro compare CONFIG.yaml [--methods NAME,NAME] [--seeds 0,1,2] [--workers N] [--key value ...]",
        f"""
        Run several systems under one configuration and print one table. Run directories go below --output;
        runs that are there already are not repeated, so that an interrupted comparison goes on. --help of
        `blob-pyro fit` explains the configuration; its keys are options here too. --tune searches the settings of
        every method that can be tuned. --workers 2 makes two runs at once, each with half of the threads.

        methods:
{listed}
          systems              {", ".join(SYSTEMS)}
          ablations            {", ".join(ABLATIONS)}

        example: blob-pyro compare examples/compare.yaml --methods mle,laplace,blob --seeds 0,1,2
        """,
    )
    parser.add_argument("--config", action="config", help="a YAML file; the same as CONFIG.yaml")
    parser.add_class_arguments(RunConfig)
    parser.add_argument("--methods", type=str, default="systems", help="names, separated by commas")
    parser.add_argument("--seeds", type=str, default="0,1,2", help="whole numbers, separated by commas")
    parser.add_argument("--workers", type=int, default=1, help="runs to make at once, each in a process of its own")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


def _compare(parser: ArgumentParser, words: Sequence[str]) -> None:
    config, parsed = _config_of(parser, words)
    names = [name.strip() for name in parsed.methods.split(",") if name.strip()]
    try:
        found = compare(config, names, _seeds(parsed.seeds), workers=parsed.workers, progress=not parsed.quiet)
    except KeyboardInterrupt:
        told = f"{config.output} holds the runs that were done; the same command goes on"
        raise KeyboardInterrupt(told) from None
    print(f"\n{found.text()}\n\nrun directories and tables: {found.path}")


def _seeds(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",") if word.strip()]
    except ValueError as error:
        raise ConfigError(f"--seeds: expected whole numbers, separated by commas; got {text!r}") from error


def _reproduce_parser() -> ArgumentParser:
    listed = "\n".join(f"          {name:<9} {item.description}" for name, item in ITEMS.items())
    parser = _parser(
        "reproduce",
        "blob-pyro reproduce NAME [--model ID] [--scale small | full] [--out DIR] [--seeds 0,1,2] [--key value ...]",
        f"""
        Make a table or figure of the paper again: NAME.md and NAME.csv in DIR, and pictures beside them. Small
        scale has small models and few items, and ends on two cores; full scale has the paper's settings, for a
        7B model and a GPU. What DIR holds already is not made again, so that an interrupted command goes on.

{listed}

        The keys of `blob-pyro fit --help` under data, model, train and predict are options here too, where a
        scale's own value is to be another: --train.num_steps 20.

        example: blob-pyro reproduce table1 --tasks winogrande_s --seeds 0 --out reproduced/first
        """,
    )
    parser.add_argument("name", type=str, help=f"one of {', '.join(ITEMS)}")
    parser.add_argument(
        "--model", type=str | None, default=None, help="hub id, folder or alias; the scale's by default"
    )
    parser.add_argument(
        "--scale", type=Literal["full", "small"], default="small", help="the paper's settings, or small"
    )
    parser.add_argument(
        "--out", type=str | None, default=None, help="directory to write to; reproduced/NAME by default"
    )
    parser.add_argument("--seeds", type=str, default="0,1,2", help="whole numbers, separated by commas")
    parser.add_argument("--workers", type=int, default=1, help="runs to make at once, each in a process of its own")
    parser.add_argument(
        "--tasks", type=str | None, default=None,
        help="other tasks than the paper's, separated by commas; of table2 the first is trained on",
    )  # fmt: skip
    parser.add_argument(
        "--methods", type=str | None, default=None,
        help="of a table: other systems than the paper's, separated by commas; `blob-pyro compare --help` lists them",
    )  # fmt: skip
    parser.add_argument("--data_dir", type=str | None, default=None, help="folder with local copies of the tasks")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    return parser


def _reproduce(parser: ArgumentParser, words: Sequence[str]) -> None:
    own, changes = _split_changes(words)
    parsed = parser.parse_args(own)
    item = find_item(parsed.name)
    order = Order(
        path=Path(parsed.out or f"reproduced/{parsed.name}"),
        model=parsed.model,
        scale=parsed.scale,
        seeds=tuple(_seeds(parsed.seeds)),
        tasks=_names(parsed.tasks),
        methods=_names(parsed.methods),
        data_dir=parsed.data_dir,
        changes=_changes(changes),
        workers=parsed.workers,
        progress=not parsed.quiet,
    )
    try:
        found = item.make(order)
    except KeyboardInterrupt:
        told = f"{order.path} holds the runs that were done; the same command goes on"
        raise KeyboardInterrupt(told) from None
    print(f"\n{found.text}\n\nfiles: {', '.join(map(str, found.files))}")


def _names(text: str | None) -> tuple[str, ...] | None:
    """Names separated by commas; None for an option that was not given."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def _split_changes(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The command's own words, and those of settings like --train.num_steps with their values."""
    own: list[str] = []
    changes: list[str] = []
    rest = iter(words)
    for word in rest:
        if not re.match(r"--\w+\.", word):
            own.append(word)
            continue
        changes.append(word)
        if "=" not in word:
            changes += [value for value in (next(rest, None),) if value is not None]
    return own, changes


def _changes(words: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Section -> {setting: value}; a parser of its own, since --model beside --model.r would be ambiguous."""
    parser = _parser("reproduce", "", "")
    for key, kind in CHANGEABLE.items():
        parser.add_argument(f"--{key}", type=kind, default=SUPPRESS)
    try:
        changes: dict[str, dict[str, Any]] = parser.parse_args(list(words)).as_dict()
    except ArgumentError as error:
        raise ConfigError(_in_our_words(error, parser)) from error
    return changes


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


def _tasks_parser() -> ArgumentParser:
    return _parser(
        "tasks",
        "blob-pyro tasks",
        "List the built-in tasks: answer words, items, where they come from, and the prompt.\n\n"
        "example: blob-pyro tasks",
    )


def _tasks(parser: ArgumentParser, words: Sequence[str]) -> None:
    parser.parse_args(words)
    print("\n\n".join(map(_task_text, describe_tasks())))


def _task_text(task: Task) -> str:
    """What `blob-pyro tasks` says of one task."""
    labels = ", ".join(label.strip() for label in task.labels)
    lines = [f"{task.name}: {task.description}", f"  labels: {labels}", f"  split: {task.splits}"]
    prompt = textwrap.indent(task.template.template, "    ")
    return "\n".join([*lines, f"  source: {task.source}", "  prompt:", prompt])


def _bench_parser() -> ArgumentParser:
    parser = _parser(
        "bench",
        f"blob-pyro bench [{' | '.join(PARTS)} | all] [--option value ...]",
        """
        Time a training step and a prediction against plain PEFT LoRA and plain Pyro, interleaved in one
        process, and measure the peak memory of each in a process of its own. The defaults take about
        half an hour on two cores. docs/performance.md tells what each contender and column is.

        example: blob-pyro bench train --length 64 --rounds 5 --output bench.json
        """,
    )
    add_options(parser)
    parser.add_argument("--output", type=str | None, default=None, help="JSON file to write, after each measurement")
    return parser


def _bench(parser: ArgumentParser, words: Sequence[str]) -> None:
    parsed = parser.parse_args(words)
    settings = settings_of(parsed.as_dict())
    if parsed.output is not None:
        _check_output(parsed.output)

    saved = False

    def report(result: BenchResult) -> None:
        nonlocal saved
        print(measurement_text(settings, result.measurements[-1]), end="\n\n", flush=True)
        if parsed.output is not None:
            result.save(parsed.output)
            saved = True

    try:
        result = bench(settings, command=shlex.join(["blob-pyro", "bench", *words]), on_measurement=report)
    except KeyboardInterrupt:
        told = f"{parsed.output} holds the tables above" if saved else "nothing was saved"
        raise KeyboardInterrupt(told) from None
    if summary := summary_text(result):
        print(summary)


def _check_output(path: str) -> None:
    """Raise unless a file can be written at `path`, before hours of work are lost on it."""
    if not Path(path).resolve().parent.is_dir():
        raise DataError(f"--output: expected a file in a folder that exists; got {path}")
    if Path(path).is_dir():
        raise DataError(f"--output: expected a file to write to; got the folder {path}")


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
    "compare": Command("run several systems under one configuration and print one table", _compare_parser, _compare),
    "reproduce": Command("make a table or figure of the paper again", _reproduce_parser, _reproduce),
    "evaluate": Command("predict a run's test items again", _evaluate_parser, _evaluate),
    "predict": Command("answer the items of a JSON-lines file", _predict_parser, _predict),
    "tasks": Command("list the built-in tasks", _tasks_parser, _tasks),
    "bench": Command("time training and prediction against plain LoRA and plain Pyro", _bench_parser, _bench),
}
