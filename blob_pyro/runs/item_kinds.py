"""What a run's items end in, and so how they are predicted, scored and written: classes, or the tokens of texts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import pyro

from blob_pyro.config.sections import RunConfig
from blob_pyro.data.batches.collate import EncodedDataset, padding_id
from blob_pyro.data.batches.loaders import predict_loader
from blob_pyro.data.examples import Example
from blob_pyro.evaluation import Metrics, TokenMetrics, evaluate, evaluate_tokens
from blob_pyro.evaluation.predictions import Predictions, TokenPredictions
from blob_pyro.model.layers.sharding import is_sharded
from blob_pyro.prediction.token_predictive import TokenPredictive
from blob_pyro.runs.answerer import draws_logits, predict_items
from blob_pyro.runs.tuning import label_nlls
from blob_pyro.storage.answers import write_predictions
from blob_pyro.storage.completions import write_completions
from blob_pyro.storage.directory import PREDICTIONS, RELIABILITY
from blob_pyro.storage.saving import Run
from blob_pyro.system.processes import Ranks
from blob_pyro.system.terminal import Console

P = TypeVar("P")
M = TypeVar("M")


class ItemKind(ABC, Generic[P, M]):
    """Abstract. How items of one kind are predicted (P), scored (M) and written."""

    def predict(self, run: Run, items: EncodedDataset, config: RunConfig, num_samples: int, console: Console) -> P:
        """Predictions under the draws that the run's seed gives, whatever was drawn before; 0 takes the mean.

        Several processes share the items out, and each gets the predictions of all. Where their forwards wait for one
        another (a sharded base), or what is drawn depends on which items come together, each predicts all.
        """
        ranks = Ranks.here()
        if ranks.num == 1 or is_sharded(run.model.network) or draws_logits(run, config, num_samples):
            return self._predict_here(run, items, config, num_samples, console)
        longest_first = sorted(range(len(items)), key=lambda i: -len(items.items[i].input_ids))
        rows = list(ranks.share(longest_first))
        found = self._predict_here(run, items.select(rows), config, num_samples, console) if rows else None
        return self._joined([(at, part) for at, part in ranks.gather((rows, found)) if part is not None])

    @abstractmethod
    def _predict_here(
        self, run: Run, items: EncodedDataset, config: RunConfig, num_samples: int, console: Console
    ) -> P:
        """`predict` in this process alone."""

    @abstractmethod
    def _joined(self, parts: Sequence[tuple[Sequence[int], P]]) -> P:
        """Predictions of all items from those at some positions each."""

    @abstractmethod
    def evaluate(self, predictions: P) -> M:
        """Their scores."""

    @abstractmethod
    def nlls(self, predictions: P) -> tuple[float, ...]:
        """-log p of each item, nats, p averaged over the draws."""

    @abstractmethod
    def write(self, path: Path, predictions: P, examples: Sequence[Example], labels: Sequence[str]) -> None:
        """Predictions, into a run directory."""

    def draw(self, path: Path, predictions: P) -> None:
        """What is drawn of predictions, into a run directory."""


class ClassItems(ItemKind[Predictions, Metrics]):
    """Items of classes: the probability of each."""

    def _predict_here(
        self, run: Run, items: EncodedDataset, config: RunConfig, num_samples: int, console: Console
    ) -> Predictions:
        return predict_items(run, items, config, num_samples, console)

    def _joined(self, parts: Sequence[tuple[Sequence[int], Predictions]]) -> Predictions:
        return Predictions.joined(parts)

    def evaluate(self, predictions: Predictions) -> Metrics:
        return evaluate(predictions)

    def nlls(self, predictions: Predictions) -> tuple[float, ...]:
        return label_nlls(predictions)

    def write(self, path: Path, predictions: Predictions, examples: Sequence[Example], labels: Sequence[str]) -> None:
        write_predictions(path / PREDICTIONS, predictions, examples, labels)

    def draw(self, path: Path, predictions: Predictions) -> None:
        from blob_pyro.report.plots import reliability_diagram, save_figure

        save_figure(reliability_diagram(predictions), path / RELIABILITY)


class TextItems(ItemKind[TokenPredictions, TokenMetrics]):
    """Texts: the probability of each predicted token."""

    def _predict_here(
        self, run: Run, items: EncodedDataset, config: RunConfig, num_samples: int, console: Console
    ) -> TokenPredictions:
        loader = predict_loader(items, config.predict.batch_size, padding_id(run.model.tokenizer))
        pyro.set_rng_seed(config.seed)
        predictive = TokenPredictive(run.model, run.guide, num_samples, max_tokens=config.predict.max_tokens)
        return predictive(loader, progress=console.progress, description=f"predict N={num_samples}")

    def _joined(self, parts: Sequence[tuple[Sequence[int], TokenPredictions]]) -> TokenPredictions:
        return TokenPredictions.joined(parts)

    def evaluate(self, predictions: TokenPredictions) -> TokenMetrics:
        return evaluate_tokens(predictions)

    def nlls(self, predictions: TokenPredictions) -> tuple[float, ...]:
        return tuple((-predictions.text_log_probs()).tolist())

    def write(
        self, path: Path, predictions: TokenPredictions, examples: Sequence[Example], labels: Sequence[str]
    ) -> None:
        write_completions(path / PREDICTIONS, predictions, examples)


def kind_of(config: RunConfig) -> ItemKind[Any, Any]:
    """What the items of a run end in."""
    return TextItems() if config.learns_tokens else ClassItems()
