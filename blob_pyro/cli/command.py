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

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter

from blob_pyro.config.checks import did_you_mean
from blob_pyro.config.file import check_file, unknown_key
from blob_pyro.config.sections import GuideConfig, RunConfig
from blob_pyro.config.types import expected_type, names_of
from blob_pyro.errors import ConfigError
from blob_pyro.evaluation.metrics import Scores
from blob_pyro.guides import GUIDES
from blob_pyro.guides.settings import KEYS, describe_settings
from blob_pyro.report.tables import annotators_table, metrics_table
from blob_pyro.storage.directory import CONFIG
from blob_pyro.system.hub_errors import one_line
from blob_pyro.system.printing import tell


@dataclass(frozen=True)
class Command:
    """One subcommand.

    Attributes:
        help: one line for `blob-pyro --help`.
        parser: makes its parser.
        run: does its work.
        topics: texts of `blob-pyro COMMAND --help TOPIC`, beside its groups of options.
        is_shared: several processes that a launcher has started do its work together.
    """

    help: str
    parser: Callable[[], ArgumentParser]
    run: Callable[[ArgumentParser, Sequence[str]], None]
    topics: Mapping[str, str] = field(default_factory=dict)
    is_shared: bool = False


class _HelpFormatter(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """Keeps the lines of a description; tells each option's type and default."""


def command_parser(command: str, usage: str, description: str) -> ArgumentParser:
    """A parser without options, which raises where plain ones exit; indents of the description are taken off."""
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
    _take_labels_as_they_are(parser)
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


def _take_labels_as_they_are(parser: ArgumentParser) -> None:
    """Leave their type to `DataConfig`: jsonargparse copies a list of n texts n times over (a minute for 2,000)."""
    for action in parser._actions:
        if action.dest == "data.labels":
            vars(action)["_typehint"] = Any


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
    """Whole numbers separated by commas.

    Raises:
        ConfigError: something else is among them.
    """
    try:
        return [int(word) for word in text.split(",") if word.strip()]
    except ValueError as error:
        raise ConfigError(f"--seeds: expected whole numbers, separated by commas; got {text!r}") from error


def names(text: str | None) -> tuple[str, ...] | None:
    """Names separated by commas; None for an option that was not given."""
    return None if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def add_run_arguments(parser: ArgumentParser) -> None:
    """What every command that predicts with a run takes: the run, how many draws, and --quiet."""
    parser.add_argument("run", type=str, help="a run directory")
    parser.add_argument(
        "--num_samples", type=int | None, default=None, help="posterior draws; the run's own by default"
    )
    add_base(parser)
    add_quiet(parser)


def add_base(parser: ArgumentParser) -> None:
    """Where the base of a run is, if it has moved."""
    parser.add_argument(
        "--base", type=str | None, default=None, help="the base's folder, hub id or alias, where it has moved"
    )


def add_quiet(parser: Any) -> None:
    """Of a parser, or of a group of its options."""
    parser.add_argument("--quiet", action="store_true", help="no progress bars, and no lines in their place")


def print_metrics(metrics: Mapping[str, Scores]) -> None:
    """The tables of a run's scores, a row for each set of test items."""
    tell(metrics_table(metrics) if metrics else "no test items: nothing to evaluate")
    if against_annotators := annotators_table(metrics):
        tell(f"\n{against_annotators}")


def runs_done(folder: str | Path) -> str:
    """What a stop of many runs leaves, for its message."""
    begun = any(Path(folder).rglob(CONFIG))
    return f"{folder} holds the runs that were done; the same command goes on" if begun else "nothing was saved"


def in_our_words(error: ArgumentError, parser: ArgumentParser) -> str:
    """jsonargparse's message as "expected X; got Y"."""
    text = one_line(error)
    if unrecognized := re.match(r"unrecognized arguments: (.*)", text):
        return _unknown_word(unrecognized[1].split()[0], parser)
    if not (complaint := re.match(r'Parser key "([\w.]+)"(?: element \d+)?: (.*)', text)):
        return f"{text}; see {parser.prog} --help"
    key, rest = complaint.groups()
    # of a union the message tells each member's complaint, and the value at the end
    patterns = (r"Given value: (.*)$", r"Got value: (.*)$", r"Unable to load config '(.*?)'")
    value = next(filter(None, (re.search(pattern, rest) for pattern in patterns)), None)
    kind = KEYS.get(key) or next((getattr(a, "_typehint", a.type) for a in parser._actions if a.dest == key), None)
    if not value or not kind:
        return f"{key}: {rest}"
    return (
        f"{key}: expected {expected_type(kind)}; got {one_line(value[1], 200)}{did_you_mean(value[1], names_of(kind))}"
    )


def _unknown_word(word: str, parser: ArgumentParser) -> str:
    if not word.startswith("--"):
        return f"expected {parser.usage}; got {word!r} beside that"
    options = [name[2:] for action in parser._actions for name in action.option_strings if name[:2] == "--"]
    return unknown_key(word[2:].split("=")[0], options, prefix="--")
