"""`blob-pyro export`."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from blob_pyro.cli.command import Command, add_base, add_quiet, command_parser
from blob_pyro.config.ranges import LARGEST_SEED, check_range
from blob_pyro.errors import ConfigError, HubError
from blob_pyro.runs.exports import export, push_to_hub
from blob_pyro.runs.exports.push import check_repo_id
from blob_pyro.system.printing import tell_line


def _export_parser() -> ArgumentParser:
    parser = command_parser(
        "export",
        "blob-pyro export RUN [--as mean | draws:K | merged] [--output DIR]",
        """
        Write a run as a folder that other programs load, with a model card and a
        manifest (docs/exports.md).

        --as mean      one ordinary PEFT adapter, the posterior's spread beside it
        --as draws:10  ten sampled PEFT adapters, whose probabilities are to be averaged
        --as merged    the base model with the mean merged into it; it has no posterior

        example: blob-pyro export runs/short --as draws:10
        example: blob-pyro export runs/short --push_to_hub ORG/NAME --private
        """,
    )
    parser.add_argument("run", type=str, help="a run directory")
    parser.add_argument("--as", type=str, default="mean", help="mean, draws:K or merged")
    parser.add_argument(
        "--output", type=str | None, default=None, help="the new folder; RUN/export/KIND (draws_K) by default"
    )
    parser.add_argument("--seed", type=int | None, default=None, help="of the draws; the run's own by default")
    parser.add_argument(
        "--push_to_hub", type=str | None, default=None, help="send the folder to this repository of the hub, ORG/NAME"
    )
    parser.add_argument("--private", action="store_true", help="make a new repository of the hub private")
    add_base(parser)
    add_quiet(parser)
    return parser


def _export(parser: ArgumentParser, words: Sequence[str]) -> None:
    parsed = parser.parse_args(words)
    if parsed.private and parsed.push_to_hub is None:
        raise ConfigError("--private: expected --push_to_hub beside it; got none")
    if parsed.push_to_hub is not None:
        check_repo_id(parsed.push_to_hub)
    if parsed.seed is not None:
        check_range("--seed", parsed.seed, 0, LARGEST_SEED)
    folder = export(
        parsed.run,
        parsed["as"],
        output=parsed.output,
        seed=parsed.seed,
        base=parsed.base,
        progress=not parsed.quiet,
    )
    tell_line(f"wrote {folder}")
    if parsed.push_to_hub is None:
        return
    try:
        address = push_to_hub(folder, parsed.push_to_hub, private=parsed.private or None)
    except HubError as error:
        raise HubError(f"{error}; the folder {folder} is there, push it with bp.push_to_hub") from error
    tell_line(f"pushed to {address}")


COMMAND = Command("write a run as PEFT adapters or a merged model", _export_parser, _export)
