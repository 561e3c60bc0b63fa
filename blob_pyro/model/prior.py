"""A law of the prior scale: which ones there are, and how a file names them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import pyro.distributions as dist
import torch
from torch.distributions import Distribution, TransformedDistribution

from blob_pyro.errors import ConfigError

PRIOR_SCALE = "prior_scale"
"""Pyro site of the prior scale, where it has a law."""

_ARGUMENTS: dict[str, tuple[str, ...]] = {
    "Gamma": ("concentration", "rate"),
    "HalfCauchy": ("scale",),
    "HalfNormal": ("scale",),
    "LogNormal": ("loc", "scale"),
}


@dataclass(frozen=True)
class Hyperprior:
    """The law of the prior scale sigma_p, a single positive number.

    Attributes:
        name: LogNormal, HalfNormal, HalfCauchy or Gamma, as in Pyro and torch.
        arguments: those of its class, by name.

    Raises:
        ConfigError: another law, or arguments that cannot be.

    Example:
        >>> law = Hyperprior.of(dist.HalfNormal(0.5))
        >>> law.describe()
        {'name': 'HalfNormal', 'scale': 0.5}
        >>> round(law.centre, 4)
        0.3372
    """

    name: str
    arguments: dict[str, float]

    def __post_init__(self) -> None:
        if self.name not in _ARGUMENTS:
            raise ConfigError(f"prior_scale: expected a number or a law among {', '.join(_ARGUMENTS)}; got {self.name}")
        if set(self.arguments) != set(_ARGUMENTS[self.name]):
            expected = " and ".join(_ARGUMENTS[self.name])
            raise ConfigError(f"prior_scale: expected a {self.name} with {expected}; got {', '.join(self.arguments)}")
        for name, value in self.arguments.items():
            if not (math.isfinite(value) and (name == "loc" or value > 0)):
                kind = "a finite number" if name == "loc" else "a finite number above 0"
                raise ConfigError(f"prior_scale: expected {kind} as {name} of its {self.name}; got {value}")

    @classmethod
    def of(cls, law: Distribution) -> Hyperprior:
        """The record of one of Pyro's or torch's distributions; it must be the law of one number."""
        name = type(law).__name__
        if law.batch_shape or law.event_shape:
            raise ConfigError(
                f"prior_scale: expected the law of one number; got a {name} of shape "
                f"{tuple(law.batch_shape + law.event_shape)}"
            )
        return cls(name, {argument: float(getattr(law, argument)) for argument in _ARGUMENTS.get(name, ())})

    @classmethod
    def from_description(cls, described: dict[str, Any]) -> Hyperprior:
        """What `describe` wrote."""
        return cls(described["name"], {name: value for name, value in described.items() if name != "name"})

    def describe(self) -> dict[str, Any]:
        """Name and arguments in one JSON object."""
        return {"name": self.name, **self.arguments}

    def law(self, device: torch.device | str = "cpu") -> Any:
        """The Pyro distribution, float32."""
        arguments = {name: torch.tensor(value, device=device) for name, value in self.arguments.items()}
        # unvalidated: a NaN is to become a non-finite loss, not an error inside a Pyro model
        law = getattr(dist, self.name)(**arguments, validate_args=False)
        if isinstance(law, TransformedDistribution):  # does not hand that on to the law below it
            law.base_dist._validate_args = False
        return law

    @property
    def centre(self) -> float:
        """Where a point for sigma_p starts: the median; the mean of a Gamma, whose median has no formula."""
        law = self.law()
        return float(law.mean if self.name == "Gamma" else law.icdf(torch.tensor(0.5)))
