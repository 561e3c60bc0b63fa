"""Scores the completions of a file with a saved run that learns tokens, and refuses what such a run cannot do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from blob_pyro.answering import Fields, Say, load_run, num_draws, with_fields
from blob_pyro.building import encode_items, learns_tokens
from blob_pyro.config import DataConfig, RunConfig
from blob_pyro.data.completed import answers_as_completions, completion_template
from blob_pyro.data.examples import Example
from blob_pyro.data.prompts import PromptTemplate
from blob_pyro.data.sources import Row
from blob_pyro.data.tasks import examples_for, find_task
from blob_pyro.data.wording import quoted
from blob_pyro.errors import ConfigError, DataError
from blob_pyro.item_kinds import TextItems
from blob_pyro.report.completions import completion_scores


def score_completions(
    run_dir: str | Path, config: RunConfig, rows: Sequence[Row], file: str, *, progress: bool, say: Say
) -> list[Fields]:
    """The rows of a file, each with how probable its completion is (see `completion_scores`).

    Args:
        run_dir: a directory that `fit_run` wrote, of a run that learns tokens.
        config: its configuration.
        rows: what the file holds: the fields of the prompt and of the completion.
        file: its name, for messages.
        progress: show a progress bar.
        say: receives lines for the user.

    Raises:
        RunDirectoryError: the directory is not a whole run.
        DataError: there is no completion to score, or a row lacks a field.
    """
    examples = _examples(run_dir, config.data, rows, file)
    run = load_run(run_dir, ())
    items = encode_items(examples, run.model, config.data, file)
    predictions = TextItems().predict(run, items, config, num_draws(run.guide, config), progress)
    return with_fields(rows, completion_scores(predictions), say)


def refuse_tokens(run_dir: str | Path, config: RunConfig, what: str) -> None:
    """Raise where a run learns tokens and classes are needed.

    Args:
        run_dir: the run.
        config: its configuration.
        what: what needs them, for the message.

    Raises:
        ConfigError: it does.
    """
    if learns_tokens(config):
        raise ConfigError(f"{what}: expected a run that tells classes apart; got {run_dir}, which learns texts "
                          "token by token (causal_lm)")  # fmt: skip


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
