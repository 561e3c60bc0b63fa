"""What one section of a configuration asks of another: refused before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blob_pyro.config.sections import DataConfig, RunConfig, TrainConfig
from blob_pyro.errors import ConfigError
from blob_pyro.guides import GUIDES, AdapterGuide, LaplaceGuide, PostHocGuide
from blob_pyro.guides.settings import check_settings
from blob_pyro.runs.tracking import check_trackers
from blob_pyro.runs.tuning import check_tuning
from blob_pyro.system.launchers import check_training, refuse_device_map


def check_run(config: RunConfig) -> None:
    """Refuse sections that do not go together, or not with what a launcher was told.

    Raises:
        ConfigError: names the setting.
        MissingPackageError: the package of a tracker is not installed.
    """
    check_training(config.train.mixed_precision, config.train.gradient_accumulation_steps)
    refuse_device_map(config.model.device_map)
    check_likelihood(config)
    _check_test_items(config.data)
    check_settings(config.guide)
    check_tuning(config)
    check_trackers(config.train.trackers)
    if config.predict.temperature and not config.data.num_validation:
        raise ConfigError("predict.temperature: expected held-out items to fit it with; set data.num_validation")
    if config.train.eval_steps is not None and not config.data.num_validation:
        raise ConfigError("train.eval_steps: expected held-out items to evaluate on; set data.num_validation")
    if config.train.eval_steps is not None and config.tune.search:
        raise ConfigError("train.eval_steps: expected none beside tune.search, which chooses by the held-out items too")
    if config.model.adapter is not None and config.guide.name == "ensemble":
        raise ConfigError(
            f"model.adapter: expected none with the guide ensemble, whose members all start afresh; got "
            f"{config.model.adapter}: leave it out, or take another guide"
        )
    if config.predict.sampling == "logits" and GUIDES[config.guide.name] is not LaplaceGuide:
        raise ConfigError(f"predict.sampling: expected 'weights' with the guide {config.guide.name!r}; got 'logits'")


def _check_test_items(data: DataConfig) -> None:
    if data.num_test is not None and not data.is_tested:
        raise ConfigError(
            f"data.num_test: expected data.test_file (or data.test_split) to take them from; got {data.num_test} "
            "without one: name it, or hold items out with data.num_validation"
        )


def unused_kl_settings(config: RunConfig, guide: AdapterGuide) -> str | None:
    """A line about settings of the KL that were given and change nothing; None where there are none.

    Comparisons share settings among all methods, so that they are no error.

    Args:
        config: the run.
        guide: what is trained.
    """
    defaults, train = TrainConfig(), config.train
    names = [name for name in vars(defaults) if name.startswith("kl_")]
    given = [name for name in names if getattr(train, name) != getattr(defaults, name)]
    if not guide.kl().requires_grad:
        unused, why = given, f"the guide {config.guide.name} is trained without a KL"
    elif train.recipe == "elbo":
        unused = [name for name in given if name in ("kl_lr", "kl_lr_loc", "kl_step")]
        why = "the recipe elbo has no step of its own on the KL"
    else:
        unused, why = (
            [name for name in given if name == "kl_cycle" and train.schedule == "constant"],
            ("the schedule constant has no cycle"),
        )
    return f"note: {', '.join(f'train.{name}' for name in unused)}: without effect, {why}" if unused else None


def check_likelihood(config: RunConfig) -> None:
    """Refuse settings of tokens where the likelihood is one of classes, and settings of classes where it is causal_lm.

    Raises:
        ConfigError: names the setting.
    """
    if config.learns_tokens:
        _check_tokens(config)
        return
    if config.data.answers is not None and config.model.likelihood != "multiple_choice":
        raise ConfigError(
            f"data.answers: expected none with the likelihood {config.model.likelihood}, which has no answer words; "
            f"got {config.data.answers}: leave it out"
        )
    settings = {
        "data.completion": config.data.completion,
        "data.over": config.data.over,
        "model.count": config.model.count,
    }
    for name, value in settings.items():
        if value is not None:
            raise ConfigError(
                f"{name}: expected none with the likelihood {config.model.likelihood}; got {value!r}: "
                "set model.likelihood to causal_lm"
            )


def token_guides() -> list[str]:
    """Names of the guides that causal_lm can have: those that are fitted to a trained adapter measure classes."""
    return [name for name, guide in GUIDES.items() if not issubclass(guide, PostHocGuide)]


def _check_tokens(config: RunConfig) -> None:
    of_classes: dict[str, Any] = {
        "data.labels": config.data.labels,
        "data.choices_field": config.data.choices_field,
        "data.compat": config.data.compat,
        "model.class_weights": config.model.class_weights,
        "predict.temperature": config.predict.temperature or None,
        "predict.sampling": config.predict.sampling if config.predict.sampling == "logits" else None,
    }
    for name, value in of_classes.items():
        if value is not None:
            raise ConfigError(f"{name}: expected none with the likelihood causal_lm, which has no classes; got {value}")
    if config.data.task is None and not config.data.own_texts:
        raise ConfigError(
            'data.completion: expected what follows the prompt, like " {answer}", with the likelihood causal_lm (or '
            "data.over text, where the prompt is the whole text); got none"
        )
    if config.guide.name not in token_guides():
        raise ConfigError(
            f"guide.name: expected one of {', '.join(token_guides())} with the likelihood causal_lm; "
            f"got {config.guide.name!r}, which measures classes"
        )


def refuse_tokens(run_dir: str | Path, config: RunConfig, what: str) -> None:
    """Raise where a run learns tokens and classes are needed.

    Args:
        run_dir: the run.
        config: its configuration.
        what: what needs them, for the message.

    Raises:
        ConfigError: it does.
    """
    if config.learns_tokens:
        raise ConfigError(f"{what}: expected a run that tells classes apart; got {run_dir}, which learns texts "
                          "token by token (causal_lm)")  # fmt: skip
