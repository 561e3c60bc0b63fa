"""Every command tells how far it is in one way: lines without a terminal, a bar on one, nothing with --quiet."""

from __future__ import annotations

import contextlib
import itertools
import os
import pty
import re
import termios
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import tiny
from processes import Process, finished

import blob_pyro
from blob_pyro.cli import main
from blob_pyro.system.progress import NUM_LINES, counted

UNIT = "( items| tokens| draws| rounds)?"
LINE, BAR = rf"^{{title}} \d+/\d+{UNIT}, \d+ s left", rf"\r{{title}} \d+% \d+/\d+{UNIT}, "
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a configuration, a run of it, and items to answer."""
    folder = tmp_path_factory.mktemp("progress")
    data = {"num_validation": 3}
    config = tiny.settings(folder, tiny.llama(), data=data, tune={"num_trials": 2})
    code, _, err = finished("fit", tiny.write_yaml(folder / "own.yaml", config))
    assert code == 0, err
    return folder


COMMANDS = {
    "fit": (["fit", "CONFIG"], ["blob", "predict N=0", "predict N=2"]),
    "tune": (["fit", "CONFIG", "--tune"], ["trial 1", "trial 2", "blob"]),
    "laplace": (
        ["fit", "CONFIG", "--guide.name", "laplace", "--guide.prior_precision", "held_out"],
        ["laplace", "laplace, curvature", "laplace, held out", "predict N=2"],
    ),
    "tfb": (["fit", "CONFIG", "--guide.name", "tfb"], ["tfb", "predict N=2"]),
    "ensemble": (["fit", "CONFIG", "--guide.name", "ensemble", "--guide.num_members", "2"], ["ensemble 2/2"]),
    "compare": (["compare", "CONFIG", "--methods", "mle,temperature", "--seeds", "0"], ["mle", "predict N=0"]),
    "evaluate": (["evaluate", "RUN"], ["predict N=0", "predict N=2"]),
    "predict": (["predict", "RUN", "ITEMS"], ["predict N=2"]),
    "acquire": (["acquire", "RUN", "ITEMS", "--k", "2"], ["predict N=2"]),
    "generate": (["generate", "RUN", "Tweet: What a", "--num_draws", "2", "--max_new_tokens", "4"], ["generate"]),
    "export": (["export", "RUN", "--as", "draws:3"], ["export"]),
    "bench": (
        ["bench", "bookkeeping", "--rounds", "2", "--warmup", "1", "--in_features", "8", "--num_sites", "2"],
        ["bookkeeping"],
    ),
}

APART = ("fit", "compare", "generate")  # in processes of their own; the others in this one, which tells in the same way


def words_of(name: str, place: Path) -> list[object]:
    """The words of a command, with paths; what it writes goes to a folder of its own."""
    paths = {"CONFIG": place / "own.yaml", "ITEMS": place / "test.jsonl", "RUN": place / "run"}
    words: list[object] = [paths.get(word, word) for word in COMMANDS[name][0]]
    own = ["--output", place / f"new{next(NUMBERS)}"] if words[0] in ("fit", "compare", "export") else []
    return [*words, *own]


def on_a_terminal(words: list[object], *, apart: bool, quiet: bool = False, columns: int = 100) -> tuple[int, str]:
    """Exit code of a command, in a process of its own or in this one, and all that a real pseudo-terminal shows."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24 if columns else 0, columns))
    with ThreadPoolExecutor(1) as reader:
        shown = reader.submit(everything, master)
        with open(slave, "w", buffering=1) as screen:
            if apart:
                code = Process(*words, quiet=quiet, terminal=os.ttyname(slave)).wait()[0]
            else:
                with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
                    code = main([*map(str, words), *(["--quiet"] if quiet else [])])
        return code, shown.result().decode()


def everything(master: int) -> bytes:
    """What a terminal shows until nobody has it open any more."""
    shown = b""
    with contextlib.suppress(OSError):  # how Linux tells the end
        while part := os.read(master, 65536):
            shown += part
    os.close(master)
    return shown


@pytest.mark.slow
@pytest.mark.parametrize("name", list(COMMANDS))
def test_without_a_terminal_there_are_lines(name: str, place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = words_of(name, place)
    if name in APART:
        code, out, err = Process(*words, quiet=False).wait()
    else:
        code, (out, err) = main([str(word) for word in words]), capsys.readouterr()
    assert code == 0, err
    assert "\r" not in out + err
    for title in COMMANDS[name][1]:
        line = LINE.format(title=re.escape(title))
        assert re.search(line, err, re.MULTILINE) and not re.search(line, out, re.MULTILINE), err


@pytest.mark.slow
@pytest.mark.parametrize("name", list(COMMANDS))
def test_quiet_tells_nothing(name: str, place: Path) -> None:
    """Not on a terminal either, where a bar would be."""
    code, shown = on_a_terminal(words_of(name, place), apart=name in APART, quiet=True)
    assert code == 0, shown
    assert "\r" not in shown.replace("\r\n", "\n")  # the terminal's own line ends
    assert not re.search(r"\d+/\d+.*(left|%)", shown), shown


@pytest.mark.slow
@pytest.mark.parametrize("name", list(COMMANDS))
def test_a_terminal_gets_bars(name: str, place: Path) -> None:
    code, shown = on_a_terminal(words_of(name, place), apart=name in APART)
    assert code == 0, shown
    for title in COMMANDS[name][1]:
        assert re.search(BAR.format(title=re.escape(title)), shown), shown
    assert "s left" not in shown


@pytest.mark.slow
def test_a_terminal_that_does_not_know_its_width_gets_bars_too(place: Path) -> None:
    code, shown = on_a_terminal(words_of("evaluate", place), apart=True, columns=0)
    assert code == 0 and re.search(BAR.format(title="predict N=2"), shown), shown


def test_nothing_else_makes_a_bar() -> None:
    users = [file for file in Path(blob_pyro.__file__).parent.rglob("*.py") if "tqdm" in file.read_text()]
    assert [file.name for file in users] == ["progress.py"]


@pytest.mark.parametrize("step", [1, 3, 7])
@pytest.mark.parametrize("total", [1, 19, 64, 1000])
def test_lines_of_counts_that_come_in_parts(total: int, step: int, capsys: pytest.CaptureFixture[str]) -> None:
    with counted(total, "predict", unit="items") as tell:
        for done in range(0, total, step):
            tell(min(step, total - done))
    told = [int(line.split()[1].split("/")[0]) for line in capsys.readouterr().err.splitlines()]
    assert told[0] == min(step, total) and told[-1] == total and told == sorted(set(told))
    assert len(told) <= NUM_LINES + 2


def test_lines_where_the_whole_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    with counted(None, "search", unit="forwards") as tell:
        for _ in range(1000):
            tell()
    lines = capsys.readouterr().err.splitlines()
    assert [int(line.split()[1]) for line in lines] == [*(2**k for k in range(10)), 1000]
    assert all(re.fullmatch(r"search \d+ forwards, \d+ s", line) for line in lines)


def test_nothing_done_is_nothing_told(capsys: pytest.CaptureFixture[str]) -> None:
    with counted(5, "predict") as tell:
        tell(0)
    with counted(5, "predict", show=False) as tell:
        tell(5)
    assert capsys.readouterr().err == ""
