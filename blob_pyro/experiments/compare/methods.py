"""The systems that `blob-pyro compare` knows: each a few changes to one configuration."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from blob_pyro.config.checks import did_you_mean
from blob_pyro.config.sections import GuideConfig, RunConfig
from blob_pyro.errors import ConfigError
from blob_pyro.runs.tuning import tunes

Changes = Mapping[str, Any]


@dataclass(frozen=True)
class Method:
    """One system.

    Attributes:
        name: its key in `METHODS`.
        title: its name in tables.
        description: one line for `blob-pyro compare --help`.
        changes: section -> {setting: value} where it differs from the configuration's own.
        after: another method whose run it starts from; it then trains nothing itself.
        posterior_mean: whether its answers without draws (N = 0) are a row as well.
        held_out: whether it sees the held-out items (data.num_validation).
    """

    name: str
    title: str
    description: str
    changes: Changes = field(default_factory=dict)
    after: str | None = None
    posterior_mean: bool = False
    held_out: bool = False

    def configure(self, config: RunConfig) -> RunConfig:
        """`config` with this method's changes; seed and output stay. Only a guide that can be tuned is."""
        sections = {section: _changed(getattr(config, section), changes) for section, changes in self.changes.items()}
        changed = dataclasses.replace(config, **sections)
        if changed.tune.search and not tunes(changed):
            return dataclasses.replace(changed, tune=dataclasses.replace(changed.tune, search=False))
        return changed


_POINT: dict[str, Any] = {"flipout": False}
_NO_DECAY: dict[str, Any] = {"weight_decay": 0.0}
_LOGITS: dict[str, Any] = {
    "predict": {"num_samples": 200}
}  # draws of the linearised network's logits cost next to nothing
_TEMPERED: dict[str, Any] = {"predict": {"temperature": True}}
_TUNED: dict[str, Any] = {"tune": {"search": True}}
# What Bayes by Backprop is without BLoB's parts: the KL's share of every step is the same, and G is AdamW's.
_BBB: dict[str, Any] = {"recipe": "decoupled", "kl_schedule": "uniform", "flipout": False}

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("mle", "MLE (plain LoRA)", "plain LoRA", {"guide": {"name": "mle"}, "train": _POINT | _NO_DECAY}),
        Method(
            "map",
            "MAP",
            "plain LoRA with weight decay 1e-5 on A and B, as in the paper",
            {"guide": {"name": "mle"}, "train": _POINT | {"weight_decay": 1e-5}},
        ),
        Method(
            "dropout", "MC dropout", "dropout on the adapters' input, at test as well", {"guide": {"name": "dropout"}}
        ),
        Method("ensemble", "Ensemble", "three plain LoRAs", {"guide": {"name": "ensemble"}}),
        Method(
            "bbb",
            "BBB",
            "Bayes by Backprop on A",
            {"guide": {"name": "mean_field"}, "train": _BBB},
            posterior_mean=True,
        ),
        Method(
            "laplace",
            "Laplace-LoRA",
            "Kronecker-factored Laplace about MAP, linearised predictive",
            {"guide": {"name": "laplace"}} | _LOGITS,
            after="map",
        ),
        Method(
            "laplace_held_out",
            "Laplace-LoRA, held out",
            "the same, its prior precision chosen by the NLL of held-out items",
            {"guide": {"name": "laplace", "prior_precision": "held_out"}} | _LOGITS,
            after="map",
            held_out=True,
        ),
        Method(
            "laplace_weights",
            "Laplace-LoRA, weights drawn",
            "the same posterior, with draws of the weights",
            {"guide": {"name": "laplace"}, "predict": {"sampling": "weights"}},
            after="map",
        ),
        Method(
            "laplace_diag",
            "Laplace-LoRA, diagonal",
            "diagonal Laplace about MAP, linearised predictive",
            {"guide": {"name": "laplace", "structure": "diag"}} | _LOGITS,
            after="map",
        ),
        Method(
            "laplace_last",
            "Laplace-LoRA, last block",
            "Kronecker-factored Laplace over the last block's adapters",
            {"guide": {"name": "laplace"}, "model": {"bayesian_layers": [-1]}} | _LOGITS,
            after="map",
        ),
        Method("blob", "BLoB", "the method of this library", posterior_mean=True),
        Method(
            "tfb",
            "TFB",
            "training-free: noise on plain LoRA by the singular values of B",
            {"guide": {"name": "tfb"}},
            after="mle",
        ),
        Method(
            "tfb_held_out",
            "TFB, held out",
            "the same, its noise bounded by the NLL of held-out items",
            {"guide": {"name": "tfb", "anchor": "held_out"}},
            after="mle",
            held_out=True,
        ),
        Method("scalabl", "ScalaBL", "r random numbers a layer", {"guide": {"name": "scalabl"}}, posterior_mean=True),
        Method(
            "low_rank",
            "Low rank",
            "Gaussian with low-rank plus diagonal covariance",
            {"guide": {"name": "low_rank"}},
            posterior_mean=True,
        ),
        Method(
            "temperature",
            "MLE + temperature",
            "plain LoRA, one temperature fitted on held-out items",
            {"guide": {"name": "mle"}, "train": _POINT | _NO_DECAY} | _TEMPERED,
            after="mle",
            held_out=True,
        ),
        Method(
            "blob_temperature",
            "BLoB + temperature",
            "BLoB, one temperature fitted on held-out items",
            _TEMPERED,
            after="blob",
            held_out=True,
        ),
        Method(
            "mle_tuned",
            "MLE, tuned",
            "plain LoRA, its steps chosen by the NLL of held-out items",
            {"guide": {"name": "mle"}, "train": _POINT | _NO_DECAY} | _TUNED,
            held_out=True,
        ),
        Method(
            "blob_tuned",
            "BLoB, tuned",
            "BLoB, its steps, KL rate, prior scale and layers chosen by the NLL of held-out items",
            _TUNED,
            posterior_mean=True,
            held_out=True,
        ),
        Method(
            "blob_last",
            "BLoB, last block",
            "only the last block's A matrices are random",
            {"model": {"bayesian_layers": [-1]}},
        ),
        Method(
            "blob_prior",
            "BLoB, prior learnt",
            "a LogNormal hyperprior on the prior scale",
            {"model": {"prior_scale_spread": 1.0}},
        ),
        Method(
            "blob_softplus",
            "BLoB, softplus",
            "ablation: standard deviation by softplus",
            {"guide": {"scale": "softplus"}},
        ),
        Method(
            "blob_no_flipout",
            "BLoB, no flipout",
            "ablation: one draw for the whole batch",
            {"train": {"flipout": False}},
        ),
        Method(
            "blob_no_reweighting",
            "BLoB, uniform KL",
            "ablation: the same KL in every step of a cycle",
            {"train": {"kl_schedule": "uniform"}},
        ),
        Method("blob_B", "BLoB on B", "ablation: B is random, A a point", {"model": {"bayesian": "B"}}),
        Method("blob_both", "BLoB on A and B", "ablation: both are random", {"model": {"bayesian": "both"}}),
    )
}

SYSTEMS = (
    *("mle", "map", "dropout", "ensemble", "bbb", "laplace", "laplace_held_out", "blob"),
    *("tfb", "tfb_held_out", "scalabl", "low_rank", "temperature"),
)
ABLATIONS = (
    "blob", "blob_softplus", "blob_no_flipout", "blob_no_reweighting", "blob_B", "blob_both", "blob_last", "blob_prior",
)  # fmt: skip


def _changed(section: Any, changes: Mapping[str, Any]) -> Any:
    """A section with changes; another guide keeps none of the settings of the one before."""
    if isinstance(section, GuideConfig):
        own = {} if changes.get("name", section.name) != section.name else {"name": section.name, **section.settings}
        return GuideConfig(**{**own, **changes})
    return dataclasses.replace(section, **changes)


def choose(names: Sequence[str]) -> list[Method]:
    """The methods of these names, each with the one it starts from before it.

    "systems" and "ablations" stand for several.

    Raises:
        ConfigError: a name is unknown, or there is none.

    Example:
        >>> [method.name for method in choose(["laplace", "blob"])]
        ['map', 'laplace', 'blob']
    """
    groups = {"systems": SYSTEMS, "ablations": ABLATIONS}
    wanted = [name for given in names for name in groups.get(given, (given,))]
    if not wanted:
        raise ConfigError(f"methods: expected some of {', '.join(METHODS)}; got none")
    chosen: dict[str, Method] = {}
    for name in wanted:
        if name not in METHODS:
            known = [*METHODS, *groups]
            raise ConfigError(f"methods: expected some of {', '.join(known)}; got {name!r}{did_you_mean(name, known)}")
        after = METHODS[name].after
        if after is not None:
            chosen.setdefault(after, METHODS[after])
        chosen.setdefault(name, METHODS[name])
    return list(chosen.values())
