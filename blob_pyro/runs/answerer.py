"""A saved run answers: the same draws for all items, and the run's temperature where it has one."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyro

from blob_pyro.config.device_maps import missing_device
from blob_pyro.config.sections import ModelConfig, RunConfig
from blob_pyro.data.batches.collate import EncodedDataset, padding_id
from blob_pyro.data.batches.loaders import predict_loader
from blob_pyro.errors import ConfigError, RunDirectoryError
from blob_pyro.evaluation import NEED_DRAWS, Temperature, fit_temperature
from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.guides import GUIDES, AdapterGuide, EnsembleGuide, LaplaceGuide
from blob_pyro.model.likelihoods import CausalLM, MultipleChoice, WholeAnswer
from blob_pyro.prediction.linearised import LinearisedPredictive
from blob_pyro.prediction.predictive import PosteriorPredictive
from blob_pyro.runs.build import answers_likelihood, encode_items, load_data, own_device
from blob_pyro.storage.directory import CONFIG, read_config
from blob_pyro.storage.posterior_files import DESCRIPTION
from blob_pyro.storage.saving import Run, load
from blob_pyro.system.launchers import told_to_use_cpu
from blob_pyro.system.terminal import Console

Fields = dict[str, Any]


class Answerer:
    """Answers items with a saved run, as often as wanted.

    Args:
        run: the run's model and guide.
        config: the run's configuration.
        console: is told of a temperature at the end of its range.
    """

    def __init__(self, run: Run, config: RunConfig, console: Console) -> None:
        self.run, self.config, self.console = run, config, console

    def __call__(self, items: EncodedDataset) -> Predictions:
        """Predictions in the order of the items; the draws are the same at every call."""
        predictions = self._at_temperature_1(items)
        return self._temperature(predictions) if self.config.predict.temperature else predictions

    def held_out(self) -> Predictions:
        """Those of the run's own validation items, predicted once."""
        return self._temperature(self._validation) if self.config.predict.temperature else self._validation

    @cached_property
    def _validation(self) -> Predictions:
        config = self.config
        examples = load_data(config).validation
        return self._at_temperature_1(encode_items(examples, self.run.model, config.data, config.data.train_file))

    @cached_property
    def _temperature(self) -> Temperature:
        return found_temperature(self._validation, self._num_draws, self.console)

    @property
    def _num_draws(self) -> int:
        return num_draws(self.run.guide, self.config)

    def _at_temperature_1(self, items: EncodedDataset) -> Predictions:
        return predict_items(self.run, items, self.config, self._num_draws, self.console)


def load_run(
    run_dir: str | Path, labels: Sequence[str], *, base: str | Path | None = None, shard_base: bool = False
) -> Run:
    """`load` to where the run was trained, and a check that the posterior was learnt for these labels.

    Where this machine lacks a device of the run's `model.device_map`, the run is loaded as without one, with a warning.

    Args:
        run_dir: the run.
        labels: answer words in class order; none where it learns tokens.
        base: where its base is, if that has moved.
        shard_base: share the base out over the processes.

    Raises:
        RunDirectoryError: the directory is not a whole run, or its labels or its likelihood were altered.
    """
    run = load(run_dir, base=base, device_map=device_map_of(run_dir), shard_base=shard_base)
    if not labels:
        _check_tokens(run, run_dir)
        return run
    likelihood = run.model.class_likelihood(str(run_dir))
    same = likelihood.num_classes == len(labels)
    if same and isinstance(likelihood, MultipleChoice | WholeAnswer):
        expected = answers_likelihood(run.model.tokenizer, _answer_words(run_dir, labels)).settings()
        same = expected["token_ids"] == likelihood.settings()["token_ids"]
    if not same:
        raise RunDirectoryError(
            f"{run_dir}: expected the labels that the posterior was learnt for; got {list(labels)}; "
            f"{CONFIG} and {DESCRIPTION} come from different runs, or one was altered"
        )
    return run


def _answer_words(run_dir: str | Path, labels: Sequence[str]) -> Sequence[str]:
    """The words that answer for a run's labels."""
    return read_config(run_dir).data.answer_words(labels) if (Path(run_dir) / CONFIG).is_file() else labels


def device_map_of(run_dir: str | Path) -> Any:
    """Where the run's base goes: `model.device_map`, or the device of a run without one; None is the host.

    The latter, with a warning, where this machine lacks a device of the map, too; the CPU where a launcher was told so.
    """
    settings = read_config(run_dir).model if (Path(run_dir) / CONFIG).is_file() else ModelConfig()
    if told_to_use_cpu():
        return own_device(settings)
    missing = missing_device(settings.device_map)
    if missing is None:
        return own_device(settings) if settings.device_map is None else settings.device_map
    told = f"{run_dir}: the run was trained on {missing} (model.device_map), which is not here: loaded as without it"
    warnings.warn(told, stacklevel=3)
    return own_device(settings)


def _check_tokens(run: Run, run_dir: str | Path) -> None:
    if not isinstance(run.model.likelihood, CausalLM):
        raise RunDirectoryError(
            f"{run_dir}: expected a posterior of causal_lm, as {CONFIG} says; got one of "
            f"{type(run.model.likelihood).__name__} in {DESCRIPTION}; the two come from different runs, or one was "
            "altered"
        )


def num_draws(guide: AdapterGuide, config: RunConfig) -> int:
    """Draws worth making: none from a point, each member of an ensemble once."""
    if isinstance(guide, EnsembleGuide) and config.predict.num_samples:
        return guide.num_members
    return config.predict.num_samples if guide.is_random else 0


def draws_logits(run: Run, config: RunConfig, num_samples: int) -> bool:
    """Whether the answers are draws of a linearised network's logits, each item's its own."""
    return bool(num_samples) and isinstance(run.guide, LaplaceGuide) and config.predict.sampling != "weights"


def predict_items(
    run: Run, items: EncodedDataset, config: RunConfig, num_samples: int, console: Console
) -> Predictions:
    """Answers under the draws that the run's seed gives, whatever was drawn before."""
    loader = predict_loader(items, config.predict.batch_size, padding_id(run.model.tokenizer))
    pyro.set_rng_seed(config.seed)
    description = f"predict N={num_samples}"
    if draws_logits(run, config, num_samples):
        return LinearisedPredictive(run.model, run.guide, num_samples)(
            loader, progress=console.progress, description=description
        )
    predictive = PosteriorPredictive(run.model, run.guide, num_samples, max_tokens=config.predict.max_tokens)
    return predictive(loader, progress=console.progress, description=description)


def found_temperature(validation: Predictions, num_samples: int, console: Console) -> Temperature:
    """The temperature of the held-out items; the user is told of one at the end of its range."""
    found = fit_temperature(validation)
    if found.at_bound:
        console.log(f"temperature of N={num_samples}: {found}")
    return found


def check_draws(score: str, config: RunConfig) -> None:
    """Refuse a score that asks for draws which can disagree where the run makes none.

    Raises:
        ConfigError: the guide is a point, or makes fewer than two draws.
    """
    if score not in NEED_DRAWS:
        return
    advice = "take another score (entropy, margin, confidence)"
    if not GUIDES[config.guide.name].is_random:
        raise ConfigError(
            f"score {score!r}: expected a guide whose draws can disagree; got {config.guide.name!r}, a point: {advice}"
        )
    if config.predict.num_samples < 2:
        raise ConfigError(
            f"score {score!r}: expected at least 2 posterior draws, which can disagree; got num_samples "
            f"{config.predict.num_samples}: raise it, or {advice}"
        )


def with_samples(config: RunConfig, num_samples: int | None) -> RunConfig:
    """The configuration with another number of draws; as it is for None."""
    if num_samples is None:
        return config
    return dataclasses.replace(config, predict=dataclasses.replace(config.predict, num_samples=num_samples))
