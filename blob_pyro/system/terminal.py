"""`Console`: what a user sees of a long work; and a quiet terminal for commands and scripts."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from blob_pyro.system.hub_errors import one_line
from blob_pyro.system.printing import tell_aside, tell_line

Say = Callable[[str], None]


@dataclass(frozen=True)
class Console:
    """What a user sees of a run: made where a command or a script begins, and handed down.

    Attributes:
        progress: show progress, as a bar, or as lines without a terminal.
        log: receives each line for the user.
        log_resumed: receives the line that tells where an unfinished training goes on; None takes `log`.
    """

    progress: bool = True
    log: Say = tell_line
    log_resumed: Say | None = None

    def resumed(self, line: str) -> None:
        """Tell where a training goes on."""
        (self.log_resumed or self.log)(line)


def _nothing(line: str) -> None:
    """For who does not speak."""


TERMINAL = Console()
SILENT = Console(progress=False, log=_nothing)


_NOISE = ("Already found a `peft_config` attribute",)  # of PEFT, where several adapters are meant (ensembles, draws)


@contextlib.contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep other libraries' progress bars and notes off the terminal; show each UserWarning on one line.

    Undoes itself at the end. Meant for programs, around all they do; the library itself never calls it.
    """
    from transformers.utils import logging as transformers_logging

    bar, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    bitsandbytes = logging.getLogger("bitsandbytes")
    level = bitsandbytes.level
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    bitsandbytes.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        for start in _NOISE:
            warnings.filterwarnings("ignore", message=start)
        warnings.showwarning = _show_on_one_line
        try:
            yield
        finally:
            bitsandbytes.setLevel(level)
            transformers_logging.set_verbosity(verbosity)
            if bar:
                transformers_logging.enable_progress_bar()


def _show_on_one_line(message: Warning | str, category: type[Warning], *rest: object, **named: object) -> None:
    if issubclass(category, UserWarning):
        tell_aside(f"warning: {one_line(message)}")


@contextlib.contextmanager
def no_dataset_bars() -> Iterator[None]:
    """No progress bars of `datasets` inside, which fill a log with carriage returns; afterwards as before."""
    from datasets import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    were_disabled = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not were_disabled:
            enable_progress_bars()
