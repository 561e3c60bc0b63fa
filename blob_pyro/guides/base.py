"""What every guide over an adapter's random matrices has in common."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions.kl import kl_divergence

from blob_pyro.config.ranges import RANGES, check_range
from blob_pyro.data.examples import Batch
from blob_pyro.distributions import FullWeightNormal, UnpenalisedDelta
from blob_pyro.distributions.gaussian_kl import elementwise_normal
from blob_pyro.errors import ConfigError, UnsupportedPosteriorError
from blob_pyro.guides.descent import FIRST_TIME, go_down, with_slopes
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.handlers import LocalParamsMessenger, declare
from blob_pyro.model.layers.inject import base_weight, layer_path
from blob_pyro.model.prior import PRIOR_SCALE

Range = tuple[Callable[[Any], bool], str]
POSITIVE: Range = (lambda value: 0 < value < math.inf, "a number above 0")


def at_least(least: int, what: str) -> Range:
    """Whole numbers from `least` on.

    Example:
        >>> holds, words = at_least(2, "members")
        >>> holds(1), words
        (False, 'at least 2 members')
    """
    return lambda value: bool(value >= least), f"at least {least} {what}"


class AdapterGuide(nn.Module, ABC):
    """Abstract. A guide whose posterior at each site is centred at the adapter's own weight.

    The location is `model.location(site)`, the very Parameter that PEFT saves, loads and merges; a guide
    adds only what describes the spread about it. Each site is independent of the others. Where a docstring says
    A and (r, n), a site of B has (m, r).

    Args:
        model: the model; it is not registered as a submodule.

    Attributes:
        title: its name in tables, where no method of `config.methods.METHODS` has one for the run.
        is_random: whether draws differ; a point needs none.
        supports_flipout: whether the entries of each A are independent and symmetric about the location, so that
            flipping signs keeps the law; `bp.fit` trains without flipout otherwise.
        learns_prior_scale: whether a point for the prior scale is learned where the model has a law for it (type-II
            maximum a posteriori, in sigma_p itself). It needs a spread that is trained: with A a point too, the joint
            density has no maximum, as it grows without bound where A and sigma_p shrink to 0 together. Other guides
            hold sigma_p at `model.prior_scale`, without a penalty.
        log_prior_scale: that point's logarithm, a scalar Parameter; None where nothing is learned.
        bayesian: which factors of the adapter it takes where nobody says: "A", "B" or "both".
        ranges: setting -> whether a value of it can work, and what would, in words.
    """

    title: ClassVar[str]
    is_random: ClassVar[bool]
    supports_flipout: ClassVar[bool] = False
    learns_prior_scale: ClassVar[bool] = False
    bayesian: ClassVar[str] = "A"
    ranges: ClassVar[Mapping[str, Range]] = {}

    @classmethod
    def check(cls, **settings: Any) -> None:
        """Refuse settings out of their range; those that are not given have defaults that can work.

        Raises:
            ConfigError: names the setting and its range.
        """
        for name, (holds, expected) in cls.ranges.items():
            if name in settings and not holds(settings[name]):
                raise ConfigError(f"{name}: expected {expected}; got {settings[name]}")
        for name in settings.keys() & {key.removeprefix("guide.") for key in RANGES}:
            check_range(name, settings[name], *RANGES[f"guide.{name}"])

    def __init__(self, model: BayesianLoRA) -> None:
        super().__init__()
        self._turn = model.turns.guide_is_made(type(self).__name__, model.marks)
        self._model = (model,)  # a tuple hides the model from nn.Module's registration, as in Pyro's AutoGuide
        self.log_prior_scale: nn.Parameter | None = None
        if self.learns_prior_scale and model.hyperprior is not None:
            self.log_prior_scale = nn.Parameter(torch.tensor(math.log(model.prior_scale), device=model.device))

    @property
    def model(self) -> BayesianLoRA:
        """The model that this guide was made for."""
        return self._model[0]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`forward`; with gradients it is told to the model, without it is refused where `check_model` would."""
        if torch.is_grad_enabled():
            self.model.turns.guide_runs(self._turn)
        else:
            self.check_model(self.model)
        return super().__call__(*args, **kwargs)

    def goes_with_model(self) -> None:
        """Say that the posterior is about the adapter as it is now: what a guide that is fitted without SVI does."""
        self.model.turns.begin(self._turn, self.model.marks)

    def check_model(self, model: BayesianLoRA) -> None:
        """Raise where draws of this guide would not be of the posterior that it was fitted to.

        Args:
            model: the one that is to apply the draws.

        Raises:
            ConfigError: it is another than the guide's.
            UnsupportedPosteriorError: it was trained under another guide since.
        """
        if model is not self.model:
            raise ConfigError(
                f"guide: expected one that was made for this model; got a {type(self).__name__} of another (a copied "
                "guide has a copy of its model): use the two that belong together, guide.model and guide"
            )
        model.turns.check(self._turn, model.marks)

    def loc(self, site: str) -> Tensor:
        """Posterior mean at `site`, (r, n), or (m, r) for a lora_B, float32."""
        return self.model.location(site).float()

    @abstractmethod
    def scale(self, site: str) -> Tensor:
        """Posterior standard deviation at `site`, (r, n), or (m, r) for a lora_B, float32."""

    @abstractmethod
    def posterior(self, site: str) -> TorchDistributionMixin:
        """Law at `site`, event_shape (r, n), or (m, r) for a lora_B."""

    @abstractmethod
    def scale_parameters(self) -> dict[str, nn.Parameter]:
        """Trainable parameters of the spread, by Pyro name; empty for a point."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Arguments (beside the model) that make this guide again; JSON types only."""

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint stores beside the adapter, by name; of fixed shapes, made by the constructor."""
        return {**self.scale_parameters(), **self.prior_parameters()}

    @property
    def prior_scale(self) -> float | Tensor:
        """Standard deviation of the prior: `model.prior_scale`, or the learned point, a scalar with its gradient."""
        return self.model.prior_scale if self.log_prior_scale is None else self.log_prior_scale.exp()

    def prior(self, site: str) -> TorchDistributionMixin:
        """The prior at `site` under the present prior scale."""
        prior_scale = self.prior_scale
        return self.model.prior(site, prior_scale if isinstance(prior_scale, Tensor) else None)

    def prior_parameters(self) -> dict[str, nn.Parameter]:
        """The learned prior scale's logarithm by Pyro name, where there is one."""
        return {} if self.log_prior_scale is None else {"log_prior_scale": self.log_prior_scale}

    def mean_scale(self) -> Tensor | None:
        """Mean posterior standard deviation over the entries of all sites, scalar; None where no spread is trained."""
        if not self.scale_parameters():
            return None
        with torch.no_grad():
            sums = [self.scale(site).sum() for site in self.model.sites]
        count = sum(self.model.location(site).numel() for site in self.model.sites)
        return torch.stack([one.to(sums[0].device) for one in sums]).sum() / count

    def num_random(self) -> int:
        """How many numbers the KL weighs against the prior: the entries of all sites."""
        return sum(self.model.location(site).numel() for site in self.model.sites)

    def location_parameters(self) -> dict[str, nn.Parameter]:
        """The random matrices themselves, by Pyro name."""
        return {f"{site}.loc": self.model.location(site) for site in self.model.sites}

    def pyro_parameters(self) -> dict[str, nn.Parameter]:
        """All that the guide declares to Pyro, by Pyro name."""
        return self.location_parameters() | self.scale_parameters() | self.prior_parameters()

    def forward(self, batch: Batch | None = None) -> dict[str, Tensor]:
        """Declare the parameters to Pyro and sample every site; returns site -> value."""
        declare(self.pyro_parameters)
        self.sample_prior_scale()
        return {site: pyro.sample(site, law) for site, law in self.posteriors().items()}

    def sample_prior_scale(self) -> None:
        """The sample statement of the prior scale, where the model has one: a point."""
        if self.model.hyperprior is None:
            return
        value = torch.as_tensor(self.prior_scale, device=self.model.device)
        learned = self.log_prior_scale is not None
        law = dist.Delta(value) if learned else UnpenalisedDelta(value, self.model.hyperprior.law(value.device))
        pyro.sample(PRIOR_SCALE, law)

    def sample_draws(self, num_samples: int, batch: Batch | None = None) -> list[dict[str, Tensor]]:
        """Posterior draws as `model.logits` takes them, without gradients: site -> value.

        A guide that says more than the sites (heads of its own, say) has values by name of a point parameter as well.

        Args:
            num_samples: how many.
            batch: handed to the guide.
        """
        return traced_draws(self, self.model.sites, num_samples, batch)

    def mean(self) -> dict[str, Tensor] | None:
        """The posterior mean as `model.logits` takes it; None where it is the adapter's own weights."""
        return None

    @property
    def adapters(self) -> list[str]:
        """Names of the network's adapters that a checkpoint stores; the first is the model's own."""
        return [self.model.adapter]

    def posteriors(self) -> dict[str, TorchDistributionMixin]:
        """The law of every site, for one joint draw."""
        return {site: self.posterior(site) for site in self.model.sites}

    def kl(self) -> Tensor:
        """KL(posterior || prior) over all sites, total nats, from torch's registry. Scalar.

        With a learned prior scale, minus the log density of that point under its law is in it.
        """
        terms = [kl_divergence(self.posterior(site), self.prior(site)) for site in self.model.sites]
        return self._with_hyperprior(torch.stack([term.to(terms[0].device) for term in terms]).sum())

    @torch.no_grad()
    def descend_kl_(self, loc_time: float, scale_time: float) -> None:
        r"""Move the random matrices and the spread down the KL, in place; but for rounding the KL never rises.

        A matrix of mean M takes the gradient flow of M^2 / (2 sigma_p^2), :math:`M e^{-t / \sigma_p^2}`, exactly; the
        parameters of the spread go down their gradient in as many steps as it takes, by each of which the KL falls
        and the width changes by a seventh at most. To first order in the times both are one step of gradient descent
        at these rates.

        Args:
            loc_time: for the random matrices: learning rate times weight of the KL, at least 0.
            scale_time: for the parameters of the spread.
        """
        if loc_time > 0:
            _, slopes = with_slopes(self.kl, list(self.location_parameters().values()))
            for parameter, slope in slopes:
                reach = self._reach(loc_time).to(slope.device)
                parameter.sub_((reach * slope).to(parameter.dtype))
        if scale_time > 0 and self.scale_parameters():
            go_down(self.kl, list(self.scale_parameters().values()), self._width, scale_time, math.inf)

    @torch.no_grad()
    def kl_time(self, width: float) -> float:
        """How long the KL takes to bring the spread from where it is to a share of the prior's.

        Found by going there, and back.

        Args:
            width: the share, between 0 and 1.

        Returns:
            The `scale_time`; 0 where no spread is trained, or it is as wide already.
        """
        return self._kl_time(width, self.kl, self._width)

    def _kl_time_of_one(self, width: float) -> float:
        """`kl_time` of the first site alone, for a guide whose sites have spreads of their own that begin alike."""
        site = next(iter(self.model.sites))

        def kl() -> Tensor:
            return kl_divergence(self.posterior(site), self.prior(site))

        return self._kl_time(width, kl, lambda: self._width_at(site))

    def _kl_time(self, width: float, kl: Callable[[], Tensor], width_now: Callable[[], Tensor]) -> float:
        parameters = list(self.scale_parameters().values())
        if not parameters or self.width() >= width:
            return 0.0
        starts = [parameter.clone() for parameter in parameters]
        time = go_down(kl, parameters, width_now, FIRST_TIME, width)
        for parameter, start in zip(parameters, starts, strict=True):
            parameter.copy_(start)
        return time

    @torch.no_grad()
    def width(self) -> float:
        """How wide the posterior is: its spread as a share of the prior's, the mean over what the KL weighs."""
        return float(self._width())

    def _width(self) -> Tensor:
        """`width`, scalar, which nobody waits for."""
        scale = self.mean_scale()
        return torch.zeros(()) if scale is None else scale / self.prior_scale

    def _width_at(self, site: str) -> Tensor:
        """The same of one site."""
        return (self.scale(site).mean() / self.prior_scale).detach()

    def _reach(self, loc_time: float) -> Tensor:
        """sigma_p^2 (1 - e^(-t / sigma_p^2)): how far along the gradient of M^2 / (2 sigma_p^2) its flow comes."""
        variance = torch.as_tensor(self.prior_scale, dtype=torch.float32).detach() ** 2
        return -variance * torch.expm1(-loc_time / variance)

    def _with_hyperprior(self, kl: Tensor) -> Tensor:
        """`kl` minus the log density of the learned prior scale."""
        if self.log_prior_scale is None or self.model.hyperprior is None:
            return kl
        law = self.model.hyperprior.law(kl.device)
        penalty: Tensor = law.log_prob(self.log_prior_scale.to(kl.device).exp())
        return kl - penalty

    def full_weight_posterior(self, site: str) -> FullWeightNormal:
        """Law of the whole weight W0 + (lora_alpha / r) B A at a site of A, event_shape (m, n) (Thm 3.1).

        Raises:
            ConfigError: the layer's B is random: the theorem is about a random A and a point B.
            UnsupportedPosteriorError: the posterior is not a Normal with independent entries, as the theorem has it.
        """
        layer, adapter = self.model.sites[site], self.model.adapter
        path = layer_path(site)
        if f"{path}.lora_B" in self.model.sites:
            raise ConfigError(
                f"site {site}: expected a random A and a point B for the law of the whole weight; B of this layer is "
                "random; take bayesian='A'"
            )
        try:
            loc, scale = elementwise_normal(self.posterior(site))
        except NotImplementedError as error:
            raise UnsupportedPosteriorError(
                f"site {site}: the law of the whole weight (theorem 3.1): {error}"
            ) from error
        B = layer.lora_B[adapter].weight.float() * float(layer.scaling[adapter])
        return FullWeightNormal(base_weight(layer), B, loc, scale)


def traced_draws(
    guide: Callable[..., Any], sites: Iterable[str], num_samples: int, batch: Batch | None = None
) -> list[dict[str, Tensor]]:
    """What any Pyro guide samples at `sites`, once for each draw; Pyro's param store is left alone."""
    names = list(sites)
    with torch.no_grad(), LocalParamsMessenger():
        traces: Iterable[Any] = (poutine.trace(guide).get_trace(batch) for _ in range(num_samples))
        return [{site: trace.nodes[site]["value"].detach() for site in names} for trace in traces]
