"""`blob-pyro reproduce`."""

from __future__ import annotations

import re
from argparse import SUPPRESS
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from jsonargparse import ArgumentError, ArgumentParser

from blob_pyro.cli.command import Command, add_quiet, command_parser, names, seeds
from blob_pyro.cli.mistakes import in_our_words
from blob_pyro.errors import ConfigError, Stopped
from blob_pyro.reproduce import ITEMS, Order, find_item
from blob_pyro.reproduce.settings import CHANGEABLE


def _reproduce_parser() -> ArgumentParser:
    listed = "\n".join(f"          {name:<9} {item.description}" for name, item in ITEMS.items())
    parser = command_parser(
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
    add_quiet(parser)
    return parser


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
        progress=not parsed.quiet,
    )
    try:
        found = item.make(order)
    except KeyboardInterrupt as error:
        told = f"{order.path} holds the runs that were done; the same command goes on"
        raise Stopped.after(error, told) from None
    print(f"\n{found.text}\n\nfiles: {', '.join(map(str, found.files))}")


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


COMMAND = Command("make a table or figure of the paper again", _reproduce_parser, _reproduce)
