"""A whole run, once through: data -> model -> guide -> SVI -> predictive -> metrics -> run directory.

A run directory holds `config.yaml`, `history.jsonl`, `metrics.json`, `predictions.parquet`,
`reliability.png` and what `blob_pyro.checkpoint` writes (adapter, posterior).
"""

from __future__ import annotations

import dataclasses
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import yaml

from blob_pyro.checkpoint import ADAPTER, DESCRIPTION, TENSORS, Run, load, save
from blob_pyro.config import DataConfig, GuideConfig, ModelConfig, RunConfig
from blob_pyro.config_file import KEYS, check_file
from blob_pyro.data.collate import EncodedDataset, encode, label_token_ids, padding_id
from blob_pyro.data.examples import Example
from blob_pyro.data.loaders import predict_loader, train_loader
from blob_pyro.data.prompts import PromptTemplate
from blob_pyro.data.sources import Row, read_jsonl
from blob_pyro.data.tasks import TASKS, examples_from_rows, load_task
from blob_pyro.errors import BlobPyroError, ConfigError, DataError, NonFiniteLossError, RunDirectoryError
from blob_pyro.evaluation import Metrics, evaluate
from blob_pyro.guides import GUIDES, AdapterGuide, BLoBGuide
from blob_pyro.inference.svi import StepResult
from blob_pyro.inference.trainer import fit
from blob_pyro.likelihoods import Likelihood, MultipleChoice, SequenceClassification
from blob_pyro.loading import load_tokenizer
from blob_pyro.model import BayesianLoRA
from blob_pyro.predictions import Predictions
from blob_pyro.predictive import PosteriorPredictive
from blob_pyro.report.answers import answers_of, write_predictions

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

    Nothing is written before training starts. When training stops early (NaN loss, Ctrl-C) the last good
    state is saved before the error goes on; its message says where.

    Args:
        config: the run.
        progress: show progress bars.
        say: receives lines for the user.

    Raises:
        BlobPyroError: one of its kinds, with a one-line message, for whatever the user can mend.
    """
    refuse_used_directory(config.output)
    data = load_task(config.data, config.seed)
    for note in data.notes:
        say(note)
    pyro.set_rng_seed(config.seed)
    model = build_model(config.model, data.labels, num_data=len(data.train))
    train = _encode(data.train, model, config.data, config.data.train_file)
    test = _encode(data.test, model, config.data, config.data.test_file)
    guide = build_guide(model, config.guide)
    path = new_run_directory(config)
    _train(model, guide, train, config, path, progress)
    say(f"saved adapter and posterior in {path}")
    try:
        return _evaluate(Run(path, model, guide), test, config, data.labels, progress)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"{path} holds the adapter and posterior, but no metrics yet") from None


def evaluate_run(run_dir: str | Path, *, num_samples: int | None = None, progress: bool = True) -> RunResult:
    """Predict a saved run's test items again, and rewrite its metrics and predictions.

    The draws are those of `fit_run` (same seed): with the run's own number of them so are the metrics.

    Args:
        run_dir: a directory that `fit_run` wrote.
        num_samples: posterior draws; None takes the run's own number.
        progress: show progress bars.

    Raises:
        RunDirectoryError: the directory is not a whole run.
        DataError: the run has no test items.
    """
    config = _with_samples(read_config(run_dir), num_samples)
    data = load_task(config.data, config.seed)
    if not data.test:
        raise DataError(f"{run_dir}: expected a run with test items; it has none; use `blob-pyro predict` on a file")
    run = load_run(run_dir, data.labels)
    test = _encode(data.test, run.model, config.data, config.data.test_file)
    return _evaluate(run, test, config, data.labels, progress)


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
    config = _with_samples(read_config(run_dir), num_samples)
    template, labels, label_field = prompt_of(config.data)
    rows = read_jsonl(file)
    unlabelled = [_without(row, label_field) for row in rows]  # whatever stands there: it is not used
    examples = examples_from_rows(unlabelled, template, labels, label_field, require_label=False, source=str(file))
    run = load_run(run_dir, labels)
    items = _encode(examples, run.model, config.data, str(file))
    predictions = _predict(run, items, config, _num_samples(run.guide, config), progress)
    return [row.fields | answer for row, answer in zip(rows, answers_of(predictions, labels), strict=True)]


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
        if config.task not in TASKS:
            raise ConfigError(f"data.task: expected one of {', '.join(TASKS)}; got {config.task!r}")
        task = TASKS[config.task]
        return task.template, task.labels, "label"
    return PromptTemplate(config.prompt or "", config.truncate_field), tuple(config.labels or ()), config.label_field


def refuse_used_directory(path: str | Path) -> None:
    """Check that a run can be written to `path`, without touching it.

    Raises:
        RunDirectoryError: it holds (parts of) a run, for nothing is ever overwritten; or it is a file.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise RunDirectoryError(f"{path}: expected a directory to write to; got a file; choose another --output")
    for name in (CONFIG, HISTORY, METRICS, PREDICTIONS, RELIABILITY, ADAPTER, TENSORS, DESCRIPTION):
        if (path / name).exists():
            raise RunDirectoryError(
                f"{path}: expected a new run directory; it holds a run ({name}); choose another --output, or delete it"
            )


def new_run_directory(config: RunConfig) -> Path:
    """Make the run directory, with the configuration in it.

    Raises:
        RunDirectoryError: it holds a run already, or cannot be written.
    """
    path = Path(config.output)
    refuse_used_directory(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        _write_yaml(path / CONFIG, dataclasses.asdict(config))
    except OSError as error:
        raise RunDirectoryError(f"{path}: expected a directory to write to; {error.strerror or error}") from error
    return path


def load_run(run_dir: str | Path, labels: Sequence[str]) -> Run:
    """`load`, and a check that the posterior was learnt for these labels.

    Raises:
        RunDirectoryError: the directory is not a whole run, or its labels were altered.
    """
    run = load(run_dir)
    likelihood = run.model.likelihood
    same = likelihood.num_classes == len(labels)
    if same and isinstance(likelihood, MultipleChoice):
        same = tuple(label_token_ids(run.model.tokenizer, labels)) == likelihood.token_ids
    if not same:
        raise RunDirectoryError(
            f"{run_dir}: expected the labels that the posterior was learnt for; got {list(labels)}; "
            f"{CONFIG} and {DESCRIPTION} come from different runs, or one was altered"
        )
    return run


def read_config(run_dir: str | Path) -> RunConfig:
    """The configuration that a run was made with.

    Raises:
        RunDirectoryError: there is none, or it is not one of this version.
    """
    file = Path(run_dir) / CONFIG
    if not file.is_file():
        raise RunDirectoryError(f"{run_dir}: expected a run directory with {CONFIG}; it is not there; check the path")
    try:
        raw = check_file(file)
        return RunConfig(**{name: _build(KEYS[name], value) for name, value in raw.items()})
    except (BlobPyroError, TypeError) as error:
        why = " ".join(str(error).split())
        raise RunDirectoryError(f"{file}: expected the configuration of a run; it cannot be used: {why}") from error


def _build(kind: Any, value: Any) -> Any:
    """A section's dataclass from its mapping; any other value as it is."""
    return kind(**value) if isinstance(value, dict) else value


def _encode(examples: Sequence[Example], model: BayesianLoRA, config: DataConfig, source: str | None) -> EncodedDataset:
    """`encode` within the configured length; errors and warnings name the file."""
    name = source or config.task
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        try:
            encoded = encode(examples, model.tokenizer, max_length(model, config))
        except DataError as error:
            raise DataError(f"{name}: {error}") from error
    for note in notes:
        warnings.warn(f"{name}: {note.message}", note.category, stacklevel=2)
    return encoded


def _train(
    model: BayesianLoRA, guide: AdapterGuide, train: EncodedDataset, config: RunConfig, path: Path, progress: bool
) -> None:
    """Train and save; what was learnt is saved also when training stops early."""
    loader = train_loader(
        train,
        config.train.batch_size,
        padding_id(model.tokenizer),
        config.seed,
        group_by_length=config.train.group_by_length,
    )
    steps = 0
    with (path / HISTORY).open("w", encoding="utf-8") as history:

        def record(result: StepResult) -> None:
            history.write(json.dumps(dataclasses.asdict(result)) + "\n")
            history.flush()
            nonlocal steps
            steps = result.step

        try:
            fit(
                model, guide, loader, config.train,
                progress=progress, callbacks=[record], description=config.guide.name,
            )  # fmt: skip
        except NonFiniteLossError as error:
            raise NonFiniteLossError(_where_it_failed(error, train, steps, path), error.items) from error
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"{path} holds the adapter and posterior after step {steps}") from None
        finally:
            save(path, model, guide)


def _where_it_failed(error: NonFiniteLossError, train: EncodedDataset, steps: int, path: Path) -> str:
    """The message of a loss that is not finite, with the items' names and what was saved."""
    names = ", ".join(train.examples[i].id for i in error.items)
    saved = f"the parameters before step {steps}, whose loss was finite" if steps else "the untrained parameters"
    return f"{error} ({names} of the training data); {path} holds {saved}"


def _evaluate(run: Run, test: EncodedDataset, config: RunConfig, labels: Sequence[str], progress: bool) -> RunResult:
    """Predict with the posterior mean and with draws; write metrics, predictions and diagram."""
    if not len(test):
        return RunResult(run.path, {}, {})
    counts = sorted({0, _num_samples(run.guide, config)})
    predictions = {f"N={count}": _predict(run, test, config, count, progress) for count in counts}
    metrics = {name: evaluate(found) for name, found in predictions.items()}
    last = predictions[f"N={counts[-1]}"]
    _write_json(run.path / METRICS, {name: found.to_dict() for name, found in metrics.items()})
    write_predictions(run.path / PREDICTIONS, last, test.examples, labels)
    _write_diagram(run.path / RELIABILITY, last)
    return RunResult(run.path, metrics, predictions)


def _num_samples(guide: AdapterGuide, config: RunConfig) -> int:
    """Draws worth making: none from a point."""
    return config.predict.num_samples if guide.is_random else 0


def _predict(run: Run, items: EncodedDataset, config: RunConfig, num_samples: int, progress: bool) -> Predictions:
    """Answers under the draws that the run's seed gives, whatever was drawn before."""
    loader = predict_loader(items, config.predict.batch_size, padding_id(run.model.tokenizer))
    pyro.set_rng_seed(config.seed)
    predictive = PosteriorPredictive(run.model, run.guide, num_samples, max_tokens=config.predict.max_tokens)
    return predictive(loader, progress=progress, description=f"predict N={num_samples}")


def _with_samples(config: RunConfig, num_samples: int | None) -> RunConfig:
    if num_samples is None:
        return config
    return dataclasses.replace(config, predict=dataclasses.replace(config.predict, num_samples=num_samples))


def _without(row: Row, field: str) -> Row:
    return dataclasses.replace(row, fields={name: value for name, value in row.fields.items() if name != field})


def _write_diagram(path: Path, predictions: Predictions) -> None:
    from blob_pyro.report.plots import reliability_diagram, save_figure

    save_figure(reliability_diagram(predictions), path)


def _write_yaml(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True), encoding="utf-8")


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
