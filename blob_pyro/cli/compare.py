"""`blob-pyro compare`."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from blob_pyro.cli.command import Command, add_quiet, add_run_config, command_parser, config_of, runs_done, seeds
from blob_pyro.config.methods import ABLATIONS, METHODS, SYSTEMS
from blob_pyro.errors import Stopped
from blob_pyro.experiments.compare import compare
from blob_pyro.system.printing import tell, tell_aside, tell_line


def _compare_parser() -> ArgumentParser:
    parser = command_parser(
        "compare",
        "blob-pyro compare CONFIG.yaml [--methods NAME,NAME] [--key value ...]",
        """
        Run several systems under one configuration (that of `blob-pyro fit`) and print
        one table. Run directories go below --output; what is there already is not made
        again, and what was killed goes on from its newest checkpoint. --tune searches
        the settings of every method that can be tuned.

        example: blob-pyro compare examples/compare.yaml --methods mle,blob --seeds 0,1
        """,
    )
    parser.add_argument("--config", action="config", help="a YAML file; the same as CONFIG.yaml")
    add_run_config(parser)
    parser.add_argument("--methods", type=str, default="systems", help="names, separated by commas; systems by default")
    parser.add_argument(
        "--seeds", type=str, default="0,1,2", help="whole numbers, separated by commas; 0,1,2 by default"
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="runs to make at once, each with its share of the threads"
    )
    add_quiet(parser)
    return parser


def _compare(parser: ArgumentParser, words: Sequence[str]) -> None:
    config, parsed = config_of(parser, words)
    names = [name.strip() for name in parsed.methods.split(",") if name.strip()]
    try:
        found = compare(config, names, seeds(parsed.seeds), workers=parsed.workers, progress=not parsed.quiet)
    except KeyboardInterrupt as error:
        raise Stopped.after(error, runs_done(config.output)) from None
    tell(f"\n{found.text()}\n")
    tell_line(f"wrote run directories and tables: {found.path}")
    if found.failures:
        tell_aside(f"blob-pyro: error: {len(found.failures)} runs failed, the first: {found.failures[0]}")
        raise SystemExit(1)


def _methods() -> str:
    listed = [f"  {name:<20} {method.description}" for name, method in METHODS.items()]
    sets = [f"  {name:<20} {', '.join(methods)}" for name, methods in (("systems", SYSTEMS), ("ablations", ABLATIONS))]
    return "\n".join(["methods:", *listed, "", "sets of them:", *sets])


COMMAND = Command(
    "run several systems under one configuration and print one table",
    _compare_parser,
    _compare,
    {"methods": _methods()},
)
