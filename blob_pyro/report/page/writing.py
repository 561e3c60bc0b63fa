"""`write_report`: one HTML file about one run or several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from blob_pyro.errors import ConfigError, DataError, DiskFullError, RunDirectoryError
from blob_pyro.report.comparison import scores_of_rows
from blob_pyro.report.page.cautions import cautions_of, cautions_of_several
from blob_pyro.report.page.extremes import confident_mistakes, improbable_texts, uncertain_items, uncertain_texts
from blob_pyro.report.page.facts import changed_settings, configuration, facts_of
from blob_pyro.report.page.naming import System, run_name, systems_of
from blob_pyro.report.page.page import MARK, ItemList, Page, RunPart, html
from blob_pyro.report.page.pictures import Picture, pictures_of, pictures_of_several
from blob_pyro.report.page.tables import scores_table, system_rows, systems_table
from blob_pyro.report.tables import Cells, annotators_cells
from blob_pyro.storage.directory import refuse_output
from blob_pyro.storage.run_files import RunFiles, read_run
from blob_pyro.system.files import write_output
from blob_pyro.system.machine import version_of

NUM_ITEMS = 10


def write_report(
    run_dirs: Sequence[str | Path],
    output: str | Path,
    *,
    num_items: int = NUM_ITEMS,
    say: Callable[[str], None] = lambda line: None,
) -> Path:
    """Write a report on runs: what was run, scores with standard errors, pictures, items to look at, and cautions.

    The file needs nothing else: pictures and style are in it, and its policy forbids the browser to ask for more. The
    same runs give the same file. No model is loaded, and nothing outside the run directories is read.

    Args:
        run_dirs: directories that `fit_run` wrote. Of several there is a table of all, runs that differ in their seed
            alone being one row.
        output: the file; a former report is replaced, and nothing else is.
        num_items: how many of the most confident mistakes, and of the least certain items, are shown of each run.
        say: receives a line for the user where something is left out.

    Returns:
        The path of the file.

    Raises:
        ConfigError: no run, one given twice, or a negative number of items.
        RunDirectoryError: a directory is no run, or was altered.
        DiskFullError: there is no room for the file.
        DataError: the output is a folder, lies in none, is a run's own, has the ending of another format, or is a file
            that is no report.
    """
    output = Path(output)
    _check(run_dirs, output, num_items)
    runs = [read_run(path) for path in run_dirs]
    for run in runs:
        for line in run.missing:
            say(f"{run.path}: {line}")
    page = page_of(runs, num_items)
    try:
        write_output(output, html(page).encode("utf-8", errors="replace"))
    except DiskFullError:
        raise
    except OSError as error:
        raise DataError(f"--output: expected a file to write to; got {output}: {error.strerror}") from error
    return output


def page_of(runs: Sequence[RunFiles], num_items: int = NUM_ITEMS) -> Page:
    """What the report says."""
    systems = systems_of(runs)
    alone = len(runs) == 1
    parts = [
        _part(run, run_name(system, run, alone=len(system.runs) == 1), num_items)
        for system in systems
        for run in system.runs.values()
    ]
    by = f"blob_pyro {version_of('blob_pyro')}"
    if alone:
        return Page(f"Run {runs[0].path.resolve().name}: {systems[0].name}", by, parts)
    table, pictures = _side_by_side(systems)
    return Page(f"{len(runs)} runs", by, parts, cautions_of_several(systems), table, pictures)


def _side_by_side(systems: Sequence[System]) -> tuple[Cells | None, list[Picture]]:
    """Table and pictures of several systems."""
    rows = system_rows(systems)
    table = systems_table(rows)
    return table, pictures_of_several(systems, scores_of_rows(rows) if table is not None else {})


def _part(run: RunFiles, name: str, num_items: int) -> RunPart:
    tables = [("Scores", scores_table(run)), ("Against the annotators", annotators_cells(run.metrics))]
    return RunPart(
        name=name,
        facts=facts_of(run),
        changed=changed_settings(run.config),
        configuration=configuration(run.config),
        cautions=cautions_of(run),
        tables=[(title, table) for title, table in tables if table is not None],
        pictures=pictures_of(run),
        lists=_lists(run, num_items) if num_items else [],
        missing=run.missing,
    )


def _lists(run: RunFiles, count: int) -> list[ItemList]:
    if run.answers is not None:
        mistakes = confident_mistakes(run.answers, count)
        note = "Wrong answers of the highest confidence." if mistakes else "No answer is wrong."
        return [
            ItemList("Most confident mistakes", note, mistakes),
            ItemList("Least certain items", "Highest entropy of the averaged probabilities.",
                     uncertain_items(run.answers, count)),
        ]  # fmt: skip
    if run.texts is not None:
        return [
            ItemList("Most surprising texts", "Highest perplexity.", improbable_texts(run.texts, count)),
            ItemList("Least certain texts", "Highest entropy of the next token, on average.",
                     uncertain_texts(run.texts, count)),
        ]  # fmt: skip
    return []


def _check(run_dirs: Sequence[str | Path], output: Path, num_items: int) -> None:
    """Refuse what cannot work, before anything is drawn."""
    if not run_dirs:
        raise ConfigError("expected at least one run directory; got none; see blob-pyro report --help")
    found: set[Path] = set()
    for path in map(Path, run_dirs):
        if not path.is_dir():
            raise RunDirectoryError(f"{path}: expected a run directory; it is not there; check the path")
        if path.resolve() in found:
            raise ConfigError(f"expected each run once; got {path} twice")
        found.add(path.resolve())
    if num_items < 0:
        raise ConfigError(f"--num_items: expected a count of at least 0; got {num_items}")
    refuse_output(output)
    if output.suffix.lower() not in ("", ".html", ".htm"):
        raise DataError(f"--output: expected the name of an HTML file (.html, .htm, or no ending); got {output}")
    if output.exists() and not _is_report(output):
        raise DataError(f"--output: expected a new file, or a former report to replace; got {output}; choose another")


def _is_report(file: Path) -> bool:
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return opened.read(len(MARK)) == MARK.encode()
