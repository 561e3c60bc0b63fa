"""What a subcommand is, and what several of them share."""

from __future__ import annotations

import dataclasses
import re
import textwrap
from argparse import RawDescriptionHelpFormatter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from blob_pyro.config.file import check_file
from blob_pyro.config.sections import GuideConfig, RunConfig
from blob_pyro.errors import ConfigError, DataError
from blob_pyro.evaluation.metrics import Scores
from blob_pyro.guides import GUIDES
from blob_pyro.guides.settings import KEYS, describe_settings
from blob_pyro.report.tables import annotators_table, metrics_table


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
        help: one line for `blob-pyro --help`.
        parser: makes its parser.
        run: does its work.
        topics: texts of `blob-pyro COMMAND --help TOPIC`, beside its groups of options.
    """

    help: str
    parser: Callable[[], ArgumentParser]
    run: Callable[[ArgumentParser, Sequence[str]], None]
    topics: Mapping[str, str] = field(default_factory=dict)


class _HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of a description; tells each option's type and default."""


def command_parser(command: str, usage: str, description: str) -> ArgumentParser:
    return ArgumentParser(
        prog=f"blob-pyro {command}",
        usage=usage,
        description=textwrap.dedent(description).strip(),
        formatter_class=_HelpFormatter,
        exit_on_error=False,
        allow_abbrev=False,
    )


def add_run_config(parser: ArgumentParser) -> None:
    """An option for each key of a configuration; those of the guides are what they say of them."""
    parser.add_class_arguments(RunConfig, skip={"guide"})
    parser.add_class_arguments(_guide_options(), "guide")


def _guide_options() -> type:
    """`GuideConfig` with a field for each setting of each guide."""
    keys = {key.removeprefix("guide."): kind for key, kind in KEYS.items() if key.startswith("guide.")}
    described = {"name": f"one of `bp.guides`: {', '.join(GUIDES)}.", **describe_settings()}
    fields = [(key, kind, GuideConfig().name if key == "name" else None) for key, kind in keys.items()]
    words = [f"    {key}: {text}" for key, text in described.items()]
    docstring = "\n".join(["Which posterior to learn.", "", "Attributes:", *words])
    return dataclasses.make_dataclass("GuideConfig", fields, namespace={"__doc__": docstring})


def config_of(parser: ArgumentParser, words: Sequence[str]) -> tuple[RunConfig, Any]:
    """The configuration that a file and options give, and all that was parsed."""
    # jsonargparse reads configuration files through an option: the positional file becomes that option
    if not words:
        raise ConfigError(f"expected {parser.usage}; got no configuration; see {parser.prog} --help")
    positional = not words[0].startswith("-")
    words = _in_full(["--config", *words] if positional else list(words))
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    for option, path in pairwise(words):
        if option == "--config":
            check_file(path, KEYS)
    try:
        parsed = parser.instantiate(parser.parse_args(words))
    except OverflowError as error:
        raise ConfigError(
            f"expected numbers of ordinary size; {error}: look at the options with many digits"
        ) from error
    fields = {field.name: parsed[field.name] for field in dataclasses.fields(RunConfig)}
    return RunConfig(**fields | {"guide": GuideConfig(**vars(parsed.guide))}), parsed


def _in_full(words: Sequence[str]) -> list[str]:
    """`--compat` is `--data.compat`. `--tune` without a value is `--tune.search true`; with one it is the section's
    file, as of any section.

    Example:
        >>> _in_full(["--tune", "--compat", "authors"])
        ['--tune.search=true', '--data.compat', 'authors']
    """
    words = [re.sub("^--compat(?==|$)", "--data.compat", word) for word in words]
    after = [*words[1:], "--"]
    return [
        "--tune.search=true" if word == "--tune" and following.startswith("-") else word
        for word, following in zip(words, after, strict=True)
    ]


def seeds(text: str) -> list[int]:
    try:
        return [int(word) for word in text.split(",") if word.strip()]
    except ValueError as error:
        raise ConfigError(f"--seeds: expected whole numbers, separated by commas; got {text!r}") from error


def names(text: str | None) -> tuple[str, ...] | None:
    """Names separated by commas; None for an option that was not given."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def add_run_arguments(parser: ArgumentParser) -> None:
    parser.add_argument("run", type=str, help="a run directory")
    parser.add_argument(
        "--num_samples", type=int | None, default=None, help="posterior draws; the run's own by default"
    )
    add_quiet(parser)


def add_quiet(parser: Any) -> None:
    """Of a parser, or of a group of its options."""
    parser.add_argument("--quiet", action="store_true", help="no progress bars, and no lines in their place")


def check_output(path: str) -> None:
    """Raise unless a file can be written at `path`, before hours of work are lost on it."""
    if not Path(path).resolve().parent.is_dir():
        raise DataError(f"--output: expected a file in a folder that exists; got {path}")
    if Path(path).is_dir():
        raise DataError(f"--output: expected a file to write to; got the folder {path}")


def print_metrics(metrics: Mapping[str, Scores]) -> None:
    print(metrics_table(metrics) if metrics else "no test items: nothing to evaluate")
    if against_annotators := annotators_table(metrics):
        print(f"\n{against_annotators}")
