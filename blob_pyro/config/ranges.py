"""The range of every number of a configuration: what lies beyond it overflows, fits no memory, or never ends."""

from __future__ import annotations

from typing import Any

from blob_pyro.errors import ConfigError

MANY = 10**9  # of what is counted one by one
MOST_DRAWS = 100_000  # all of them are kept while a prediction is made
MOST_WORKERS = 1024
LARGEST_SEED = 2**32 - 1  # NumPy's, which Pyro seeds as well

RANGES: dict[str, tuple[float, float]] = {
    "data.max_megabytes": (1, 10**6),
    "data.num_train": (1, MANY),
    "data.num_test": (1, MANY),
    "data.num_validation": (0, MANY),
    "data.max_length": (2, 10**7),
    "model.label_smoothing": (0.0, 1.0),
    "model.class_weights": (1e-6, 1e6),
    "model.r": (1, 4096),
    "model.lora_alpha": (1e-6, 1e6),
    "model.lora_dropout": (0.0, 1.0),
    "model.bayesian_layers": (-10_000, 10_000),
    "model.prior_scale": (1e-6, 1e6),
    "model.prior_scale_spread": (1e-3, 1e3),
    "model.llm_int8_threshold": (0.0, 1e6),
    "guide.eps": (1e-6, 1e3),
    "guide.init_scale": (1e-9, 1e3),
    "guide.p": (0.0, 1.0),
    "guide.num_members": (2, 1000),
    "guide.rank": (1, 4096),
    "guide.tolerance": (0.0, 1e6),
    "train.num_steps": (1, MANY),
    "train.batch_size": (1, MANY),
    "train.lr": (1e-30, 1e38),  # of float32, as the parameters are
    "train.adam_eps": (1e-30, 1e30),
    "train.weight_decay": (0.0, 1e6),
    "train.kl_lr": (0.0, 1e6),
    "train.kl_lr_loc": (0.0, 1e6),
    "train.kl_width": (0.0, 1.0),
    "train.kl_cycle": (1, MANY),
    "train.kl_weight": (0.0, 1e12),
    "train.warmup_ratio": (0.0, 1.0),
    "train.gradient_accumulation_steps": (1, MANY),
    "train.max_grad_norm": (1e-30, 1e38),
    "train.max_skipped_steps": (0, MANY),
    "train.eval_steps": (1, MANY),
    "train.patience": (1, MANY),
    "train.save_steps": (1, MANY),
    "train.save_total_limit": (1, MANY),
    "predict.num_samples": (0, MOST_DRAWS),
    "predict.batch_size": (1, MANY),
    "predict.max_tokens": (1, MANY),
    "tune.num_trials": (1, MANY),
    "tune.margin": (0.0, 1e12),
    "seed": (0, LARGEST_SEED),
}
"""Setting -> its lowest and its highest value, or those of each number of a list."""


def check_ranges(section: str, settings: Any) -> None:
    """Raise where a number of a section lies beyond its range; what may be none passes.

    Args:
        section: put before the names, "train.".
        settings: name -> value.

    Raises:
        ConfigError: names the setting and its range.
    """
    for name, value in settings.items():
        if section + name in RANGES and value is not None:
            check_range(section + name, value, *RANGES[section + name])


def check_range(name: str, value: Any, lowest: float, highest: float) -> None:
    """Raise unless a number, or each number of a list, is between two others, these included."""
    kind = "a whole number" if isinstance(highest, int) else "a number"
    for number in value if isinstance(value, list | tuple) else [value]:
        if not isinstance(number, str) and not lowest <= number <= highest:
            huge = isinstance(number, int) and abs(number) >= 2**63
            words = "a whole number of 64 bits" if huge else f"{kind} from {lowest:.10g} to {highest:.10g}"
            raise ConfigError(f"{name}: expected {words}; got {str(number)[:40]}")
