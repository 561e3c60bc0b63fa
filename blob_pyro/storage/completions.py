"""Scored completions as rows that people and programs read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blob_pyro.data.examples import Example
from blob_pyro.errors import RunDirectoryError
from blob_pyro.evaluation.predictions import TokenPredictions
from blob_pyro.storage.answers import write_rows
from blob_pyro.system.hub_errors import one_line


def completion_scores(predictions: TokenPredictions) -> list[dict[str, Any]]:
    """One JSON-ready row a text: how probable it is, and how sure the draws are of its tokens.

    "log_prob" is the logarithm of the whole text's probability averaged over the draws, in nats, "num_tokens" how many
    tokens that is of, and "perplexity" exp(-log_prob / num_tokens). "entropy" and "mutual_information" (of next token
    and weights) are means over the text's tokens, in nats. A text of which nothing is predicted has 0 tokens, a
    log-probability of 0 and null for the rest.

    Example:
        >>> log_probs = torch.tensor([[0.5, 0.25], [0.25, 0.5]]).log()  # two draws, one text of two tokens
        >>> two = TokenPredictions(log_probs, torch.ones(2), torch.zeros(2), items=torch.tensor([0, 0]), num_items=1)
        >>> {name: round(value, 4) for name, value in completion_scores(two)[0].items()}
        {'log_prob': -2.0794, 'num_tokens': 2, 'perplexity': 2.8284, 'entropy': 1.0, 'mutual_information': 0.0}
    """
    counts = torch.bincount(predictions.items, minlength=predictions.num_items)
    columns = zip(
        predictions.text_log_probs().tolist(),
        counts.tolist(),
        _sums(predictions, predictions.entropy).tolist(),
        _sums(predictions, predictions.mutual_information).tolist(),
        strict=True,
    )
    return [
        {
            "log_prob": log_prob,
            "num_tokens": count,
            "perplexity": math.exp(-log_prob / count) if count else None,
            "entropy": entropy / count if count else None,
            "mutual_information": information / count if count else None,
        }
        for log_prob, count, entropy, information in columns
    ]


def write_completions(path: Path, predictions: TokenPredictions, examples: Sequence[Example]) -> None:
    """Write scores with prompts, completions and each draw's log-probability as a Parquet file, one row a text."""
    draws = predictions.sequence_log_probs().T.tolist()
    write_rows(
        path,
        [
            {"id": example.id, "prompt": example.prompt, "completion": example.completion, **scores, "draws": item}
            for example, scores, item in zip(examples, completion_scores(predictions), draws, strict=True)
        ],
    )


@dataclass(frozen=True)
class SavedTexts:
    """What a file of `write_completions` holds.

    Attributes:
        ids: (n,) names of the items.
        prompts: (n,) their prompts.
        completions: (n,) the texts that were scored.
        scores: (n,) what `completion_scores` gave of each.
    """

    ids: tuple[str, ...]
    prompts: tuple[str, ...]
    completions: tuple[str, ...]
    scores: tuple[Mapping[str, Any], ...]

    def __len__(self) -> int:
        """Number of texts n."""
        return len(self.ids)


def read_completions(path: Path) -> SavedTexts:
    """Texts and scores in a file of `write_completions`.

    Raises:
        RunDirectoryError: there is no such file, or it cannot be read.
    """
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    scores = ["log_prob", "num_tokens", "perplexity", "entropy", "mutual_information"]
    try:
        if not path.is_file():  # a pipe would wait for a writer
            raise FileNotFoundError("it is not there: `blob-pyro evaluate` writes it")
        table = pq.ParquetFile(path).read(columns=["id", "prompt", "completion", *scores], use_threads=False)
        rows = table.to_pylist()
        for row in rows:
            if not all(row[name] is None or isinstance(row[name], int | float) for name in scores):
                raise ValueError("expected numbers for scores")
            if row["log_prob"] is None or row["num_tokens"] is None:
                raise ValueError("a text has no score")
    except (OSError, LookupError, TypeError, ValueError) as error:  # pyarrow's own errors are kinds of these
        raise RunDirectoryError(f"{path}: expected scored texts of a run; {one_line(error)}") from error
    ids, prompts, completions = (tuple(str(row[name]) for row in rows) for name in ("id", "prompt", "completion"))
    return SavedTexts(ids, prompts, completions, tuple({name: row[name] for name in scores} for row in rows))


def _sums(predictions: TokenPredictions, values: Tensor) -> Tensor:
    """(n,) sums over each text's tokens."""
    return values.new_zeros(predictions.num_items, dtype=torch.float64).index_add(0, predictions.items, values.double())
