"""What a run's items end in, and so how they are predicted, scored and written: classes, or the tokens of texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyro

from blob_pyro.answering import predict_items
from blob_pyro.building import learns_tokens
from blob_pyro.checkpoint import Run
from blob_pyro.config import RunConfig
from blob_pyro.data.collate import EncodedDataset, padding_id
from blob_pyro.data.examples import Example
from blob_pyro.data.loaders import predict_loader
from blob_pyro.errors import RunDirectoryError
from blob_pyro.evaluation import Metrics, TokenMetrics, evaluate, evaluate_tokens
from blob_pyro.predictions import Predictions
from blob_pyro.report.answers import write_predictions
from blob_pyro.report.completions import write_completions
from blob_pyro.run_directory import METRICS, PREDICTIONS, RELIABILITY
from blob_pyro.token_predictive import TokenPredictions, TokenPredictive
from blob_pyro.tuning import label_nlls

P = TypeVar("P")
M = TypeVar("M")
S = TypeVar("S")


class ItemKind(ABC, Generic[P, M]):
    """Abstract. How items of one kind are predicted (P), scored (M) and written."""

    @abstractmethod
    def predict(self, run: Run, items: EncodedDataset, config: RunConfig, num_samples: int, progress: bool) -> P:
        """Predictions under the draws that the run's seed gives, whatever was drawn before; 0 takes the mean."""

    @abstractmethod
    def evaluate(self, predictions: P) -> M:
        """Their scores."""

    @abstractmethod
    def read_scores(self, found: Mapping[str, Any]) -> M:
        """Scores that a run directory holds."""

    @abstractmethod
    def nlls(self, predictions: P) -> tuple[float, ...]:
        """-log p of each item, nats, p averaged over the draws."""

    @abstractmethod
    def write(self, path: Path, predictions: P, examples: Sequence[Example], labels: Sequence[str]) -> None:
        """Predictions, and what is drawn of them, into a run directory."""


class ClassItems(ItemKind[Predictions, Metrics]):
    """Items of classes: the probability of each."""

    def predict(
        self, run: Run, items: EncodedDataset, config: RunConfig, num_samples: int, progress: bool
    ) -> Predictions:
        return predict_items(run, items, config, num_samples, progress)

    def evaluate(self, predictions: Predictions) -> Metrics:
        return evaluate(predictions)

    def read_scores(self, found: Mapping[str, Any]) -> Metrics:
        return _scores(lambda: Metrics(**found), found)

    def nlls(self, predictions: Predictions) -> tuple[float, ...]:
        return label_nlls(predictions)

    def write(self, path: Path, predictions: Predictions, examples: Sequence[Example], labels: Sequence[str]) -> None:
        from blob_pyro.report.plots import reliability_diagram, save_figure

        write_predictions(path / PREDICTIONS, predictions, examples, labels)
        save_figure(reliability_diagram(predictions), path / RELIABILITY)


class TextItems(ItemKind[TokenPredictions, TokenMetrics]):
    """Texts: the probability of each predicted token."""

    def predict(
        self, run: Run, items: EncodedDataset, config: RunConfig, num_samples: int, progress: bool
    ) -> TokenPredictions:
        loader = predict_loader(items, config.predict.batch_size, padding_id(run.model.tokenizer))
        pyro.set_rng_seed(config.seed)
        predictive = TokenPredictive(run.model, run.guide, num_samples, max_tokens=config.predict.max_tokens)
        return predictive(loader, progress=progress, description=f"predict N={num_samples}")

    def evaluate(self, predictions: TokenPredictions) -> TokenMetrics:
        return evaluate_tokens(predictions)

    def read_scores(self, found: Mapping[str, Any]) -> TokenMetrics:
        return _scores(lambda: TokenMetrics(**found), found)

    def nlls(self, predictions: TokenPredictions) -> tuple[float, ...]:
        return tuple((-predictions.text_log_probs()).tolist())

    def write(
        self, path: Path, predictions: TokenPredictions, examples: Sequence[Example], labels: Sequence[str]
    ) -> None:
        write_completions(path / PREDICTIONS, predictions, examples)


def kind_of(config: RunConfig) -> ItemKind[Any, Any]:
    """What the items of a run end in."""
    return TextItems() if learns_tokens(config) else ClassItems()


def _scores(make: Callable[[], S], found: Any) -> S:
    """Scores that are made of what a file holds.

    Raises:
        RunDirectoryError: it holds something else.
    """
    try:
        if not all(isinstance(value, int | float) for value in found.values()):
            raise TypeError("expected numbers")
        return make()
    except (TypeError, AttributeError) as error:
        raise RunDirectoryError(
            f"{METRICS}: expected the scores of a run; it was altered ({error}): `blob-pyro evaluate` makes it anew"
        ) from error
