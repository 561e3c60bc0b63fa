"""The paper's settings, and small ones of the same shape for two cores."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import transformers

from blob_pyro.config.file import unknown_key
from blob_pyro.config.sections import DataConfig, ModelConfig, PredictConfig, RunConfig, TrainConfig
from blob_pyro.errors import ConfigError
from blob_pyro.experiments.paper.order import Order
from blob_pyro.guides.settings import KEYS
from blob_pyro.model.place import locate
from blob_pyro.training.kl_rate import PAPER_RATE

# What says which run it is (task, files, model, guide, seed, output) is no matter of taste.
_FIXED = ("data.task", "data.data_dir", "data.train_file", "data.test_file", "data.dataset", "data.dataset_config",
          "data.revision", "model.revision",
          "data.train_split", "data.test_split", "data.prompt", "data.completion", "data.over", "data.truncate_field",
          "data.label_field", "data.choices_field", "data.group_field", "data.id_field", "data.labels", "data.answers",
          "model.id", "model.likelihood", "model.count", "model.adapter",
          "predict.sampling", "predict.temperature")  # fmt: skip
CHANGEABLE: dict[str, Any] = {
    key: kind
    for key, kind in KEYS.items()
    if key.partition(".")[0] in ("data", "model", "train", "predict") and "." in key and key not in _FIXED
}
"""The settings that `Order.changes` may change, "train.num_steps" and so on, each with its type."""

# Llama-2-7B: arXiv 2406.11675, appendix B. The defaults of the configuration are its other settings.
FULL_MODEL = ModelConfig(
    id="meta-llama/Llama-2-7b-hf", target_modules=["q_proj", "v_proj", "lm_head"], quantization="8bit"
)
FULL_TRAIN = TrainConfig(kl_lr=PAPER_RATE, kl_step="explicit")
FULL_PREDICT = PredictConfig()
FULL_DATA = {"max_length": 300}
SMALL_MODEL = ModelConfig(id="smollm2", target_modules=["q_proj", "v_proj"])
SMALL_TRAIN = TrainConfig(num_steps=80, lr=4e-3, kl_lr=0.03, kl_cycle=26, kl_step="explicit")
SMALL_DATA = {"num_train": 32, "num_test": 100, "num_validation": 32, "max_length": 128}

# RoBERTa-base: the same appendix.
FULL_ENCODER = ModelConfig(
    id="FacebookAI/roberta-base", likelihood="sequence_classification", lora_alpha=8, target_modules=["query", "value"]
)
FULL_ENCODER_TRAIN = TrainConfig(batch_size=32, lr=5e-4, kl_lr=0.002, kl_step="explicit")
FULL_ENCODER_DATA = {"max_length": 256}
SMALL_ENCODER = replace(FULL_ENCODER, id="minilm", dtype="bfloat16")
SMALL_ENCODER_TRAIN = TrainConfig(num_steps=200, lr=2e-3, kl_lr=0.03, kl_cycle=66, kl_step="explicit")
SMALL_ENCODER_DATA = {"num_train": 100, "num_test": 250, "num_validation": 50, "max_length": 128}


def config_for(order: Order, task: str) -> RunConfig:
    """The settings for `task` by the kind of the order's model.

    A model that its configuration file calls an encoder answers through a classification head, as the paper's RoBERTa;
    any other model, and none, answers with tokens.
    """
    return encoder_config(order, task) if is_encoder(order.model) else decoder_config(order, task)


def is_encoder(model: str | None) -> bool:
    """Whether a hub id, folder or alias is a network that sees the text to the right (BERT, RoBERTa).

    A model that cannot be read is none: the run then says what is wrong with it.

    Raises:
        ModelLoadError: there is no such model.
    """
    if model is None:
        return False
    place = locate(model)
    try:
        config = transformers.AutoConfig.from_pretrained(
            place.path, local_files_only=place.local_only, trust_remote_code=False
        )
    except (OSError, ValueError):
        return False
    return type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)


def decoder_config(order: Order, task: str) -> RunConfig:
    """Multiple choice on `task`: the paper's Llama-2-7B in 8 bit, or SmolLM2-135M on a few items."""
    if order.scale == "full":
        data = _data(order, task, FULL_DATA)
        return _config(order, task, FULL_MODEL, data, FULL_TRAIN)
    return _config(order, task, SMALL_MODEL, _data(order, task, SMALL_DATA), SMALL_TRAIN)


def encoder_config(order: Order, task: str) -> RunConfig:
    """Sequence classification on `task`: the paper's RoBERTa-base, or all-MiniLM-L6 on a few items."""
    folder = f"{task}-encoder"
    if order.scale == "full":
        return _config(order, task, FULL_ENCODER, _data(order, task, FULL_ENCODER_DATA), FULL_ENCODER_TRAIN, folder)
    return _config(order, task, SMALL_ENCODER, _data(order, task, SMALL_ENCODER_DATA), SMALL_ENCODER_TRAIN, folder)


def _config(
    order: Order, task: str, model: ModelConfig, data: DataConfig, train: TrainConfig, folder: str | None = None
) -> RunConfig:
    """Runs go below `order.path`, a folder for each task and kind of model."""
    if order.model is not None and order.model != model.id:
        # the adapted layers are PEFT's choice for an architecture that is not the one of the settings
        model = replace(model, id=order.model, target_modules=None, dtype="auto")
    output = str(order.path / "runs" / (folder or task).replace("/", "-"))
    return _changed(RunConfig(data=data, model=model, train=train, predict=FULL_PREDICT, output=output), order)


def _changed(config: RunConfig, order: Order) -> RunConfig:
    """The configuration with the order's own settings.

    Raises:
        ConfigError: one of them is unknown, fixed, or has a value that cannot work.
    """
    for section, changes in order.changes.items():
        for name in changes:
            if f"{section}.{name}" not in CHANGEABLE:
                raise ConfigError(unknown_key(f"{section}.{name}", CHANGEABLE))
    sections = {section: replace(getattr(config, section), **changes) for section, changes in order.changes.items()}
    return replace(config, **sections)


def _data(order: Order, task: str, settings: dict[str, Any]) -> DataConfig:
    return DataConfig(task=task, data_dir=order.data_dir, **settings)
