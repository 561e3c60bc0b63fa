"""From a configuration to its parts: likelihood, model, guide, encoded items."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyro.distributions as dist

from blob_pyro.checkpoint import load_adapter
from blob_pyro.config import DataConfig, GuideConfig, ModelConfig, RunConfig
from blob_pyro.data.collate import EncodedDataset, encode, label_token_ids
from blob_pyro.data.compat import whole_batches
from blob_pyro.data.examples import Example
from blob_pyro.data.own_files import with_labels
from blob_pyro.data.task_data import TaskData
from blob_pyro.data.tasks import find_task, load_task
from blob_pyro.errors import ConfigError, DataError
from blob_pyro.guides import GUIDES, AdapterGuide
from blob_pyro.likelihoods import Likelihood, MultipleChoice, SequenceClassification
from blob_pyro.loading import BaseSource, fill_padding, load_base, load_tokenizer
from blob_pyro.model import BayesianLoRA


def check_guide(config: GuideConfig) -> None:
    """Refuse settings that the guide does not have, before anything is loaded.

    Raises:
        ConfigError: names the setting and what the guide has.
    """
    known = [name for name in inspect.signature(GUIDES[config.name]).parameters if name != "model"]
    for name in config.settings:
        if name not in known:
            has = ", ".join(known) or "none"
            raise ConfigError(f"guide.{name}: expected a setting of the guide {config.name!r}, which has {has}")


def build_likelihood(config: ModelConfig, labels: Sequence[str]) -> Likelihood:
    """The likelihood that `config` names, for these labels."""
    if config.likelihood == "sequence_classification":
        return SequenceClassification(len(labels))
    return MultipleChoice(label_token_ids(load_tokenizer(config.id), labels))


def build_model(config: RunConfig, labels: Sequence[str], num_data: int) -> BayesianLoRA:
    """The pretrained network with a fresh adapter, or the one that `config` names, as a Pyro model."""
    settings = config.model
    likelihood = build_likelihood(settings, labels)
    shared: dict[str, Any] = {
        "prior_scale": _prior_scale(settings),
        "num_data": num_data,
        "bayesian": settings.bayesian or GUIDES[config.guide.name].bayesian,
        "bayesian_layers": settings.bayesian_layers,
    }
    base: dict[str, Any] = {
        "quantization": settings.quantization,
        "llm_int8_threshold": settings.llm_int8_threshold,
        "dtype": settings.dtype,
        "attn_implementation": settings.attn_implementation,
    }
    if settings.adapter is not None:
        model = _with_adapter(settings, likelihood, BaseSource(id=settings.id, **base), shared)
    else:
        model = BayesianLoRA.from_pretrained(
            settings.id,
            likelihood,
            r=settings.r,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules=settings.target_modules,
            **base,
            **shared,
        )
    if settings.gradient_checkpointing:
        model.network.get_base_model().activation_checkpointing_enable({"use_reentrant": False})
    return model


def build_guide(model: BayesianLoRA, config: GuideConfig) -> AdapterGuide:
    """The guide that `config` names."""
    return GUIDES[config.name](model, **config.settings)


def max_length(model: BayesianLoRA, config: DataConfig) -> int:
    """The longest prompt in tokens: the configured one, within the model's context."""
    context = getattr(model.network.config, "max_position_embeddings", None)
    return config.max_length if context is None else min(config.max_length, context)


def load_data(config: RunConfig, seed: int | None = None) -> TaskData:
    """The items of a run; under data.compat in whole batches, where the answers are tokens.

    The paper's public code drops what fills no batch for causal language models alone.

    Args:
        config: the run.
        seed: draws the items; None takes the run's own.
    """
    data = load_task(config.data, config.seed if seed is None else seed)
    return whole_batches(data, config.train.batch_size) if in_authors_order(config) else data


def in_authors_order(config: RunConfig) -> bool:
    """Whether training goes through the items as they stand, as the paper's public code does."""
    return config.data.compat is not None and config.model.likelihood == "multiple_choice"


def labels_of(config: DataConfig) -> tuple[str, ...]:
    """The answer words of a configuration; without reading any item, unless it leaves out those of own items."""
    return find_task(config.task).labels if config.task is not None else tuple(with_labels(config)[0].labels or ())


def encode_items(
    examples: Sequence[Example], model: BayesianLoRA, config: DataConfig, source: str | None
) -> EncodedDataset:
    """`encode` within the configured length; errors and warnings name the file."""
    name = source or config.task or config.dataset
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        try:
            encoded = encode(examples, model.tokenizer, max_length(model, config))
        except DataError as error:
            limit = max_length(model, config)
            context = f" (the model takes no more than {limit})" if limit < config.max_length else ""
            raise DataError(f"{name}: {error}{context}") from error
    for note in notes:
        warnings.warn(f"{name}: {note.message}", note.category, stacklevel=2)
    return encoded


def _prior_scale(config: ModelConfig) -> Any:
    if config.prior_scale_spread is None:
        return config.prior_scale
    return dist.LogNormal(math.log(config.prior_scale), config.prior_scale_spread)


def _with_adapter(
    config: ModelConfig, likelihood: Likelihood, source: BaseSource, settings: dict[str, Any]
) -> BayesianLoRA:
    """The base with the trained adapter of a folder."""
    assert config.adapter is not None
    tokenizer = load_tokenizer(source.id)
    network = load_adapter(Path(config.adapter), load_base(source, likelihood))
    fill_padding(network.get_base_model(), tokenizer)
    return BayesianLoRA(network, likelihood, tokenizer=tokenizer, source=source, **settings)
