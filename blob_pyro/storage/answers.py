"""Predictions as rows that people and programs read: JSON-ready answers, and a Parquet file, which can be read back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from blob_pyro.data.examples import Example
from blob_pyro.errors import RunDirectoryError
from blob_pyro.evaluation import mutual_information, predictive_entropy
from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.system.files import new_file
from blob_pyro.system.hub_errors import one_line
from blob_pyro.system.terminal import no_dataset_bars


def answers_of(predictions: Predictions, labels: Sequence[str]) -> list[dict[str, Any]]:
    """One JSON-ready answer an item: the most probable class, all probabilities, and how sure they are.

    "confidence" is the highest probability, "margin" its distance to the second highest, "entropy" and
    "mutual_information" (of label and weights) are in nats.

    Args:
        predictions: n items.
        labels: answer words in class order; white space around them is left out.

    Example:
        >>> import torch
        >>> probs = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
        >>> answers = answers_of(Predictions(probs, probs[None]), [" bad", " good"])
        >>> answers[1]["prediction"], answers[1]["probabilities"], answers[1]["entropy"]
        ('good', {'bad': 0.0, 'good': 1.0}, 0.0)
    """
    names = [label.strip() for label in labels]
    entropy = predictive_entropy(predictions.probs).tolist()
    information = mutual_information(predictions.draws).tolist()
    highest = predictions.probs.topk(2).values
    margin = (highest[:, 0] - highest[:, 1]).tolist()
    columns = zip(predictions.probs.tolist(), margin, entropy, information, strict=True)
    return [
        {
            "prediction": names[max(range(len(names)), key=probs.__getitem__)],
            "probabilities": dict(zip(names, probs, strict=True)),
            "confidence": max(probs),
            "margin": item_margin,
            "entropy": item_entropy,
            "mutual_information": item_information,
        }
        for probs, item_margin, item_entropy, item_information in columns
    ]


def write_predictions(path: Path, predictions: Predictions, examples: Sequence[Example], labels: Sequence[str]) -> None:
    """Write answers with prompts, labels and the draws' probabilities as a Parquet file, one row an item.

    Where the predictions carry shares of annotators, a column "shares" (label -> share) is there too.
    """
    names = [label.strip() for label in labels]
    draws = predictions.draws.transpose(0, 1).tolist()
    shares = [None] * len(examples) if predictions.shares is None else predictions.shares.tolist()
    rows = [
        {
            "id": example.id,
            "prompt": example.prompt,
            "label": None if example.label is None else names[example.label],
            **({} if item_shares is None else {"shares": dict(zip(names, item_shares, strict=True))}),
            **answer,
            "draws": item_draws,
        }
        for example, item_shares, answer, item_draws in zip(
            examples, shares, answers_of(predictions, labels), draws, strict=True
        )
    ]
    write_rows(path, rows)


def write_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows of the same fields as a Parquet file, whole or not at all."""
    from datasets import Dataset

    with no_dataset_bars(), new_file(path) as partial:
        Dataset.from_list(rows).to_parquet(str(partial))


@dataclass(frozen=True)
class SavedAnswers:
    """What a file of `write_predictions` holds.

    Attributes:
        ids: (n,) names of the items.
        prompts: (n,) their prompts.
        class_names: answer words in class order.
        predictions: under all their draws, with labels and shares.
    """

    ids: tuple[str, ...]
    prompts: tuple[str, ...]
    class_names: tuple[str, ...]
    predictions: Predictions


def read_answers(path: str | Path) -> SavedAnswers:
    """Items and answers in a file of `write_predictions`.

    Raises:
        RunDirectoryError: there is no such file, it cannot be read, or an item has no label.
    """
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    path = Path(path)
    try:
        if not path.is_file():  # a pipe would wait for a writer
            raise FileNotFoundError("it is not there: `blob-pyro evaluate` writes it")
        columns = pq.read_schema(path).names
        if "probabilities" not in columns and "completion" in columns:
            raise ValueError("it holds scores of texts; these have no classes")
        there = [name for name in ("shares",) if name in columns]
        rows = pq.ParquetFile(path).read(
            columns=["id", "prompt", "label", "probabilities", "draws", *there], use_threads=False
        )
        names = [field.name for field in rows.schema.field("probabilities").type]
        labels = torch.tensor([names.index(label) for label in rows["label"].to_pylist()])
        draws = torch.tensor(rows["draws"].to_pylist(), dtype=torch.float32).transpose(0, 1).contiguous()
        shares = [[row[name] for name in names] for row in rows["shares"].to_pylist()] if there else None
        predictions = Predictions(draws.mean(0), draws, labels, None if shares is None else torch.tensor(shares))
        ids, prompts = (tuple(map(str, rows[name].to_pylist())) for name in ("id", "prompt"))
        return SavedAnswers(ids, prompts, tuple(names), predictions)
    except (OSError, LookupError, TypeError, ValueError) as error:  # pyarrow's own errors are kinds of these
        raise RunDirectoryError(f"{path}: expected predictions of a run; {one_line(error)}") from error


def read_predictions(path: str | Path) -> Predictions:
    """The predictions in a file of `write_predictions`, under all their draws, with their labels and shares.

    Raises:
        RunDirectoryError: as `read_answers`.
    """
    return read_answers(path).predictions
