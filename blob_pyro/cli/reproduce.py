"""`blob-pyro reproduce`."""

from __future__ import annotations

import re
from argparse import SUPPRESS
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser

from blob_pyro.cli.command import Command, add_quiet, command_parser, in_our_words, names, runs_done, seeds
from blob_pyro.errors import ConfigError, Stopped
from blob_pyro.experiments.paper import ITEMS, Order, find_item
from blob_pyro.experiments.paper.settings import CHANGEABLE
from blob_pyro.system.printing import tell, tell_line
from blob_pyro.system.terminal import Console


def _reproduce_parser() -> ArgumentParser:
    listed = "\n".join(f"          {name:<9} {item.description}" for name, item in ITEMS.items())
    parser = command_parser(
        "reproduce",
        "blob-pyro reproduce NAME [--scale small | full] [--key value ...]",
        f"""
        Make a table or figure of the paper again: NAME.md, NAME.csv and pictures in
        --out. What is there already is not made again. NAME is one of

{listed}

        example: blob-pyro reproduce table1 --tasks winogrande_s --seeds 0
        """,
    )
    parser.add_argument("name", type=str, help=f"one of {', '.join(ITEMS)}")
    options = parser.add_argument_group("options of a table or figure", name="choices")
    for name, (kind, default, text) in _OPTIONS.items():
        options.add_argument(f"--{name}", type=kind, default=default, help=text)
    add_quiet(options)
    return parser


_OPTIONS: dict[str, tuple[Any, Any, str]] = {
    "model": (str | None, None, "hub id, folder or alias; the scale's by default"),
    "scale": (Literal["full", "small"], "small", "the paper's settings, or small"),
    "out": (str | None, None, "directory to write to; reproduced/NAME by default"),
    "seeds": (str, "0,1,2", "whole numbers, separated by commas"),
    "workers": (int, 1, "runs to make at once, each in a process of its own"),
    "tasks": (
        str | None, None, "other tasks than the paper's, separated by commas; of table2 the first is trained on",
    ),
    "methods": (
        str | None,
        None,
        "of a table: other systems than the paper's, separated by commas; see `blob-pyro compare --help methods`",
    ),
    "data_dir": (str | None, None, "folder with local copies of the tasks"),
}  # fmt: skip


def _reproduce(parser: ArgumentParser, words: Sequence[str]) -> None:
    own, changes = _split_changes(words)
    parsed = parser.parse_args(own)
    item = find_item(parsed.name)
    order = Order(
        path=Path(parsed.out or f"reproduced/{parsed.name}"),
        model=parsed.model,
        scale=parsed.scale,
        seeds=tuple(seeds(parsed.seeds)),
        tasks=names(parsed.tasks),
        methods=names(parsed.methods),
        data_dir=parsed.data_dir,
        changes=_changes(changes),
        workers=parsed.workers,
        console=Console(progress=not parsed.quiet),
    )
    try:
        found = item.make(order)
    except KeyboardInterrupt as error:
        raise Stopped.after(error, runs_done(order.path)) from None
    tell(f"\n{found.text}\n")
    tell_line(f"wrote {', '.join(map(str, found.files))}")


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
    parser = command_parser("reproduce", "", "")
    for key, kind in CHANGEABLE.items():
        parser.add_argument(f"--{key}", type=kind, default=SUPPRESS)
    try:
        changes: dict[str, dict[str, Any]] = parser.parse_args(list(words)).as_dict()
    except ArgumentError as error:
        raise ConfigError(in_our_words(error, parser)) from error
    return changes


SCALES = """\
Small scale (the default) has small models and few items, and ends on two cores;
full scale has the paper's settings, for a 7B model and a GPU.

The keys of `blob-pyro fit --help TOPIC` under data, model, train and predict are
options here too, where a scale's own value is to be another: --train.num_steps 20."""

COMMAND = Command("make a table or figure of the paper again", _reproduce_parser, _reproduce, {"scales": SCALES})
