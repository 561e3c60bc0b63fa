"""From a configuration to its parts: likelihood, model, guide, encoded items."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyro
import pyro.distributions as dist

from blob_pyro.config.data import files_of
from blob_pyro.config.sections import DataConfig, GuideConfig, ModelConfig, RunConfig
from blob_pyro.data.batches.collate import EncodedDataset, encode, padding_id
from blob_pyro.data.batches.completions import encode_completions, num_predicted
from blob_pyro.data.batches.label_tokens import (
    ClashingAnswersError,
    answer_token_ids,
    class_codes,
    label_token_ids,
    other_spelling,
)
from blob_pyro.data.batches.prompt_tokens import TokenizerWarning, told_once
from blob_pyro.data.examples import Example
from blob_pyro.data.tasks.compat import whole_batches
from blob_pyro.data.tasks.completed import with_answers
from blob_pyro.data.tasks.load import find_task, load_task
from blob_pyro.data.tasks.own_files import load_own, with_labels
from blob_pyro.data.tasks.own_rows import TrainRows
from blob_pyro.data.tasks.task_data import TaskData
from blob_pyro.errors import ConfigError, DataError
from blob_pyro.guides import GUIDES, AdapterGuide
from blob_pyro.model.adapted_base import load_adapted
from blob_pyro.model.architectures import is_decoder
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.layers.checkpointing import enable_checkpointing
from blob_pyro.model.likelihoods import CausalLM, Likelihood, MultipleChoice, SequenceClassification, WholeAnswer
from blob_pyro.model.loading import BaseSource, load_tokenizer
from blob_pyro.model.vocabulary import check_token_ids, context
from blob_pyro.runs.head_labels import head_outputs
from blob_pyro.storage import put_on
from blob_pyro.storage.continuing import adapter_at, take_up
from blob_pyro.system.launchers import told_to_use_cpu
from blob_pyro.system.processes import Ranks
from blob_pyro.system.terminal import Console


@dataclass(frozen=True)
class Items:
    """The encoded items of a run; `labels` are the answer words, none where tokens are learnt."""

    train: EncodedDataset
    test: EncodedDataset
    validation: EncodedDataset
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Parts:
    """A run before it is trained.

    Attributes:
        model: the network with its adapter, and the tokenizer.
        guide: the posterior at its start.
        items: the encoded items.
        notes: lines for the user, of what it starts from.
    """

    model: BayesianLoRA
    guide: AdapterGuide
    items: Items
    notes: tuple[str, ...] = ()


def with_class_weights(config: RunConfig, examples: Sequence[Example], labels: Sequence[str]) -> RunConfig:
    """The configuration with numbers in place of class weights that are "balanced".

    Args:
        config: the run.
        examples: what it trains on.
        labels: in class order.

    Raises:
        ConfigError: a class has no item.
    """
    if config.model.class_weights != "balanced":
        return config
    counts = Counter(example.label for example in examples)
    missing = [label.strip() for k, label in enumerate(labels) if not counts[k]]
    if missing:
        raise ConfigError(
            f"model.class_weights: expected training items of every class for 'balanced'; got none of "
            f"{', '.join(missing)}: give numbers, or leave it out"
        )
    weights = [len(examples) / (len(labels) * counts[k]) for k in range(len(labels))]
    return dataclasses.replace(config, model=dataclasses.replace(config.model, class_weights=weights))


def build_likelihood(config: ModelConfig, labels: Sequence[str]) -> Likelihood:
    """The likelihood that `config` names, for these labels; its class weights are numbers or None.

    One of tokens counts sequences: `count_tokens` knows how many tokens there are.

    Raises:
        DataError: as `answer_token_ids`.
        ConfigError: another number of class weights than of labels.
    """
    return _LIKELIHOODS[config.likelihood](config, labels)


def _of_answers(config: ModelConfig, labels: Sequence[str]) -> Likelihood:
    tokenizer = load_tokenizer(config.id, config.revision)
    likelihood = answers_likelihood(tokenizer, labels, **_class_options(config))
    if isinstance(likelihood, WholeAnswer):
        warnings.warn(_whole_answer_note(tokenizer, labels, likelihood), stacklevel=3)
    return likelihood


def _of_classes(config: ModelConfig, labels: Sequence[str]) -> Likelihood:
    outputs, note = head_outputs(config, labels)
    if note:
        warnings.warn(note, stacklevel=3)
    return SequenceClassification(len(labels), outputs=outputs, **_class_options(config))


def _class_options(config: ModelConfig) -> dict[str, Any]:
    return {"label_smoothing": config.label_smoothing, "class_weights": config.class_weights}


_LIKELIHOODS: dict[str, Callable[[ModelConfig, Sequence[str]], Likelihood]] = {
    "multiple_choice": _of_answers,
    "sequence_classification": _of_classes,
    "causal_lm": lambda config, labels: CausalLM(label_smoothing=config.label_smoothing),
}


def count_tokens(model: BayesianLoRA, train: EncodedDataset, config: ModelConfig) -> None:
    """Let a likelihood of tokens count those of the training set, where `config` says so."""
    if config.count == "tokens":
        model.likelihood = CausalLM(num_predicted(train), label_smoothing=config.label_smoothing)


def answers_likelihood(tokenizer: Any, labels: Sequence[str], **options: Any) -> MultipleChoice | WholeAnswer:
    """The answers' tokens at the prompt's last position; the whole answers where one has several tokens.

    Args:
        tokenizer: of the model.
        labels: answer words in class order.
        options: label_smoothing and class_weights.

    Raises:
        DataError: as `answer_token_ids`.
        ConfigError: an option out of range.
    """
    answers = answer_token_ids(tokenizer, labels)
    if all(len(answer) == 1 for answer in answers):
        return MultipleChoice(label_token_ids(tokenizer, labels), **options)
    return WholeAnswer(answers, **options)


def _whole_answer_note(tokenizer: Any, labels: Sequence[str], likelihood: WholeAnswer) -> str:
    """Which labels have several tokens, what that costs, and a spelling that has one."""
    long = [label for label, answer in zip(labels, likelihood.tree.answers, strict=True) if len(answer) > 1]
    better = [other for label in long if (other := other_spelling(tokenizer, label))]
    advice = f" ({', '.join(map(repr, better))} would be one)" if better else ""
    have = "has" if len(long) == 1 else "have"
    return (
        f"labels: {', '.join(map(repr, long))} {have} several tokens{advice}: answers are compared by the "
        f"log-probability of the whole answer, in {likelihood.rows_per_item} rows an item"
    )


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
        "ignore_mismatched_sizes": settings.ignore_mismatched_sizes,
        "revision": settings.revision,
    }
    device_map = settings.device_map if settings.device_map is not None else own_device(settings)
    if settings.adapter is not None:
        model = _with_adapter(settings, likelihood, BaseSource(id=settings.id, **base), shared, device_map)
    else:
        model = BayesianLoRA.from_pretrained(
            settings.id,
            likelihood,
            r=settings.r,
            lora_alpha=settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules=settings.target_modules,
            device_map=device_map,
            shard_base=settings.shard_base,
            **base,
            **shared,
        )
    if settings.gradient_checkpointing:
        enable_checkpointing(model.network.get_base_model())
    return model


def own_device(config: ModelConfig) -> Any:
    """The device map of a run that names none: this process's own GPU, where there are GPUs.

    None, which is the host, where there are none, and for a base that is to be sharded over processes. The CPU by its
    name for a quantised base where a launcher was told to take it: transformers puts one on a GPU by itself.
    """
    device = Ranks.here().device
    if config.quantization is not None and told_to_use_cpu():
        return {"": "cpu"}
    return None if config.shard_base or device.type == "cpu" else {"": str(device)}


def build_guide(model: BayesianLoRA, config: GuideConfig) -> AdapterGuide:
    """The guide that `config` names, at its start."""
    return GUIDES[config.name](model, **config.settings)


def max_length(model: BayesianLoRA, config: DataConfig) -> int:
    """The longest item in tokens: the configured one, within the model's context."""
    longest = context(model.network)
    return config.max_length if longest is None else min(config.max_length, longest - model.likelihood.extra_tokens)


def load_data(config: RunConfig, seed: int | None = None, train_rows: TrainRows | None = None) -> TaskData:
    """The items of a run; under data.compat in whole batches, where the answers are tokens.

    The paper's public code drops what fills no batch for causal language models alone. Where a task of classes is
    learnt token by token, its answer words are the completions.

    Args:
        config: the run.
        seed: draws the items; None takes the run's own.
        train_rows: what `with_read_labels` has read of own items; None reads them.
    """
    seed = config.seed if seed is None else seed
    data = load_task(config.data, seed) if train_rows is None else load_own(config.data, seed, train_rows)
    if config.learns_tokens and config.data.task is not None:
        return with_answers(data)
    return whole_batches(data, config.train.batch_size) if config.in_authors_order else data


def labels_of(config: DataConfig) -> tuple[str, ...]:
    """The answer words of a configuration; without reading any item, unless it leaves out those of own items."""
    return find_task(config.task).labels if config.task is not None else tuple(with_labels(config)[0].labels or ())


def encode_items(
    examples: Sequence[Example], model: BayesianLoRA, config: DataConfig, source: list[str] | str | None
) -> EncodedDataset:
    """`encode`, or `encode_completions` where the model learns tokens, within the configured length.

    Raises:
        DataError: as these two; it names the file, and so do the warnings.
    """
    name = ", ".join(files_of(source)) or config.task or config.dataset
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        try:
            encoded = _encode(examples, model, config)
        except DataError as error:
            limit = max_length(model, config)
            why = f" (the model takes no more than {limit})" if limit < config.max_length else ""
            raise DataError(f"{name}: {error}{why}") from error
    occurring = (token for item in encoded.items for token in item.input_ids)
    check_token_ids(occurring, model.network, model.tokenizer, name or "items")
    if len(encoded):
        check_token_ids([padding_id(model.tokenizer)], model.network, model.tokenizer, "padding")
    for note in notes:
        # the tokenizer's habits are the same for all files
        start = "" if issubclass(note.category, TokenizerWarning) else f"{name}: "
        warnings.warn(f"{start}{note.message}", note.category, stacklevel=2)
    return encoded


def _encode(examples: Sequence[Example], model: BayesianLoRA, config: DataConfig) -> EncodedDataset:
    longest = max_length(model, config)
    if not isinstance(model.likelihood, CausalLM):
        closing = not is_decoder(model.network.get_base_model().config)
        return encode(examples, model.tokenizer, longest, closing=closing)
    completions = [example.completion or "" for example in examples]
    return encode_completions(examples, completions, model.tokenizer, longest, over=config.over or "answer")


def _prior_scale(config: ModelConfig) -> Any:
    if config.prior_scale_spread is None:
        return config.prior_scale
    return dist.LogNormal(math.log(config.prior_scale), config.prior_scale_spread)


def _with_adapter(
    config: ModelConfig, likelihood: Likelihood, source: BaseSource, settings: dict[str, Any], device_map: Any
) -> BayesianLoRA:
    """The base with the trained adapter of a folder."""
    assert config.adapter is not None
    adapter = adapter_at(config.adapter)  # before the base, which takes longer
    network, tokenizer = load_adapted(
        source, likelihood, lambda base: put_on(adapter, base, source), device_map=device_map, shard=config.shard_base
    )
    return BayesianLoRA(network, likelihood, tokenizer=tokenizer, source=source.as_loaded(), **settings)


def with_read_labels(config: RunConfig, console: Console) -> tuple[RunConfig, TrainRows | None]:
    """The configuration with labels that it leaves out, as the training file has them; the user is told of them.

    A run keeps the labels it was made with, whatever becomes of the file. Where that was read its rows are given, too,
    for a pipe can be read once.

    Raises:
        BlobPyroError: the file cannot be read, or its labels cannot serve.
    """
    data, notes, train_rows = with_labels(config.data)
    for note in notes:
        console.log(note)
    if train_rows is not None and config.model.likelihood == "multiple_choice" and data.choices_field is None:
        data, notes = with_codes(data, config.model.id, config.model.revision)
        for note in notes:
            console.log(note)
    return dataclasses.replace(config, data=data), train_rows


def with_codes(data: DataConfig, model_id: str, revision: str | None = None) -> tuple[DataConfig, tuple[str, ...]]:
    """The configuration with letters, or numbers of as many digits each, for labels whose tokens begin one another.

    Args:
        data: with labels that were read from a file.
        model_id: whose tokens they are.
        revision: of that, on the hub.

    Returns:
        It, and a line that says so; both as they were where the labels can be told apart.
    """
    words = data.labels or []
    plain = sorted(word.strip().casefold() for word in words)
    if not any(after.startswith(before) for before, after in pairwise(plain)):
        return data, ()
    tokenizer = load_tokenizer(model_id, revision)
    try:
        answer_token_ids(tokenizer, words)
        return data, ()
    except ClashingAnswersError as error:
        codes = class_codes(len(words))
        spaces = (" ", "") if words[0].startswith(" ") else ("", " ")
        lengths = {
            space: sum(map(len, answer_token_ids(tokenizer, [space + code for code in codes]))) for space in spaces
        }
        space = min(lengths, key=lengths.__getitem__)  # a token each, where one of the two has them
        answers = {word.strip(): space + code for word, code in zip(words, codes, strict=True)}
        told = f"labels: answered by {codes[0]} to {codes[-1]} in their order (data.answers), for {error.why}"
        return dataclasses.replace(data, answers=answers), (told,)


def build_parts(config: RunConfig, data: TaskData, base: str | None = None) -> Parts:
    """What a run is trained and tested with, as its seed has it.

    Args:
        config: the run.
        data: its items.
        base: the place that the base is loaded from, where it has moved; the run calls it by its old name.
    """
    pyro.set_rng_seed(config.seed)
    moved = config.model if base is None else dataclasses.replace(config.model, id=base, revision=None)
    here = dataclasses.replace(config, model=moved)
    words = config.data.answer_words(data.labels)
    model = build_model(with_class_weights(here, data.train, data.labels), words, num_data=len(data.train))
    if base is not None:
        model.source = dataclasses.replace(model.source, id=config.model.id, revision=config.model.revision)
    items = encode_task(data, model, config)
    count_tokens(model, items.train, config.model)
    guide = build_guide(model, config.guide)
    note = take_up(guide, config.model.adapter) if config.model.adapter is not None else None
    return Parts(model, guide, items, () if note is None else (note,))


def encode_task(data: TaskData, model: BayesianLoRA, config: RunConfig) -> Items:
    """A task's items as token ids, by the model's tokenizer.

    Raises:
        DataError: as `encode_items`.
    """
    source = config.data.train_file
    with told_once():
        train, validation = (encode_items(part, model, config.data, source) for part in (data.train, data.validation))
        test = encode_items(data.test, model, config.data, config.data.test_file)
    return Items(train, test, validation, data.labels)
