"""`blob-pyro completion`: the shell completes commands, options and the names that options take."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence

import shtab
from jsonargparse import ArgumentParser

from blob_pyro.cli.command import Command, command_parser
from blob_pyro.config.checks import unknown_name
from blob_pyro.config.file import names_of

_FOLDERS = ("run", "runs", "data_dir", "out", "adapter")
_FILES = ("file", "held_out", "train_file", "test_file", "output", "config")
_WITH_CONFIGURATION = "config"


def completion_command(commands: Callable[[], Mapping[str, Command]]) -> Command:
    """The command, for the commands that there will be."""

    def run(parser: ArgumentParser, words: Sequence[str]) -> None:
        shell = parser.parse_args(words).shell
        if shell not in shtab.SUPPORTED_SHELLS:
            raise unknown_name("shell", shtab.SUPPORTED_SHELLS, shell)
        print(completion_script(shell, commands()))

    return Command("print a script that completes words in your shell", _completion_parser, run)


def completion_script(shell: str, commands: Mapping[str, Command]) -> str:
    """A script for a shell that `shtab` knows; made once, so that nothing is imported while one types."""
    whole = argparse.ArgumentParser("blob-pyro")
    parts = whole.add_subparsers()
    for name, command in commands.items():
        part = parts.add_parser(name, help=command.help)
        for action in command.parser()._actions:
            _add(part, action)
    return shtab.complete(whole, shell)


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


def _add(part: argparse.ArgumentParser, action: argparse.Action) -> None:
    """An option or a word of a command, as plain argparse has it."""
    if action.dest == _WITH_CONFIGURATION:  # the positional file, which is parsed as this option
        part.add_argument("CONFIG.yaml").complete = shtab.FILE  # type: ignore[attr-defined]
    if action.dest == "help":
        return
    names = action.option_strings or [action.dest]
    text = (action.help or "").replace("%", "%%")
    if action.nargs == 0 and action.option_strings:
        part.add_argument(*names, action="store_true", help=text)
        return
    choices = names_of(getattr(action, "_typehint", None)) or None
    added = part.add_argument(*names, help=text, choices=choices)
    key = action.dest.rpartition(".")[2]
    if choices is None and key in (*_FOLDERS, *_FILES):
        added.complete = shtab.DIRECTORY if key in _FOLDERS else shtab.FILE  # type: ignore[attr-defined]
