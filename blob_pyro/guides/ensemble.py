"""A deep ensemble: several points, each trained on its own."""

from __future__ import annotations

from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from torch import Tensor, nn

from blob_pyro.data.examples import Batch
from blob_pyro.distributions import UnpenalisedDelta
from blob_pyro.errors import ConfigError, UnsupportedPosteriorError
from blob_pyro.guides.base import AdapterGuide, at_least
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.handlers import declare
from blob_pyro.model.layers.members import adapter_parameters, add_adapter


class EnsembleGuide(AdapterGuide):
    r"""q = 1/K sum_k delta(theta_k): a uniform mixture of K points over everything that is trained (A, B, heads).

    The members are K adapters of the network: the model's own is member 0, the others are called
    "<adapter>_member_1" and so on. `bp.fit_ensemble` trains each on its own, by maximum
    likelihood. Then

        p(y | x) = 1/K sum_k p(y | x, theta_k),

    which is what `PosteriorPredictive` gives at num_samples = K (or a multiple): it takes the members in turn. The
    mean over members, `loc` and num_samples = 0, is a network that nobody has trained; the members do not lie near
    one another, and it is there for completeness alone. The prior plays no part: its KL is 0.

    Under Pyro's own ELBOs and `bp.fit` a draw is a member chosen at random (site "member", auxiliary), and a step
    trains that member alone.

    Source: Lakshminarayanan et al. 2017 (arXiv 1612.01474); ENS in BLoB, arXiv 2406.11675, section 4.

    Valid for: models with bayesian="both". Flipout refuses it: a point has no perturbation to flip. With trainable
    heads `PosteriorPredictive` works and Pyro's own inference does not, since heads are no random variables there.
    Cost against plain LoRA: K times the parameters and the training; K forwards for a prediction (with trainable
    heads one draw a forward); the base network is there once.

    Args:
        model: the model; the members that it has not got yet are added to its network, at PEFT's own random start.
        num_members: number of members K.

    Raises:
        ConfigError: num_members is below 2, A or B is a point in the model, or the adapter's settings do not allow
            several of it.
    """

    title = "Ensemble"
    is_random = True
    bayesian = "both"
    ranges: ClassVar = {"num_members": at_least(2, "members")}

    def __init__(self, model: BayesianLoRA, num_members: int = 3) -> None:
        super().__init__(model)
        self.check(num_members=num_members)
        if model.bayesian != "both":
            raise ConfigError(
                f"guide ensemble: expected a model with bayesian='both'; got {model.bayesian!r}: A and B differ "
                "from member to member"
            )
        self.num_members = int(num_members)
        members = [self._parameters_of(adapter) for adapter in self.adapters]
        self.train_all()
        own = {id(parameter): key for key, parameter in members[0].items()}
        self._values = {
            site: tuple(member[own[id(model.location(site))]] for member in members) for site in model.sites
        }
        self._points = {
            name: tuple(member[_own_key(name, parameter, own)] for member in members)
            for name, parameter in model.point_parameters().items()
        }

    @property
    def adapters(self) -> list[str]:
        """Names of the members' adapters; the first is the model's own."""
        own = self.model.adapter
        return [own, *(f"{own}_member_{k}" for k in range(1, self.num_members))]

    def train_all(self) -> None:
        """Make every member trainable; PEFT's `set_adapter` leaves only the active one so."""
        self.model.network.set_requires_grad(self.adapters)

    def loc(self, site: str) -> Tensor:
        """Mean over the members at `site`, (r, n), or (m, r) for a lora_B, float32."""
        return self._stacked(site).mean(0)

    def scale(self, site: str) -> Tensor:
        """Standard deviation over the members at `site`, that of the mixture, float32."""
        return self._stacked(site).std(0, correction=0)

    def posterior(self, site: str) -> dist.Empirical:
        """The mixture at `site` alone, event_shape (r, n); of all sites together it is one member that is drawn."""
        values = self._stacked(site)
        return dist.Empirical(values, torch.zeros(self.num_members, device=values.device))

    def forward(self, batch: Batch | None = None) -> dict[str, Tensor]:
        """Declare the parameters to Pyro, draw a member and sample every site at it; returns site -> value.

        Raises:
            UnsupportedPosteriorError: the network has trainable heads.
        """
        if self._points:
            raise UnsupportedPosteriorError(
                f"guide ensemble: expected everything trainable to be a site; got the point parameter "
                f"{next(iter(self._points))}, of which each member has its own; answer with bp.PosteriorPredictive, "
                "and train with bp.fit_ensemble"
            )
        declare(self.location_parameters)
        self.sample_prior_scale()
        law = UniformMember(logits=torch.zeros(self.num_members, device=self.model.device))
        with poutine.mask(mask=False):  # the choice is part of the posterior alone, and costs nothing in an ELBO
            member = pyro.sample("member", law, infer={"is_auxiliary": True})
        return {
            site: pyro.sample(site, UnpenalisedDelta(self._at(site, member), self.model.prior(site)))
            for site in self.model.sites
        }

    def sample_draws(self, num_samples: int, batch: Batch | None = None) -> list[dict[str, Tensor]]:
        """The members in turn, heads with them: with num_samples = K each once."""
        return [self.member(position % self.num_members) for position in range(num_samples)]

    def member(self, position: int) -> dict[str, Tensor]:
        """Member `position` as `model.logits` takes it: site, and name of a point parameter -> its value."""
        tensors = self._values | self._points
        return {name: values[position].detach() for name, values in tensors.items()}

    def mean(self) -> dict[str, Tensor]:
        """The mean over members as `model.logits` takes it; a network that nobody has trained."""
        tensors = self._values | self._points
        return {name: torch.stack(values).mean(0).detach() for name, values in tensors.items()}

    def kl(self) -> Tensor:
        """0, as of any point that maximises the likelihood. Scalar."""
        return torch.zeros((), device=self.model.device)

    def location_parameters(self) -> dict[str, nn.Parameter]:
        """The matrices of every member, by Pyro name; those of the model's own adapter first."""
        found = super().location_parameters()
        for k in range(1, self.num_members):
            found |= {f"{site}.member_{k}": values[k] for site, values in self._values.items()}
        return found

    def scale_parameters(self) -> dict[str, nn.Parameter]:
        """None: the spread is that of the members."""
        return {}

    def settings(self) -> dict[str, Any]:
        """{"num_members": ...}."""
        return {"num_members": self.num_members}

    def _parameters_of(self, adapter: str) -> dict[str, nn.Parameter]:
        """The Parameters of a member, which is added where it is not there."""
        network, own = self.model.network, self.model.adapter
        if adapter not in network.peft_config:
            add_adapter(network, adapter, own)
        found, expected = adapter_parameters(network, adapter), adapter_parameters(network, own)
        if {key: p.shape for key, p in found.items()} != {key: p.shape for key, p in expected.items()}:
            raise ConfigError(
                f"adapter {adapter}: expected the layers and ranks of {own}; it has others; "
                "remove it with delete_adapter, or load another run"
            )
        return found

    def _stacked(self, site: str) -> Tensor:
        """(K, r, n) float32."""
        return torch.stack(self._values[site]).float()

    def _at(self, site: str, member: Tensor) -> Tensor:
        """The value at one member, or at many: the shape of `member` stands to the left of (r, n)."""
        if member.dim() == 0:
            return self._values[site][int(member)].float()
        return self._stacked(site)[member.to(self.model.location(site).device)]


class UniformMember(dist.Categorical):
    """A Categorical without parameters to train: a draw has nothing to be differentiated by.

    It therefore counts as reparametrised, which Pyro's `TraceMeanField_ELBO` asks of auxiliary sites.
    """

    has_rsample = True

    def rsample(self, sample_shape: Any = torch.Size()) -> Tensor:  # noqa: B008
        """A draw of shape sample_shape + batch_shape, int64."""
        drawn: Tensor = self.sample(sample_shape)
        return drawn


def _own_key(name: str, parameter: nn.Parameter, own: dict[int, str]) -> str:
    """What a point parameter is called in `adapter_parameters`."""
    if id(parameter) not in own:
        raise ConfigError(
            f"parameter {name}: expected one of the adapter, of which each member has its own; it belongs to the base; "
            "freeze it with requires_grad_(False)"
        )
    return own[id(parameter)]
