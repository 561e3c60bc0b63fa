"""Training-free Bayesianisation: noise on a trained adapter, scaled by the singular values of B."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal, Self, cast

import pyro
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor

from blob_pyro.config.checks import unknown_name
from blob_pyro.data.batches.loaders import batches_of
from blob_pyro.data.examples import Batch
from blob_pyro.distributions import ColumnNormal
from blob_pyro.errors import ConfigError, DataError, UnsupportedPosteriorError
from blob_pyro.guides.base import at_least, traced_draws
from blob_pyro.guides.descent import numbers
from blob_pyro.guides.only_A import refuse_lora_B
from blob_pyro.guides.post_hoc import PostHocGuide
from blob_pyro.guides.sigma_search import SigmaSearch, search_sigma
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.system.progress import Tell, counted

Draws = dict[str, Tensor]
ANCHORS = ("train", "held_out")


class TFBGuide(PostHocGuide):
    r"""q(A): A = M + sigma (B^T B)^(-1/2) E, E ~ Normal(0, 1) elementwise, about a trained adapter (B, M).

    With B = U diag(d) V^T the adapter equals B' = U diag(d), A' = V^T M; noise of standard deviation sigma / d_i on row
    i of A' makes that of the whole weight, B A, sigma U E': the same sigma in every direction that the adapter can
    move, whatever the size of B (columns are independent, each with covariance sigma^2 U U^T; with LoRA's scaling s in
    the weight it is (s sigma)^2 U U^T). In the adapter's own coordinates, which stay untouched, a column of A has
    covariance sigma^2 (B^T B)^(-1): rows are correlated. Draws take its symmetric root V diag(sigma / d) V^T, which
    does not depend on the signs and order that an SVD chooses.

    `fit` finds the one number sigma: the largest for which the NLL of the training items (of held-out items with
    anchor="held_out") changes by no more than `tolerance`, relative to the adapter's own. The NLL is that of the mean
    probability over `num_samples` draws, the noise E of which is the same for every sigma (and every item), so that the
    search is reproducible and the NLL smooth in sigma. The search follows the power of sigma that the change is of,
    with bisection as the fallback, until it knows the largest sigma of [min_sigma, max_sigma] to 1.2 %, where the
    change grows with sigma: three to five NLLs where the change is a power of sigma, at most `num_steps` anyway (see
    `search_sigma`). A few hundred items do.

    The KL against Normal(0, sigma_p^2) is analytic, total nats; nothing minimises it.

    Differences from the authors' public code: it searches [0.001, 0.015] in 5 steps, counts the NLL of the adapter's
    own answers instead of the labels, adds 1e-6 to d, and divides the relative change by the number of items n, so that
    its 0.003 allows 0.003 n. Where the adapter has fitted the items to an NLL near 0, a relative change of 0.3 % is
    next to none, and so is sigma: take anchor="held_out", or raise `tolerance`.

    Source: Shi et al. 2024 (arXiv 2412.05723), sections 3 and 4; tolerance and num_samples are its settings.

    Valid for: a trained adapter with a B of full column rank at every site (so r of at most m); several draws in one
    forward. Flipout refuses it: the entries of a column are correlated. On a bfloat16 network the cancellation in
    B (B^T B)^(-1/2) is rounded at 2^-8: with d_1 / d_r above some 100 that noise is no longer isotropic.
    Cost against plain LoRA: no parameter, no training; at most (num_steps * num_samples + 1) forwards over the training
    items; for each layer and draw a QR of B (m, r).

    Args:
        model: the model.
        tolerance: largest relative change of the NLL.
        anchor: whose NLL, "train" or "held_out".
        num_samples: draws under which the NLL is taken.
        min_sigma, max_sigma: where the search begins.
        num_steps: how many sigmas are tried at most; at 9 or fewer every one halves the interval.
        seed: of the noise of the search.

    Attributes:
        search: what `fit` saw; None before it, and in a loaded guide (a run stores sigma alone).

    Raises:
        ConfigError: a setting out of range, or the model has random B matrices.
    """

    title = "TFB"
    trained_as = "mle"
    ranges: ClassVar = {
        "tolerance": (lambda value: value > 0, "a relative change above 0"),
        "num_samples": at_least(1, "draw"),
        "num_steps": at_least(1, "step"),
    }

    def __init__(
        self,
        model: BayesianLoRA,
        tolerance: float = 0.003,
        anchor: Literal["train", "held_out"] = "train",
        *,
        num_samples: int = 10,
        min_sigma: float = 1e-5,
        max_sigma: float = 1.0,
        num_steps: int = 14,
        seed: int = 0,
    ) -> None:
        super().__init__(model)
        refuse_lora_B("tfb", model.sites)
        model.class_likelihood("guide tfb")
        self.check(tolerance=tolerance, num_samples=num_samples, num_steps=num_steps)
        if not 0 < min_sigma < max_sigma:
            raise ConfigError(f"min_sigma: expected 0 < min_sigma < max_sigma; got {min_sigma} and {max_sigma}")
        if anchor not in ANCHORS:
            raise unknown_name("anchor", ANCHORS, anchor)
        self.tolerance, self.num_samples, self.anchor = float(tolerance), int(num_samples), anchor
        self.min_sigma, self.max_sigma = float(min_sigma), float(max_sigma)
        self.num_steps, self.seed = int(num_steps), int(seed)
        self.search: SigmaSearch | None = None
        self.sigma: Tensor
        self.register_buffer("sigma", torch.zeros(()))  # on the CPU: the host looks at it

    def scale(self, site: str) -> Tensor:
        """Posterior standard deviation of A at `site`, (r, n), float32."""
        return self.posterior(site).variance.sqrt()

    def posterior(self, site: str) -> ColumnNormal:
        """Gaussian with correlated rows, event_shape (r, n); B as it is now, without gradients.

        Raises:
            UnsupportedPosteriorError: sigma is not known yet, or B has no full column rank.
        """
        return self._laws([site])[site]

    def posteriors(self) -> dict[str, TorchDistributionMixin]:
        """The law of every site; the host waits once for the ranks of all B."""
        return dict(self._laws(self.model.sites))

    def sample_draws(self, num_samples: int, batch: Batch | None = None) -> list[Draws]:
        """As `AdapterGuide.sample_draws`; the laws are made once for all draws."""
        self.check_model(self.model)
        with torch.no_grad():
            laws = self.posteriors()
        return traced_draws(
            lambda batch: {site: pyro.sample(site, law) for site, law in laws.items()},
            self.model.sites,
            num_samples,
            batch,
        )

    def fit(self, train: Iterable[Batch], held_out: Iterable[Batch] | None = None, *, progress: bool = False) -> Self:
        """Search sigma on `train`, or on `held_out`, in evaluation mode; the adapter and the global random state stay.

        Args:
            train, held_out: batches with labels, one of which the anchor takes.
            progress: show how many forwards were made; how many it takes is not known before.

        Raises:
            ConfigError: B has no full column rank at some site (a fresh adapter, say), no sigma that was tried is
                within the tolerance, or there are no held-out items for anchor="held_out".
            DataError: no item, or one without a label.
        """
        anchor = train if self.anchor == "train" else held_out
        if anchor is None:
            raise ConfigError(
                "guide tfb: expected held-out items for anchor='held_out'; got none; "
                "set data.num_validation, or take anchor='train'"
            )
        batches = [batch.to(self.model.device) for batch in batches_of(anchor) if len(batch)]
        _check_labels(batches, self.model)
        interval = (self.min_sigma, self.max_sigma)
        with (
            torch.no_grad(),
            self.model.evaluating(),
            counted(None, "tfb, search of sigma", unit="forwards", show=progress) as tell,
        ):
            mean_nll = self.nll(batches, [{}], tell)
            try:
                self.search = search_sigma(
                    lambda sigma: self.nll(batches, self.draws(sigma), tell),
                    mean_nll,
                    self.tolerance,
                    interval,
                    self.num_steps,
                )
            except UnsupportedPosteriorError as error:
                raise ConfigError(str(error)) from error
        self.sigma.fill_(self.search.sigma)
        self.goes_with_model()
        return self

    def settings(self) -> dict[str, Any]:
        """{"tolerance": ..., "num_samples": ..., "anchor": ..., and those of the search}."""
        names = ("tolerance", "num_samples", "anchor", "min_sigma", "max_sigma", "num_steps", "seed")
        return {name: getattr(self, name) for name in names}

    def tensors(self) -> dict[str, Tensor]:
        """{"sigma": ()}: the rest is in the adapter."""
        return {"sigma": self.sigma}

    def draws(self, sigma: float) -> list[Draws]:
        """The draws (site -> A) of the search at one sigma: those of another sigma with the noise stretched."""
        generator = torch.Generator().manual_seed(self.seed)
        roots = self._roots(self.model.sites)
        return [
            {site: self.loc(site) + sigma * _noise(self.loc(site), root, generator) for site, root in roots.items()}
            for _ in range(self.num_samples)
        ]

    def nll(self, batches: Sequence[Batch], draws: Sequence[Draws], tell: Tell | None = None) -> float:
        """Minus the log of the labels' mean probability over draws, mean nats per item; {} is the adapter itself.

        Args:
            batches: items with labels.
            draws: site -> A of each.
            tell: is told of each forward.
        """
        total = sum(float(self._log_mean_probs(batch, draws, tell).sum()) for batch in batches)
        return -total / sum(len(batch) for batch in batches)

    def _log_mean_probs(self, batch: Batch, draws: Sequence[Draws], tell: Tell | None) -> Tensor:
        """(B,) log of the labels' mean probability over draws."""
        found = []
        for draw in draws:
            found.append(self.model.logits(batch, draw).double().log_softmax(-1))
            if tell is not None:
                tell()
        log_probs = torch.stack(found)
        law = self.model.class_likelihood("guide tfb").label_law(log_probs.logsumexp(0) - math.log(len(draws)))
        return law.log_prob(cast(Tensor, batch.labels)).cpu()

    def _laws(self, sites: Iterable[str]) -> dict[str, ColumnNormal]:
        if float(self.sigma) == 0:
            raise UnsupportedPosteriorError(
                "guide tfb: expected a sigma; got none; call fit, or load a run that has one"
            )
        sigma = self.sigma.cpu()  # a number for any device
        return {site: ColumnNormal(self.loc(site), sigma * root) for site, root in self._roots(sites).items()}

    def _roots(self, sites: Iterable[str]) -> dict[str, Tensor]:
        """site -> (r, r) `_inverse_root` of B as it is now; the host waits once.

        Raises:
            UnsupportedPosteriorError: a B has no full column rank, up to the rounding of its entries.
        """
        weights = {site: self.model.sites[site].lora_B[self.model.adapter].weight.detach() for site in sites}
        found = {site: _inverse_root(B) for site, B in weights.items()}
        for (site, B), rank in zip(weights.items(), numbers(*(rank for _, rank in found.values())), strict=True):
            if rank < B.shape[1]:
                raise UnsupportedPosteriorError(
                    f"guide tfb: expected a trained adapter, its lora_B of full column rank; got rank {int(rank)} "
                    f"of {B.shape[1]} at {site}; train it first (a fresh lora_B is zero), or take a smaller r"
                )
        return {site: root for site, (root, _) in found.items()}


def _inverse_root(B: Tensor) -> tuple[Tensor, Tensor]:
    """(r, r) the symmetric (B^T B)^(-1/2) = V diag(1 / d) V^T, float32, and the rank of B, scalar."""
    # QR first: the SVD is then of (r, r). In float64, since 1 / d is taken of the smallest singular value.
    d, V = torch.linalg.svd(torch.linalg.qr(B.double()).R, full_matrices=False)[1:]
    rank = (d > torch.finfo(B.dtype).eps * math.sqrt(B.numel()) * d.max()).sum()
    return (V.mT @ (V / d.unsqueeze(-1))).float(), rank


def _noise(loc: Tensor, root: Tensor, generator: torch.Generator) -> Tensor:
    """(B^T B)^(-1/2) E, (r, n); E is drawn on the CPU, so that it is the same on every device."""
    return root @ torch.randn(loc.shape, generator=generator).to(root)


def _check_labels(batches: Sequence[Batch], model: BayesianLoRA) -> None:
    if not batches:
        raise DataError("guide tfb: expected items to search sigma on; got none")
    for batch in batches:
        if batch.labels is None:
            raise DataError("guide tfb: expected batches with labels to search sigma on; got labels=None")
        model.likelihood.check_labels(batch.labels)
