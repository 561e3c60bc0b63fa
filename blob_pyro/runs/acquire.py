"""Active learning with a saved run: which items of a file to have labelled next."""

from __future__ import annotations

from pathlib import Path

from blob_pyro.data.tasks.load import examples_for
from blob_pyro.data.tasks.own_rows import read_items
from blob_pyro.evaluation import acquire
from blob_pyro.evaluation.acquisition import check_k
from blob_pyro.evaluation.scores import check_score
from blob_pyro.runs.answerer import Answerer, Fields, check_draws, load_run, with_samples
from blob_pyro.runs.build import encode_items, labels_of
from blob_pyro.runs.checks import refuse_tokens
from blob_pyro.runs.predict import with_fields
from blob_pyro.storage.directory import pinned, read_config
from blob_pyro.system.printing import tell_line
from blob_pyro.system.terminal import Console, Say


def acquire_run(
    run_dir: str | Path,
    file: str | Path,
    k: int,
    *,
    score: str = "bald",
    num_samples: int | None = None,
    base: str | Path | None = None,
    progress: bool = True,
    say: Say = tell_line,
) -> list[Fields]:
    """Choose the k items of a file whose labels a saved run would learn most from.

    Args:
        run_dir: a directory that `fit_run` wrote.
        file: .jsonl, .csv, .tsv (also .gz) or .parquet, with the fields of the run's prompt; labels are not needed.
        k: how many to choose.
        score: the uncertainty to choose by, one of `SCORES`.
        num_samples: posterior draws; None takes the run's own number.
        base: the folder, hub id or alias that the base is loaded from, where it has moved.
        progress: show a progress bar.
        say: receives lines for the user.

    Returns:
        The chosen rows, the most uncertain first, each with "line" (its line in the file) and "score" added.

    Raises:
        RunDirectoryError: the directory is not a whole run.
        ConfigError: there are not k rows, there is no such score, draws that "bald" needs are missing or agree, or the
            run learns tokens: a row without its completion has none whose uncertainty could be told.
        DataError: the file cannot be read, or a row lacks a field of the prompt.
    """
    check_score(score)
    config = with_samples(pinned(read_config(run_dir), run_dir), num_samples)
    refuse_tokens(run_dir, config, "acquire")
    check_draws(score, config)
    console = Console(progress, say)
    found_rows = read_items(config.data, str(file), with_labels=False)
    rows = found_rows.rows
    if found_rows.left_out:
        console.log(f"note: {found_rows.left_out}")
    check_k(k, len(rows))
    examples = examples_for(config.data, rows, with_labels=False, source=str(file))
    run = load_run(run_dir, labels_of(config.data), base=base)
    answerer = Answerer(run, config, console)
    found = acquire(answerer(encode_items(examples, run.model, config.data, str(file))), k, score)
    scores = found.scores.tolist()
    console.log(f"{k} of {len(rows)} items chosen by {score}, from {scores[0]:.4g} down to {scores[-1]:.4g}")
    chosen = [rows[i] for i in found.index.tolist()]
    added = [{"line": row.line, "score": value} for row, value in zip(chosen, scores, strict=True)]
    return with_fields(chosen, added, console)
