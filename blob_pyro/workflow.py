"""A whole run, once through: data -> model -> guide -> SVI -> predictive -> metrics -> run directory.

A run directory holds `config.yaml`, `history.jsonl`, `metrics.json`, `predictions.parquet`,
`reliability.png` and what `blob_pyro.checkpoint` writes (adapter, posterior).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import yaml

from blob_pyro.checkpoint import Run, load, save
from blob_pyro.config import DataConfig, GuideConfig, ModelConfig, PredictConfig, RunConfig, TrainConfig
from blob_pyro.data.collate import EncodedDataset, encode, label_token_ids, padding_id, predict_loader, train_loader
from blob_pyro.data.examples import Example
from blob_pyro.data.prompts import PromptTemplate
from blob_pyro.data.sources import read_jsonl
from blob_pyro.data.tasks import TASKS, examples_from_rows, load_task
from blob_pyro.errors import BlobPyroError, DataError, RunDirectoryError
from blob_pyro.evaluation import Metrics, evaluate, mutual_information, predictive_entropy
from blob_pyro.guides import GUIDES, AdapterGuide, BLoBGuide
from blob_pyro.inference.svi import StepResult
from blob_pyro.inference.trainer import fit
from blob_pyro.likelihoods import Likelihood, MultipleChoice, SequenceClassification
from blob_pyro.loading import load_tokenizer
from blob_pyro.model import BayesianLoRA
from blob_pyro.predictions import Predictions
from blob_pyro.predictive import PosteriorPredictive

CONFIG, HISTORY, METRICS = "config.yaml", "history.jsonl", "metrics.json"
PREDICTIONS, RELIABILITY = "predictions.parquet", "reliability.png"

Say = Callable[[str], None]


@dataclass(frozen=True)
class RunResult:
    """What a finished run found.

    Attributes:
        path: the run directory.
        metrics: "N=0" (posterior mean) and "N=<draws>" -> metrics on the test items; empty without any.
        predictions: the same keys -> predictions in the order of the test items.
    """

    path: Path
    metrics: dict[str, Metrics]
    predictions: dict[str, Predictions]


def fit_run(config: RunConfig, *, progress: bool = True, say: Say = print) -> RunResult:
    """Fine-tune, predict the test items, and write the run directory.

    When training stops early (NaN loss, Ctrl-C) the last good state is saved before the error goes on.

    Args:
        config: the run.
        progress: show progress bars.
        say: receives lines for the user.

    Raises:
        BlobPyroError: one of its kinds, with a one-line message, for whatever the user can mend.
    """
    data = load_task(config.data, config.seed)
    for note in data.notes:
        say(note)
    path = new_run_directory(config)
    pyro.set_rng_seed(config.seed)
    model = build_model(config.model, data.labels, num_data=len(data.train))
    limit = max_length(model, config.data)
    train, test = (encode(examples, model.tokenizer, limit) for examples in (data.train, data.test))
    guide = build_guide(model, config.guide)
    _write_yaml(path / CONFIG, dataclasses.asdict(config))
    _train(model, guide, train, config, path, progress)
    say(f"saved adapter and posterior in {path}")
    return _evaluate(Run(path, model, guide), test, config.predict, data.labels, progress)


def evaluate_run(run_dir: str | Path, *, num_samples: int | None = None, progress: bool = True) -> RunResult:
    """Predict a saved run's test items again, and rewrite its metrics and predictions.

    Args:
        run_dir: a directory that `fit_run` wrote.
        num_samples: posterior draws; None takes the run's own number.
        progress: show progress bars.

    Raises:
        RunDirectoryError: the directory is not a whole run.
        DataError: the run has no test items.
    """
    config = read_config(run_dir)
    data = load_task(config.data, config.seed)
    if not data.test:
        raise DataError(f"{run_dir}: expected a run with test items; it has none; use `blob-pyro predict` on a file")
    run = load(run_dir)
    pyro.set_rng_seed(config.seed)
    test = encode(data.test, run.model.tokenizer, max_length(run.model, config.data))
    return _evaluate(run, test, _with_samples(config.predict, num_samples), data.labels, progress)


def predict_run(
    run_dir: str | Path, file: str | Path, *, num_samples: int | None = None, progress: bool = True
) -> list[dict[str, Any]]:
    """Answer the items of a JSON-lines file with a saved run.

    Args:
        run_dir: a directory that `fit_run` wrote.
        file: JSON lines with the fields of the run's prompt; labels are not needed.
        num_samples: posterior draws; None takes the run's own number.
        progress: show a progress bar.

    Returns:
        The rows in file order, each with "prediction", "probabilities" (label -> probability), "entropy"
        and "mutual_information" (nats) added.

    Raises:
        RunDirectoryError: the directory is not a whole run.
        DataError: the file cannot be read, or a row lacks a field of the prompt.
    """
    config = read_config(run_dir)
    template, labels, label_field = prompt_of(config.data)
    rows = read_jsonl(file)
    examples = examples_from_rows(rows, template, labels, label_field, require_label=False, source=str(file))
    run = load(run_dir)
    pyro.set_rng_seed(config.seed)
    items = encode(examples, run.model.tokenizer, max_length(run.model, config.data))
    predict = _with_samples(config.predict, num_samples)
    predictions = _predict(run, items, predict, _num_samples(run.guide, predict), progress)
    return [row.fields | answer for row, answer in zip(rows, _answers(predictions, labels), strict=True)]


def build_likelihood(config: ModelConfig, labels: Sequence[str]) -> Likelihood:
    """The likelihood that `config` names, for these labels."""
    if config.likelihood == "sequence_classification":
        return SequenceClassification(len(labels))
    return MultipleChoice(label_token_ids(load_tokenizer(config.id), labels))


def build_model(config: ModelConfig, labels: Sequence[str], num_data: int) -> BayesianLoRA:
    """The pretrained network with a fresh adapter, as a Pyro model."""
    model = BayesianLoRA.from_pretrained(
        config.id,
        build_likelihood(config, labels),
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=config.target_modules,
        prior_scale=config.prior_scale,
        num_data=num_data,
        quantization=config.quantization,
        llm_int8_threshold=config.llm_int8_threshold,
        dtype=config.dtype,
        attn_implementation=config.attn_implementation,
    )
    if config.gradient_checkpointing:
        model.network.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
    return model


def build_guide(model: BayesianLoRA, config: GuideConfig) -> AdapterGuide:
    """The guide that `config` names."""
    return BLoBGuide(model, eps=config.eps) if config.name == "blob" else GUIDES[config.name](model)


def max_length(model: BayesianLoRA, config: DataConfig) -> int:
    """The longest prompt in tokens: the configured one, within the model's context."""
    context = getattr(model.network.config, "max_position_embeddings", None)
    return config.max_length if context is None else min(config.max_length, context)


def prompt_of(config: DataConfig) -> tuple[PromptTemplate, tuple[str, ...], str]:
    """Prompt template, labels and label field of a configuration, without reading any item."""
    if config.task is not None:
        task = TASKS[config.task]
        return task.template, task.labels, "label"
    return PromptTemplate(config.prompt or "", config.truncate_field), tuple(config.labels or ()), config.label_field


def new_run_directory(config: RunConfig) -> Path:
    """Make the run directory.

    Raises:
        RunDirectoryError: it holds a run already; nothing is ever overwritten.
    """
    path = Path(config.output)
    if (path / CONFIG).exists():
        raise RunDirectoryError(f"{path}: expected a new run directory; it holds a run; choose another --output")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunDirectoryError(f"{path}: expected a directory to write to; {error.strerror or error}") from error
    return path


def read_config(run_dir: str | Path) -> RunConfig:
    """The configuration that a run was made with.

    Raises:
        RunDirectoryError: there is none, or it is not one of this version.
    """
    file = Path(run_dir) / CONFIG
    if not file.is_file():
        raise RunDirectoryError(f"{run_dir}: expected a run directory with {CONFIG}; it is not there; check the path")
    parts = {"data": DataConfig, "model": ModelConfig, "guide": GuideConfig, "train": TrainConfig}
    parts["predict"] = PredictConfig
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
        built = {name: kind(**raw.pop(name)) for name, kind in parts.items()}
        return RunConfig(**built, **raw)
    except (yaml.YAMLError, BlobPyroError, TypeError, KeyError, AttributeError, UnicodeDecodeError) as error:
        why = " ".join(str(error).split())
        raise RunDirectoryError(f"{file}: expected the configuration of a run; it cannot be read: {why}") from error


def _train(
    model: BayesianLoRA, guide: AdapterGuide, train: EncodedDataset, config: RunConfig, path: Path, progress: bool
) -> None:
    """Train and save; what was learnt is saved also when training stops early."""
    loader = train_loader(train, config.train.batch_size, padding_id(model.tokenizer), config.seed)
    with (path / HISTORY).open("w", encoding="utf-8") as history:

        def record(result: StepResult) -> None:
            history.write(json.dumps(dataclasses.asdict(result)) + "\n")
            history.flush()

        try:
            fit(
                model, guide, loader, config.train,
                progress=progress, callbacks=[record], description=config.guide.name,
            )  # fmt: skip
        finally:
            save(path, model, guide)


def _evaluate(
    run: Run, test: EncodedDataset, config: PredictConfig, labels: Sequence[str], progress: bool
) -> RunResult:
    """Predict with the posterior mean and with draws; write metrics, predictions and diagram."""
    if not len(test):
        return RunResult(run.path, {}, {})
    counts = sorted({0, _num_samples(run.guide, config)})
    predictions = {f"N={count}": _predict(run, test, config, count, progress) for count in counts}
    metrics = {name: evaluate(found) for name, found in predictions.items()}
    last = predictions[f"N={counts[-1]}"]
    _write_json(run.path / METRICS, {name: found.to_dict() for name, found in metrics.items()})
    _write_predictions(run.path / PREDICTIONS, last, test.examples, labels)
    _write_diagram(run.path / RELIABILITY, last)
    return RunResult(run.path, metrics, predictions)


def _num_samples(guide: AdapterGuide, config: PredictConfig) -> int:
    """Draws worth making: none from a point."""
    return config.num_samples if guide.is_random else 0


def _predict(run: Run, items: EncodedDataset, config: PredictConfig, num_samples: int, progress: bool) -> Predictions:
    loader = predict_loader(items, config.batch_size, padding_id(run.model.tokenizer))
    predictive = PosteriorPredictive(run.model, run.guide, num_samples)
    return predictive(loader, progress=progress, description=f"predict N={num_samples}")


def _with_samples(config: PredictConfig, num_samples: int | None) -> PredictConfig:
    return config if num_samples is None else dataclasses.replace(config, num_samples=num_samples)


def _answers(predictions: Predictions, labels: Sequence[str]) -> list[dict[str, Any]]:
    """One JSON-ready answer an item."""
    names = [label.strip() for label in labels]
    entropy = predictive_entropy(predictions.probs).tolist()
    information = mutual_information(predictions.draws).tolist()
    columns = zip(predictions.probs.tolist(), entropy, information, strict=True)
    return [
        {
            "prediction": names[max(range(len(names)), key=probs.__getitem__)],
            "probabilities": dict(zip(names, probs, strict=True)),
            "entropy": item_entropy,
            "mutual_information": item_information,
        }
        for probs, item_entropy, item_information in columns
    ]


def _write_predictions(
    path: Path, predictions: Predictions, examples: Sequence[Example], labels: Sequence[str]
) -> None:
    from datasets import Dataset, disable_progress_bars

    names = [label.strip() for label in labels]
    draws = predictions.draws.transpose(0, 1).tolist()
    rows = [
        {
            "id": example.id,
            "prompt": example.prompt,
            "label": None if example.label is None else names[example.label],
            **answer,
            "draws": item_draws,
        }
        for example, answer, item_draws in zip(examples, _answers(predictions, labels), draws, strict=True)
    ]
    disable_progress_bars()
    Dataset.from_list(rows).to_parquet(str(path))


def _write_diagram(path: Path, predictions: Predictions) -> None:
    from blob_pyro.report.plots import reliability_diagram, save_figure

    save_figure(reliability_diagram(predictions), path)


def _write_yaml(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True), encoding="utf-8")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
