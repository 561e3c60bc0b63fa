"""`blob-pyro completion`: the shell completes commands, options and the names that options take."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import shtab
from jsonargparse import ArgumentParser

from blob_pyro.cli.command import Command, command_parser
from blob_pyro.config.checks import unknown_name
from blob_pyro.system.printing import tell

_PATHS = dict.fromkeys(("run", "runs", "data_dir", "out", "adapter"), shtab.DIRECTORY) | dict.fromkeys(
    ("file", "held_out", "train_file", "test_file", "output", "CONFIG"), shtab.FILE
)


def completion_command(commands: Callable[[], Mapping[str, Command]]) -> Command:
    """The command, for the commands that there will be."""

    def run(parser: ArgumentParser, words: Sequence[str]) -> None:
        shell = parser.parse_args(words).shell
        if shell not in shtab.SUPPORTED_SHELLS:
            raise unknown_name("shell", shtab.SUPPORTED_SHELLS, shell)
        tell(completion_script(shell, commands()))

    return Command("print a script that completes words in your shell", _completion_parser, run)


def completion_script(shell: str, commands: Mapping[str, Command]) -> str:
    """A script for a shell that `shtab` knows; made once, so that nothing is imported while one types."""
    whole = ArgumentParser(prog="blob-pyro")
    parts = whole.add_subcommands()
    for name, command in commands.items():
        part = command.parser()
        if "--config" in part._option_string_actions:  # the positional file, which is parsed as this option
            part.add_argument("CONFIG")
        for action in part._actions:
            if (path := _PATHS.get(action.dest.rpartition(".")[2])) is not None:
                action.complete = path  # type: ignore[attr-defined]
        parts.add_subcommand(name, part, help=command.help)
    return whole.get_completion_script(f"shtab-{shell}")


def _completion_parser() -> ArgumentParser:
    parser = command_parser(
        "completion",
        "blob-pyro completion SHELL",
        """
        Print a script that completes commands, options and their values: write it to a
        file once, and source that in ~/.bashrc.

        example: blob-pyro completion bash > ~/.blob-pyro.bash
        """,
    )
    parser.add_argument("shell", type=str, help=f"one of {', '.join(shtab.SUPPORTED_SHELLS)}")
    return parser
