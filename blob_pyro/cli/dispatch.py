"""The command line: finds the command, runs it, and turns mistakes into one line."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import signal
import sys
from collections.abc import Sequence

from jsonargparse import ArgumentError

from blob_pyro.cli import acquire, bench, compare, evaluate, export, fit, generate, predict, report, reproduce, tasks
from blob_pyro.cli.command import Command, in_our_words
from blob_pyro.cli.completion import completion_command
from blob_pyro.cli.help import help_text
from blob_pyro.config.checks import did_you_mean
from blob_pyro.errors import BlobPyroError, ConfigError, Stopped
from blob_pyro.system.files import want_of_room
from blob_pyro.system.hub_errors import one_line
from blob_pyro.system.launchers import num_launched, refuse_unsupported
from blob_pyro.system.machine import version_of
from blob_pyro.system.printing import tell, tell_aside
from blob_pyro.system.terminal import quiet_libraries
from blob_pyro.training.stopping import signals_as_ctrl_c

COMMANDS: dict[str, Command] = {
    "fit": fit.COMMAND,
    "compare": compare.COMMAND,
    "reproduce": reproduce.COMMAND,
    "evaluate": evaluate.COMMAND,
    "predict": predict.COMMAND,
    "acquire": acquire.COMMAND,
    "generate": generate.COMMAND,
    "report": report.COMMAND,
    "export": export.COMMAND,
    "tasks": tasks.COMMAND,
    "bench": bench.COMMAND,
    "completion": completion_command(lambda: COMMANDS),
}


_LESS_MEMORY = "lower train.batch_size, predict.max_tokens, num_samples or model.r, or take a smaller base"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line.

    Returns:
        The exit code: 0; 1 where some runs of a comparison failed; 2 for a user's mistake; 130 after Ctrl-C, 143 after
        SIGTERM, 129 after SIGHUP.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # "±" on a terminal that has none
    try:
        with quiet_libraries(), signals_as_ctrl_c():
            _dispatch(words)
        sys.stdout.flush()  # a closed pipe shows here, not in a traceback when the interpreter ends
    except SystemExit as end:  # --help and --print_config
        return end.code if isinstance(end.code, int) else 0
    except KeyboardInterrupt as interrupt:
        # the terminal has echoed ^C without a new line
        if sys.stderr.isatty():
            tell_aside("")
        number = interrupt.signal if isinstance(interrupt, Stopped) else signal.SIGINT
        name = "Ctrl-C" if number == signal.SIGINT else signal.Signals(number).name
        tell_aside(f"blob-pyro: stopped by {name}; {str(interrupt) or 'nothing was saved'}")
        return 128 + number
    except BrokenPipeError:  # the reader (head, less) closed our output
        _drop_output()
    except (BlobPyroError, OSError) as error:  # of the latter: no permission, a full disk where standard output goes
        return _fail(error)
    except (MemoryError, RuntimeError) as error:
        if "Symlink loop" in str(error):  # of pathlib
            return _fail(BlobPyroError(f"expected a path that leads somewhere; got one of links in a ring ({error})"))
        if not isinstance(error, MemoryError) and not re.search("out of memory|can't allocate memory", str(error)):
            raise
        return _fail(BlobPyroError(f"expected more memory; {one_line(error, 200)}: {_LESS_MEMORY}"))
    return 0


def _fail(error: Exception) -> int:
    told = one_line(error, 1400)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        told = f"expected a path whose names have at most 255 bytes each; got {str(error.filename)[:80]}...: shorten it"
    if not isinstance(error, BlobPyroError) and (why := want_of_room(error)):  # all other files are told by their names
        told = f"standard output: expected room to write to; {why}: make room, or send it elsewhere"
        _drop_output()
    with contextlib.suppress(OSError):  # standard error goes to the full disk, too
        tell_aside(f"blob-pyro: error: {told}")
    return 2


def _drop_output() -> None:
    """What is still to be written is not, or the interpreter would try when it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _dispatch(words: list[str]) -> None:
    if words and words[0] in ("-h", "--help"):
        tell(_overview())
        return
    if words and words[0] in ("-V", "--version"):
        tell(f"blob_pyro {version_of('blob_pyro')}")
        return
    if not words or words[0] not in COMMANDS:
        got = repr(words[0]) if words else "none"
        advice = (did_you_mean(words[0], COMMANDS) if words else "") or "; see blob-pyro --help"
        raise ConfigError(f"expected a command ({', '.join(COMMANDS)}); got {got}{advice}")
    command = COMMANDS[words[0]]
    parser = command.parser()
    if (topic := _asked(words[1:])) is not None:
        tell(help_text(parser, command.topics, topic or None).rstrip("\n"))
        return
    refuse_unsupported()
    if not command.is_shared and (count := num_launched()) > 1:
        raise ConfigError(
            f"expected one process, for {words[0]} is not shared by several; got {count} of a launcher: start it alone"
        )
    try:
        command.run(parser, words[1:])
    except ArgumentError as error:
        raise ConfigError(in_our_words(error, parser)) from error


def _asked(words: Sequence[str]) -> str | None:
    """The topic that help is asked for, "" for the first screen; None where it is not asked for."""
    at = next((i for i, word in enumerate(words) if word in ("-h", "--help")), None)
    if at is None:
        return None
    return next((word for word in words[at + 1 :] if not word.startswith("-")), "")


def _overview() -> str:
    commands = "\n".join(f"  {name:<10} {command.help}" for name, command in COMMANDS.items())
    return (
        "usage: blob-pyro COMMAND ...\n\nFine-tune a language model with BLoB and get calibrated probabilities.\n\n"
        f"commands:\n{commands}\n\nexample:\n  blob-pyro fit my.yaml --train.num_steps 200\n\n"
        "`blob-pyro COMMAND --help` tells its options; `blob-pyro --version`, the version."
    )
