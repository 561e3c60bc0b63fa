"""What systems are: `METHODS`, each a few changes to one configuration, and which of them a configuration is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from blob_pyro.config.checks import did_you_mean
from blob_pyro.config.file import flat_settings
from blob_pyro.config.sections import GuideConfig, RunConfig
from blob_pyro.errors import ConfigError

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
        """`config` with this method's changes; seed and output stay."""
        sections = {section: _changed(getattr(config, section), changes) for section, changes in self.changes.items()}
        return dataclasses.replace(config, **sections)

    def fits(self, config: RunConfig) -> bool:
        """Whether `config` has all of this method's changes."""
        settings = flat_settings(config)
        wanted = {
            f"{section}.{key}": value for section, changes in self.changes.items() for key, value in changes.items()
        }
        return all(settings.get(name) == value for name, value in wanted.items())


_POINT: dict[str, Any] = {"flipout": False}
_NO_DECAY: dict[str, Any] = {"weight_decay": 0.0}
_LOGITS: dict[str, Any] = {
    "predict": {"num_samples": 200}
}  # draws of the linearised network's logits cost next to nothing
_TEMPERED: dict[str, Any] = {"predict": {"temperature": True}}
_TUNED: dict[str, Any] = {"tune": {"search": True}}
_UNTUNED: dict[str, Any] = {"tune": {"search": False}}  # no single training makes them
_BLOB: dict[str, Any] = {"guide": {"name": "blob"}}
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
        Method("ensemble", "Ensemble", "three plain LoRAs", {"guide": {"name": "ensemble"}} | _UNTUNED),
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
            {"guide": {"name": "laplace"}} | _LOGITS | _UNTUNED,
            after="map",
        ),
        Method(
            "laplace_held_out",
            "Laplace-LoRA, held out",
            "the same, its prior precision chosen by the NLL of held-out items",
            {"guide": {"name": "laplace", "prior_precision": "held_out"}} | _LOGITS | _UNTUNED,
            after="map",
            held_out=True,
        ),
        Method(
            "laplace_weights",
            "Laplace-LoRA, weights drawn",
            "the same posterior, with draws of the weights",
            {"guide": {"name": "laplace"}, "predict": {"sampling": "weights"}} | _UNTUNED,
            after="map",
        ),
        Method(
            "laplace_diag",
            "Laplace-LoRA, diagonal",
            "diagonal Laplace about MAP, linearised predictive",
            {"guide": {"name": "laplace", "structure": "diag"}} | _LOGITS | _UNTUNED,
            after="map",
        ),
        Method(
            "laplace_last",
            "Laplace-LoRA, last block",
            "Kronecker-factored Laplace over the last block's adapters",
            {"guide": {"name": "laplace"}, "model": {"bayesian_layers": [-1]}} | _LOGITS | _UNTUNED,
            after="map",
        ),
        Method("blob", "BLoB", "the method of this library", _BLOB, posterior_mean=True),
        Method(
            "tfb",
            "TFB",
            "training-free: noise on plain LoRA by the singular values of B",
            {"guide": {"name": "tfb"}} | _UNTUNED,
            after="mle",
        ),
        Method(
            "tfb_held_out",
            "TFB, held out",
            "the same, its noise bounded by the NLL of held-out items",
            {"guide": {"name": "tfb", "anchor": "held_out"}} | _UNTUNED,
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
            _BLOB | _TEMPERED,
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
            "BLoB, its steps, KL width, prior scale and layers chosen by the NLL of held-out items",
            _BLOB | _TUNED,
            posterior_mean=True,
            held_out=True,
        ),
        Method(
            "blob_last",
            "BLoB, last block",
            "only the last block's A matrices are random",
            _BLOB | {"model": {"bayesian_layers": [-1]}},
        ),
        Method(
            "blob_prior",
            "BLoB, prior learnt",
            "a LogNormal hyperprior on the prior scale",
            _BLOB | {"model": {"prior_scale_spread": 1.0}},
        ),
        Method(
            "blob_softplus",
            "BLoB, softplus",
            "ablation: standard deviation by softplus",
            {"guide": {"name": "blob", "scale": "softplus"}},
        ),
        Method(
            "blob_no_flipout",
            "BLoB, no flipout",
            "ablation: one draw for the whole batch",
            _BLOB | {"train": {"flipout": False}},
        ),
        Method(
            "blob_no_reweighting",
            "BLoB, uniform KL",
            "ablation: the same KL in every step of a cycle",
            _BLOB | {"train": {"kl_schedule": "uniform"}},
        ),
        Method("blob_B", "BLoB on B", "ablation: B is random, A a point", _BLOB | {"model": {"bayesian": "B"}}),
        Method("blob_both", "BLoB on A and B", "ablation: both are random", _BLOB | {"model": {"bayesian": "both"}}),
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


def method_of(config: RunConfig) -> Method | None:
    """The method that a run is of; None where it has the changes of none.

    A run that `compare` made lies in METHOD/seedSEED of its directory: what all of its runs share may make one method's
    settings equal to another's. Of other runs it is the method with the most changes, all of which they have.

    Example:
        >>> from blob_pyro.config.sections import DataConfig, ModelConfig
        >>> found = method_of(RunConfig(DataConfig(task="boolq"), ModelConfig(bayesian="B")))
        >>> found.title if found else None
        'BLoB on B'
    """
    place = Path(config.output).parts[-2:]
    fitting = [method for method in METHODS.values() if method.fits(config)]
    return max(fitting, key=lambda method: _rank(method, place, config.seed), default=None)


def _rank(method: Method, place: tuple[str, ...], seed: int) -> tuple[bool, int]:
    return place == (method.name, f"seed{seed}"), sum(map(len, method.changes.values()))


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
