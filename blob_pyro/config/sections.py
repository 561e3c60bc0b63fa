"""Settings of a run: frozen dataclasses that check themselves when they are made.

`RunConfig` is what a YAML file of `blob-pyro fit` describes; every field can be overridden on the
command line (`--train.num_steps 200`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from blob_pyro.config.checks import check as _check
from blob_pyro.config.checks import check_positive as _check_positive
from blob_pyro.config.checks import check_revision
from blob_pyro.config.data import DataConfig
from blob_pyro.config.device_maps import check_device_map
from blob_pyro.config.ranges import check_ranges
from blob_pyro.config.types import check_types
from blob_pyro.errors import ConfigError

__all__ = ["DataConfig", "GuideConfig", "ModelConfig", "PredictConfig", "RunConfig", "TrainConfig", "TuneConfig"]


@dataclass(frozen=True)
class ModelConfig:
    """The pretrained network and its LoRA adapter.

    Attributes:
        id: hub id, local folder, or the alias of a packaged model ("smollm2", "minilm").
        revision: of a hub id: branch, tag or commit; None takes its main branch. The commit that a run was made with is
            kept, and read by all that goes on from it (docs/bases.md).
        likelihood: answers are tokens of a causal language model, classes of a classification head, or texts that are
            learnt token by token (causal_lm; docs/likelihoods.md).
        count: what causal_lm counts as an observation: "sequences" (None takes it), so that the NLL is in nats per
            text, or "tokens", nats per token.
        label_smoothing: share of each training label that is spread evenly over the classes, or over the vocabulary.
        class_weights: factors on the log-likelihood of each class's items, in the order of the labels; "balanced"
            takes num_train / (K * items of the class), which gives every class the same weight in all.
        r: rank of the adapters.
        lora_alpha: the adapters are scaled by lora_alpha / r.
        lora_dropout: dropout on the adapters' input.
        target_modules: names of the adapted layers; or as one text a regular expression that a layer's whole path
            matches, or "all-linear", as in PEFT. None takes the architecture's default (docs/bases.md).
        adapter: folder of a trained adapter (what PEFT saves), a run directory, a checkpoint of one or an exported
            mean, to start from; None starts with a fresh adapter. r, lora_alpha, lora_dropout and target_modules are
            then the adapter's own. Where a posterior of the same guide lies beside it the run goes on from that; of
            BLoB's public code (lora_A_rho beside lora_A) the guide blob does.
        bayesian: which LoRA factors are random: "A" (as BLoB has it), "B" or "both"; None takes what the guide needs.
        bayesian_layers: transformer blocks whose adapters are random, -1 being the last; those of other blocks are
            trained as points. None takes all.
        prior_scale: standard deviation of the Gaussian prior on each random entry (paper: sigma_p).
        prior_scale_spread: learn the prior scale, under a LogNormal centred at prior_scale whose logarithm has this
            standard deviation; None keeps it fixed.
        quantization: bitsandbytes quantisation of the base, or None.
        llm_int8_threshold: outlier threshold of 8-bit layers; at 0.0 a row's logits do not depend on the
            other rows of its batch (see docs/gotchas.md).
        dtype: type of the base weights; "auto" takes the checkpoint's own.
        device_map: where the base goes: a device ("cuda", "cuda:0", "cpu", or its number), "auto" and what else
            accelerate takes, or devices by name of a module. None takes a GPU, if there is one, and the CPU elsewhere.
        attn_implementation: as in transformers; None takes eager for bfloat16 on CPUs (sdpa is faster there beyond
            some 300 tokens), and elsewhere the choice of transformers.
        gradient_checkpointing: recompute activations in the backward pass to save memory.
        shard_base: give each of several processes a share of the base's weights (FSDP), for a base that does not fit
            one device; the first process alone reads it (docs/scaling.md). Not beside quantization or device_map.
        ignore_mismatched_sizes: make a classification head anew where the base's own is of another size.
    """

    id: str = "smollm2"
    revision: str | None = None
    likelihood: Literal["multiple_choice", "sequence_classification", "causal_lm"] = "multiple_choice"
    count: Literal["sequences", "tokens"] | None = None
    label_smoothing: float = 0.0
    class_weights: list[float] | Literal["balanced"] | None = None
    r: int = 8
    lora_alpha: float = 16
    lora_dropout: float = 0.0
    target_modules: list[str] | str | None = None
    adapter: str | None = None
    bayesian: Literal["A", "B", "both"] | None = None
    bayesian_layers: list[int] | None = None
    prior_scale: float = 0.2
    prior_scale_spread: float | None = None
    quantization: Literal["8bit", "4bit"] | None = None
    llm_int8_threshold: float = 6.0
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device_map: dict[str, int | str] | int | str | None = None
    attn_implementation: str | None = None
    gradient_checkpointing: bool = False
    shard_base: bool = False
    ignore_mismatched_sizes: bool = False

    def __post_init__(self) -> None:
        check_types(self, "model.")
        _check(bool(self.id), "model.id", "a hub id, a folder or an alias", self.id)
        check_revision("model.revision", self.revision)
        _check(0 <= self.label_smoothing < 1, "model.label_smoothing", "a share in [0, 1)", self.label_smoothing)
        if isinstance(self.class_weights, list | tuple):
            positive = all(0 < weight < math.inf for weight in self.class_weights)
            _check(positive, "model.class_weights", "numbers above 0", self.class_weights)
        _check(self.r >= 1, "model.r", "a rank of at least 1", self.r)
        _check_positive("model.lora_alpha", self.lora_alpha)
        _check(0 <= self.lora_dropout < 1, "model.lora_dropout", "a share in [0, 1)", self.lora_dropout)
        _check_positive("model.prior_scale", self.prior_scale)
        if self.prior_scale_spread is not None:
            _check_positive("model.prior_scale_spread", self.prior_scale_spread)
        _check(self.bayesian_layers != [], "model.bayesian_layers", "at least one block, or null", self.bayesian_layers)
        check_device_map(self.device_map, "model.device_map")
        _check(
            self.target_modules not in ([], ""),
            "model.target_modules",
            "at least one name, or null",
            self.target_modules,
        )
        check_ranges("model.", vars(self))


@dataclass(frozen=True, init=False)
class GuideConfig:
    """Which posterior to learn. What settings there are the guides know (`guides.settings.check_settings`).

    Args:
        name: one of `bp.guides.GUIDES`.
        settings: of the guide, as a mapping.
        more: of the guide, by their names. A setting that is None takes the guide's own default.

    Attributes:
        name: as given.
        settings: those that were given.

    Example:
        >>> from dataclasses import replace
        >>> replace(GuideConfig("blob", eps=0.1), name="low_rank")
        GuideConfig(name='low_rank', settings={'eps': 0.1})
    """

    name: str
    settings: dict[str, Any]

    def __init__(self, name: str = "blob", settings: Mapping[str, Any] | None = None, **more: Any) -> None:
        object.__setattr__(self, "name", name)
        given = {setting: value for setting, value in {**(settings or {}), **more}.items() if value is not None}
        object.__setattr__(self, "settings", given)

    def __hash__(self) -> int:
        """Of name and settings, in any order."""
        return hash((self.name, frozenset(self.settings.items())))


@dataclass(frozen=True)
class TrainConfig:
    """How the posterior is learnt; the defaults are the paper's (arXiv 2406.11675, appendix B), some by a rule.

    Attributes:
        num_steps: optimiser steps.
        batch_size: items a step.
        recipe: "blob", "decoupled" or "elbo" (see `BLoBSVI`).
        lr: AdamW's learning rate.
        adam_eps: AdamW's epsilon.
        weight_decay: AdamW's decoupled weight decay on A, B and the head.
        kl_lr: learning rate of the separate step on the spread's NLL and the KL. None takes the paper's 0.01, and
            scales the schedule so that the posterior comes to kl_width (`kl_rate.widening`).
        kl_lr_loc: the same for the mean; None takes kl_lr, or where that is not set one that takes little of it.
        kl_width: share of the prior's standard deviation, between 0 and 1, that the KL alone brings the posterior's to
            by the last step. None takes more the more often training sees its items, and the fewer they are
            (`kl_rate.default_width`): 0.25 for one pass over 120 items, 0.67 for ten. Not beside kl_lr.
        kl_schedule: how the KL is spread over the steps of a cycle. None takes "late" where the KL widens to a width
            (kl_lr is not set, kl_step is "flow"), "constant" for the recipe elbo, else the paper's "reweighted".
        kl_cycle: steps in a cycle, or of the rise for "warmup". None takes all steps for "late"; the learning rate's
            warm-up for "warmup"; else the paper's rule (`kl_schedule.cycle_length`) but a third of the steps at most.
            "late", "reweighted" and "uniform" spread about one KL over a cycle; "constant" and "warmup" count it whole
            at every step.
        kl_weight: factor on the KL, on top of the schedule.
        kl_step: how a step descends the KL: "flow", which is stable at any rate and prior scale, or "explicit", the
            plain SGD of the authors' code (see `BLoBSVI`).
        warmup_ratio: share of the steps over which learning rates rise from zero; they then fall linearly. A single
            step has the full rates.
        flipout: give each example its own sign-flipped noise.
        group_by_length: put items of similar length into a batch, which saves padding; the order stays random.
            False shuffles plainly.
        gradient_accumulation_steps: forwards that the items of a step are shared out to, to save memory; batch_size
            stays the items of a whole step, over all forwards and processes.
        max_grad_norm: scale the gradients of a step down to this norm; null does not.
        mixed_precision: "bf16" or "fp16" runs the forwards of a float32 base under autocast.
        max_skipped_steps: steps whose loss or gradient is not finite change nothing and are counted; so many may be.
        eval_steps: steps between two evaluations on the data.num_validation held-out items, under
            predict.num_samples draws; training then ends with the parameters of the lowest held-out NLL. Null: none.
        patience: evaluations in a row without a lower held-out NLL after which training stops early; null: none.
        save_steps: steps between two checkpoints, from which `--resume` goes on; null writes one before a stop alone.
        save_total_limit: how many checkpoints are kept, the newest ones; a finished run keeps none.
        trackers: where a run also sends what each step saw, beside history.jsonl: accelerate's names ("tensorboard",
            "wandb", "trackio", ...), whose packages must be installed; null: nowhere. (`fit` of a script takes
            callbacks: `tracking.tracked` makes one.)
    """

    num_steps: int = 5000
    batch_size: int = 4
    recipe: Literal["blob", "decoupled", "elbo"] = "blob"
    lr: float = 1e-4
    adam_eps: float = 1e-6
    weight_decay: float = 0.0
    kl_lr: float | None = None
    kl_lr_loc: float | None = None
    kl_width: float | None = None
    kl_schedule: Literal["late", "reweighted", "uniform", "constant", "warmup"] | None = None
    kl_cycle: int | None = None
    kl_weight: float = 1.0
    kl_step: Literal["flow", "explicit"] = "flow"
    warmup_ratio: float = 0.06
    flipout: bool = True
    group_by_length: bool = True
    gradient_accumulation_steps: int = 1
    max_grad_norm: float | None = None
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    max_skipped_steps: int = 3
    eval_steps: int | None = None
    patience: int | None = None
    save_steps: int | None = 100
    save_total_limit: int = 2
    trackers: list[str] | None = None

    def __post_init__(self) -> None:
        check_types(self, "train.")
        _check(self.num_steps >= 1, "train.num_steps", "at least 1 step", self.num_steps)
        _check(self.batch_size >= 1, "train.batch_size", "at least 1 item", self.batch_size)
        for name in ("lr", "adam_eps"):
            _check_positive(f"train.{name}", getattr(self, name))
        for name in ("weight_decay", "kl_lr", "kl_lr_loc", "kl_weight"):
            value = getattr(self, name)
            _check(value is None or 0 <= value < math.inf, f"train.{name}", "a number of at least 0", value)
        width = self.kl_width
        _check(width is None or 0 < width < 1, "train.kl_width", "a share between 0 and 1, or null", width)
        beside = f"kl_lr: {self.kl_lr}" if self.kl_lr is not None else f"kl_step: {self.kl_step}"
        if width is not None and not self.widens:
            raise ConfigError(
                "train.kl_width: expected it alone, with kl_step: flow; beside it stands "
                f"train.{'recipe: elbo' if self.recipe == 'elbo' else beside}: leave one of them out"
            )
        _check(self.kl_cycle is None or self.kl_cycle >= 1, "train.kl_cycle", "at least 1 step, or null", self.kl_cycle)
        _check(0 <= self.warmup_ratio <= 1, "train.warmup_ratio", "a share in [0, 1]", self.warmup_ratio)
        if self.max_grad_norm is not None:
            _check_positive("train.max_grad_norm", self.max_grad_norm)
        _check(self.max_skipped_steps >= 0, "train.max_skipped_steps", "a count of at least 0", self.max_skipped_steps)
        for name in ("gradient_accumulation_steps", "save_total_limit", "eval_steps", "patience", "save_steps"):
            value = getattr(self, name)
            _check(value is None or value >= 1, f"train.{name}", "a count of at least 1", value)
        _check(
            self.patience is None or self.eval_steps is not None,
            "train.patience", "train.eval_steps beside it", self.patience,
        )  # fmt: skip
        _check(self.trackers != [], "train.trackers", "at least one name, or null", self.trackers)
        check_ranges("train.", vars(self))

    @property
    def schedule(self) -> str:
        """kl_schedule, or what stands for it where it is left out."""
        return self.kl_schedule or ("late" if self.widens else "constant" if self.recipe == "elbo" else "reweighted")

    @property
    def widens(self) -> bool:
        """Whether the KL acts until the posterior has a width, kl_width or the rule's, and not at a set rate."""
        return self.kl_lr is None and self.kl_step == "flow" and self.recipe != "elbo"


@dataclass(frozen=True)
class PredictConfig:
    """How answers are averaged.

    Attributes:
        num_samples: posterior draws; 0 answers with the posterior mean.
        batch_size: items the loader hands over at once; they are cut again into forwards of similar length. On
            1,000 tweets 64 leaves 7 % fewer tokens to pay for than 16 (posterior mean; a forward counted as 80), and
            all of them at once 1 % fewer still.
        max_tokens: most tokens of a forward, draws x items x padded width; lower it where memory is short. None
            takes the device's default (see `PosteriorPredictive`).
        sampling: what is drawn: "weights", the adapter, with a forward for each draw; or "logits" of the network
            linearised at the posterior mean, for the laplace guide alone. None takes the guide's usual.
        temperature: divide the logits of every draw by one number, fitted on the data.num_validation held-out items.
    """

    num_samples: int = 10
    batch_size: int = 64
    max_tokens: int | None = None
    sampling: Literal["weights", "logits"] | None = None
    temperature: bool = False

    def __post_init__(self) -> None:
        check_types(self, "predict.")
        _check(self.num_samples >= 0, "predict.num_samples", "at least 0 draws", self.num_samples)
        _check(self.batch_size >= 1, "predict.batch_size", "at least 1 item", self.batch_size)
        tokens = self.max_tokens
        _check(tokens is None or tokens >= 1, "predict.max_tokens", "at least 1 token, or null", tokens)
        check_ranges("predict.", vars(self))


@dataclass(frozen=True)
class TuneConfig:
    """A search for better settings before the run, on the data.num_validation held-out items (docs/tuning.md).

    Attributes:
        search: search train.num_steps, train.kl_width (or a train.kl_lr that is set), model.prior_scale and
            model.bayesian_layers, or the steps alone where the guide has no KL; `--tune` for short.
        num_trials: most trials, each a training and a prediction of the held-out items; the first has the
            configuration's own settings.
        margin: how many standard errors (of the paired difference over the items) lower a trial's held-out NLL must
            be to be taken; at 0 any lower one is.
    """

    search: bool = False
    num_trials: int = 8
    margin: float = 1.0

    def __post_init__(self) -> None:
        check_types(self, "tune.")
        _check(self.num_trials >= 1, "tune.num_trials", "at least 1 trial", self.num_trials)
        _check(0 <= self.margin < math.inf, "tune.margin", "a number of at least 0", self.margin)
        check_ranges("tune.", vars(self))


@dataclass(frozen=True)
class RunConfig:
    """Everything one run needs.

    Attributes:
        data: the items.
        model: the network.
        guide: the posterior.
        train: the training.
        predict: the answers.
        tune: the search for settings before the run.
        seed: seeds the adapter, the posterior, the order of the items and every draw.
        output: the run directory; it must not hold another run.
    """

    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    guide: GuideConfig = field(default_factory=GuideConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    tune: TuneConfig = field(default_factory=TuneConfig)
    seed: int = 0
    output: str = "runs/fit"

    def __post_init__(self) -> None:
        check_types(self)
        _check(0 <= self.seed < 2**32, "seed", "a whole number from 0 to 4294967295", self.seed)
        _check(bool(self.output), "output", "a directory to write to", self.output)
        for section in ("data", "model", "guide", "train", "predict", "tune"):
            for name, value in vars(getattr(self, section)).items():
                fits = not isinstance(value, int) or abs(value) < 2**63
                _check(fits, f"{section}.{name}", "a whole number of 64 bits", str(value)[:40])

    @property
    def in_authors_order(self) -> bool:
        """Whether training goes through the items as they stand, as the paper's public code does."""
        return self.data.compat is not None and self.model.likelihood == "multiple_choice"

    @property
    def learns_tokens(self) -> bool:
        """Whether the run learns texts token by token, and not classes."""
        return self.model.likelihood == "causal_lm"
