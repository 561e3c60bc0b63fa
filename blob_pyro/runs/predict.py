"""`predict_run`: a saved run answers the items of a file, or scores its completions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from blob_pyro.config.sections import DataConfig, RunConfig
from blob_pyro.data.examples import Example
from blob_pyro.data.prompts import PromptTemplate
from blob_pyro.data.rows.row import Row
from blob_pyro.data.rows.wording import quoted
from blob_pyro.data.tasks.completed import answers_as_completions, completion_template
from blob_pyro.data.tasks.load import examples_for, find_task
from blob_pyro.data.tasks.own_rows import read_items
from blob_pyro.errors import DataError
from blob_pyro.runs.answerer import Answerer, Fields, load_run, num_draws, with_samples
from blob_pyro.runs.build import encode_items, labels_of
from blob_pyro.runs.checks import refuse_tokens
from blob_pyro.runs.decisions import Decisions, decide, prepare
from blob_pyro.runs.item_kinds import TextItems
from blob_pyro.storage.answers import answers_of
from blob_pyro.storage.completions import completion_scores
from blob_pyro.storage.directory import pinned, read_config
from blob_pyro.system.printing import tell_line
from blob_pyro.system.terminal import Console, Say


def score_completions(
    run_dir: str | Path,
    config: RunConfig,
    rows: Sequence[Row],
    file: str,
    console: Console,
    base: str | Path | None = None,
) -> list[Fields]:
    """The rows of a file, each with how probable its completion is (see `completion_scores`).

    Args:
        run_dir: a directory that `fit_run` wrote, of a run that learns tokens.
        config: its configuration.
        rows: what the file holds: the fields of the prompt and of the completion.
        file: its name, for messages.
        console: shows progress, and is told of fields that are replaced.
        base: the folder, hub id or alias that the base is loaded from, where it has moved.

    Raises:
        RunDirectoryError: the directory is not a whole run.
        DataError: there is no completion to score, or a row lacks a field.
    """
    examples = _examples(run_dir, config.data, rows, file)
    run = load_run(run_dir, (), base=base)
    items = encode_items(examples, run.model, config.data, file)
    predictions = TextItems().predict(run, items, config, num_draws(run.guide, config), console)
    return with_fields(rows, completion_scores(predictions), console)


def _examples(run_dir: str | Path, config: DataConfig, rows: Sequence[Row], file: str) -> list[Example]:
    """The rows as prompts and completions."""
    names = _scored_fields(config)
    if not any(name in row.fields for row in rows for name in names):
        raise DataError(
            f"{file}: expected completions to score, in the fields {quoted(names)}; got {quoted(rows[0].fields)}: "
            f'add them, or have texts written with: blob-pyro generate {run_dir} "PROMPT"'
        )
    examples = examples_for(config, rows, with_labels=True, source=file)
    return examples if config.task is None else answers_as_completions(examples, find_task(config.task).labels)


def _scored_fields(config: DataConfig) -> tuple[str, ...]:
    """Names of the fields that hold what is scored."""
    if config.task is not None:
        return (find_task(config.task).label_field,)
    if config.completion is None:
        return PromptTemplate(str(config.prompt)).fields
    return completion_template(config.completion).fields


def predict_run(
    run_dir: str | Path,
    file: str | Path,
    *,
    num_samples: int | None = None,
    decisions: Decisions | None = None,
    base: str | Path | None = None,
    progress: bool = True,
    say: Say = tell_line,
) -> list[dict[str, Any]]:
    """Answer the items of a file with a saved run.

    Args:
        run_dir: a directory that `fit_run` wrote.
        file: .jsonl, .csv, .tsv (also .gz) or .parquet, with the fields of the run's prompt; labels are not needed.
        num_samples: posterior draws; None takes the run's own number.
        decisions: what else to decide on each item, by held-out items under the same draws and temperature.
        base: the folder, hub id or alias that the base is loaded from, where it has moved.
        progress: show a progress bar; those of other libraries are theirs (`system.terminal.quiet_libraries`).
        say: receives lines for the user.

    Returns:
        The rows in file order, each with "prediction", "probabilities" (label -> probability), "confidence", "margin",
        "entropy" and "mutual_information" (nats) added, and what `decisions` ask for (see `Decisions`). Of a run that
        learns tokens each has the scores of its completion instead (see `completion_scores`). Where a row has a field
        of such a name, the answer's takes its place, and `say` is told.

    Raises:
        RunDirectoryError: the directory is not a whole run.
        DataError: the file cannot be read, or a row lacks a field of the prompt or of the completion.
        ConfigError: `num_samples` is below 0, or a decision cannot be made, as `prepare` has it.
    """
    console = Console(progress, say)
    config, decisions = with_samples(pinned(read_config(run_dir), run_dir), num_samples), decisions or Decisions()
    if decisions.need_held_out:
        refuse_tokens(run_dir, config, "decisions (target_risk, coverage, ood)")
    found = read_items(config.data, str(file), with_labels=False)
    rows = found.rows
    if found.left_out:
        console.log(f"note: {found.left_out}")
    if config.learns_tokens:
        return score_completions(run_dir, config, rows, str(file), console, base)
    labels = labels_of(config.data)
    examples = examples_for(config.data, rows, with_labels=False, source=str(file))
    held_out = prepare(decisions, config, run_dir)
    run = load_run(run_dir, labels, base=base)
    answerer = Answerer(run, config, console)
    predictions = answerer(encode_items(examples, run.model, config.data, str(file)))
    decided = decide(predictions, answerer, decisions, held_out, labels)
    answers = zip(answers_of(predictions, labels), decided, strict=True)
    return with_fields(rows, [answer | more for answer, more in answers], console)


def with_fields(rows: Sequence[Row], added: Sequence[Mapping[str, Any]], console: Console) -> list[Fields]:
    """Each row's own fields and those added; the user is told which of its own are replaced."""
    replaced = Counter(name for row, more in zip(rows, added, strict=True) for name in row.fields.keys() & more.keys())
    if replaced:
        names = ", ".join(f"{name!r} (in {count} rows)" for name, count in sorted(replaced.items()))
        console.log(f"note: fields of the input are replaced: {names}")
    return [{**row.fields, **more} for row, more in zip(rows, added, strict=True)]
