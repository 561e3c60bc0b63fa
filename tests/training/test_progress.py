"""How far training is, where there is no terminal: a line now and then."""

from __future__ import annotations

import io
import re
import sys

import pytest

from blob_pyro.system.progress import NUM_LINES
from blob_pyro.training.svi import StepResult
from blob_pyro.training.trainer import progress_of


class Terminal(io.StringIO):
    """A stream that says it is a terminal, as a pseudo-terminal does."""

    def isatty(self) -> bool:
        return True


def result(step: int, *, skipped: bool = False) -> StepResult:
    return StepResult(0.5, 1234.0, 0.25, 309.0, step, skipped)


@pytest.mark.parametrize(("num_steps", "done"), [(1, 0), (7, 0), (20, 0), (1000, 0), (1000, 437)])
def test_the_first_step_the_last_and_some_twenty_between(
    num_steps: int, done: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress_of(num_steps, done, "blob") as tell:
        for step in range(done + 1, num_steps + 1):
            tell(result(step))
    lines = capsys.readouterr().err.splitlines()
    told = [int(line.split()[1].split("/")[0]) for line in lines]
    assert told == sorted(set(told)) and told[0] == done + 1 and told[-1] == num_steps
    assert len(told) <= NUM_LINES + 2
    form = rf"blob \d+/{num_steps}, \d+ s left, NLL 0.50, KL 1.2e\+03, KL weight 2e-01, \d+ ms/step"
    assert all(re.fullmatch(form, line) for line in lines)


def test_a_step_that_was_skipped_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_of(1, 0, "blob") as tell:
        tell(result(1, skipped=True))
    assert "blob 1/1, 0 s left, not finite, skipped, " in capsys.readouterr().err


def test_a_terminal_gets_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with progress_of(4, 2, "blob") as tell:
        for step in (3, 4):
            tell(result(step))
    assert "blob 50% 2/4" in terminal.getvalue() and "blob 100% 4/4" in terminal.getvalue()
    assert "s left" not in terminal.getvalue() and "\n" not in terminal.getvalue().rstrip("\n")
