"""Laplace-LoRA: a Gaussian about a trained adapter, from the curvature of its likelihood."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self, cast

import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn

from blob_pyro.config.checks import unknown_name
from blob_pyro.data.batches.loaders import batches_of, num_items
from blob_pyro.data.examples import Batch
from blob_pyro.distributions.label_categorical import LabelCategorical
from blob_pyro.errors import ConfigError, DataError, UnsupportedPosteriorError
from blob_pyro.guides.base import at_least
from blob_pyro.guides.curvature import (
    STRUCTURES,
    Curvature,
    Linearised,
    draw_probs,
    evidence_precision,
    fisher_root,
    linearise_batches,
    log_evidence,
    logit_covariance,
)
from blob_pyro.guides.post_hoc import PostHocGuide
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.handlers import check_gradients
from blob_pyro.model.likelihoods import ClassLikelihood
from blob_pyro.system.progress import counted

HELD_OUT_PRECISIONS = torch.logspace(-2, 6, 33, dtype=torch.float64)
"""Prior precisions that the rule "held_out" tries: four a decade, prior scales from 10 down to 0.001."""

HELD_OUT_SAMPLES = 512
"""Draws of the logits under which the rule "held_out" takes the NLL."""


class LaplaceGuide(PostHocGuide):
    r"""vec W ~ Normal(vec M, (H + lambda I)^-1) at every site, M the trained adapter's own weight.

    H is the generalised Gauss-Newton matrix, here the Fisher information, of the negative log-likelihood summed over
    the training items, at M; the expectation over the model's own labels is exact. Its structure is

        "kron":  H = F_in (x) F_out, the larger factor cut to its `rank` leading eigenpairs (KroneckerCurvature),
        "diag":  the diagonal of the exact matrix (DiagonalCurvature).

    lambda, one prior precision for all sites, is found by the rule `prior_precision`:

        "evidence":  the maximum of Laplace's approximation of the marginal likelihood (`log_evidence`), by bisection;
        "held_out":  the least NLL of the linearised predictive on held-out items, on a grid of 33 from 0.01 to 1e6.

    The model's own prior scale plays no part but in the KL, which is analytic against it. The adapter should be at a
    maximum of the posterior; a MAP or MLE adapter that stopped early is taken as one.

    Source: Yang et al. 2024 (arXiv 2308.13111), which takes A and B (`bayesian="both"`), rank 10 and the linearised
    predictive (`bp.LinearisedPredictive`); its last-layer variant is a model with bayesian_layers=[-1]. Draws of the
    weights (`bp.PosteriorPredictive`) are usually the worse answer: far from M the network is not linear.

    Valid for: a trained adapter, any set of sites. Flipout refuses "kron".
    Cost against plain LoRA: no parameter, no training; one forward and K - 1 backward passes over the training items,
    and as many over the test items for the linearised predictive. Kept, at rank 10: "kron" 10 (d + 1) + r (r + 1)
    numbers for a site of size r x d; "diag" r d. SmolLM2-135M in bfloat16, A and B of q_proj and v_proj, r 8, two CPU
    cores: 17 s for 120 tweets of some 39 tokens, of which 11 s are passes; 85 ms for each linearised answer.

    Args:
        model: the model.
        structure: "kron" or "diag".
        rank: eigenpairs kept of a large factor (paper: n_kfac); not used by "diag".
        prior_precision: "evidence" or "held_out".

    Raises:
        ConfigError: a setting out of range, or a likelihood with class weights.
    """

    title = "Laplace-LoRA"
    trained_as = "map"
    bayesian = "both"

    prior_precision: Tensor
    log_likelihood: Tensor

    ranges: ClassVar = {"rank": at_least(1, "eigenpair")}

    def __init__(
        self,
        model: BayesianLoRA,
        structure: Literal["kron", "diag"] = "kron",
        rank: int = 10,
        prior_precision: Literal["evidence", "held_out"] = "evidence",
    ) -> None:
        super().__init__(model)
        _check_key("structure", structure, STRUCTURES)
        _check_key("prior_precision", prior_precision, PRECISION_RULES)
        self.check(rank=rank)
        likelihood = model.class_likelihood("guide laplace")
        if likelihood.class_weights is not None:
            raise ConfigError(
                "guide laplace: expected a likelihood without class weights, under which the curvature is no Fisher "
                f"information; got {list(likelihood.class_weights)}: leave them out, or take another guide"
            )
        self.structure, self.rank, self.rule = structure, int(rank), PRECISION_RULES[prior_precision]
        self.curvatures = nn.ModuleList(
            STRUCTURES[structure](model.location(site).shape, self.rank, model.location(site).device)
            for site in model.sites
        )
        self._position = {site: position for position, site in enumerate(model.sites)}
        # float64 on the CPU: two numbers, of which the second is a difference of large ones in the evidence
        self.register_buffer("prior_precision", torch.zeros((), dtype=torch.float64))
        self.register_buffer("log_likelihood", torch.zeros((), dtype=torch.float64))

    def scale(self, site: str) -> Tensor:
        """Marginal posterior standard deviation at `site`, (r, n), or (m, r) for a lora_B, float32."""
        return self.posterior(site).variance.sqrt()

    def posterior(self, site: str) -> TorchDistributionMixin:
        """`KroneckerNormal` or independent Normals, event_shape (r, n), or (m, r) for a lora_B.

        Raises:
            UnsupportedPosteriorError: the curvature is not known yet.
        """
        self._expect_fitted()
        return self.curvature(site).law(self.loc(site), self.prior_precision)

    def fit(self, train: Iterable[Batch], held_out: Iterable[Batch] | None = None, *, progress: bool = False) -> Self:
        """Measure the curvature on `train`, in evaluation mode, and find the prior precision by the guide's rule.

        Args:
            train: batches with labels, of the items that the adapter was trained on, each once.
            held_out: such batches of other items; for the rule "held_out".
            progress: show progress.

        Raises:
            ConfigError: the rule needs held-out items, or the adapter is untrained (see `evidence_precision`); or
                torch.inference_mode is around the call.
            DataError: no item, or one without a label.
        """
        check_gradients("fit", inside=True)
        if self.rule.needs_held_out and held_out is None:
            raise ConfigError(
                "guide laplace: expected held-out items for prior_precision='held_out'; got none; "
                "set data.num_validation, or take prior_precision='evidence'"
            )
        with torch.no_grad(), torch.autocast(self.model.device.type, enabled=False):
            sums = {site: self.curvature(site).new_sum() for site in self.model.sites}
            log_likelihood = 0.0
            for labels, part in self._labelled(train, "laplace, curvature", progress):
                log_likelihood += float(self._label_log_probs(part.logits, labels).sum())
                root = fisher_root(part.logits)
                for site, total in sums.items():
                    total.add(part.sites[site], root)
            self.prior_precision.zero_()  # until the rule is done, the guide has no law
            for site, total in sums.items():
                self.curvature(site).store(total)
            self.log_likelihood.fill_(log_likelihood)
            self.prior_precision.fill_(self.rule.find(self, held_out, progress))
        self.goes_with_model()
        return self

    def log_evidence(self, prior_precision: float | None = None) -> float:
        """Laplace's log marginal likelihood of the training items, total nats.

        Args:
            prior_precision: another value than the guide's own.
        """
        self._expect_fitted()
        precision = float(self.prior_precision) if prior_precision is None else prior_precision
        return log_evidence(float(self.log_likelihood), self.loc_square(), self.eigenvalues(), precision)

    def curvature(self, site: str) -> Curvature:
        """H at `site`."""
        return cast(Curvature, self.curvatures[self._position[site]])

    def eigenvalues(self) -> Tensor:
        """Those of H that are not left out as zero, of all sites, flat, float64, on the CPU."""
        return torch.cat([self.curvature(site).eigenvalues().cpu() for site in self.model.sites])

    def loc_square(self) -> float:
        """|M|^2 over all sites."""
        return sum(float(self.model.location(site).detach().double().square().sum()) for site in self.model.sites)

    def held_out_nll(self, held_out: Iterable[Batch], precisions: Tensor, *, progress: bool = False) -> Tensor:
        """(G,) mean nats per item of the linearised predictive under each of (G,) prior precisions, float64.

        Every precision and item sees the same `HELD_OUT_SAMPLES` draws of noise, from a generator of its own.
        """
        noise = torch.randn(
            HELD_OUT_SAMPLES, self._likelihood().num_classes - 1, generator=torch.Generator().manual_seed(0)
        )
        total, count = torch.zeros(len(precisions), dtype=torch.float64), 0
        with torch.no_grad():
            for labels, part in self._labelled(held_out, "laplace, held out", progress):
                laws = {site: self.curvature(site).law(self.loc(site), precisions) for site in self.model.sites}
                covariance = logit_covariance(laws, part)
                probs = draw_probs(part.logits, covariance, noise.to(part.logits)).mean(0)  # (G, B, K)
                law = LabelCategorical(probs.cpu().double().log(), validate_args=False)
                total -= law.log_prob(labels.cpu()).sum(-1)
                count += len(labels)
        return total / count

    def settings(self) -> dict[str, Any]:
        """{"structure": ..., "rank": ..., "prior_precision": ...}."""
        return {"structure": self.structure, "rank": self.rank, "prior_precision": self.rule.name}

    def tensors(self) -> dict[str, Tensor]:
        """Prior precision, log-likelihood of the training items, and each site's curvature."""
        found = {"prior_precision": self.prior_precision, "log_likelihood": self.log_likelihood}
        for site in self.model.sites:
            found |= {f"{site}.{name}": value for name, value in self.curvature(site).named_buffers()}
        return found

    def _expect_fitted(self) -> None:
        if float(self.prior_precision) == 0:
            raise UnsupportedPosteriorError(
                "guide laplace: expected a curvature; got none; call fit, or load a run that has one"
            )

    def _labelled(self, batches: Iterable[Batch], title: str, progress: bool) -> Iterator[tuple[Tensor, Linearised]]:
        """Labels (B,) and linearised network of every part."""
        count = 0
        with counted(num_items(batches), title, unit="items", show=progress) as tell:
            for batch, part in linearise_batches(self.model, self._checked(batches)):
                labels = cast(Tensor, batch.labels)[part.rows].to(part.logits.device)
                count += len(labels)
                yield labels, part
                tell(len(labels))
        if not count:
            raise DataError("guide laplace: expected items to measure on; got none")

    def _checked(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches with items, refused where labels are missing or unknown."""
        for batch in batches_of(batches):
            if batch.labels is None:
                raise DataError("guide laplace: expected batches with labels; got labels=None")
            self.model.likelihood.check_labels(batch.labels)
            if len(batch):
                yield batch

    def _label_log_probs(self, logits: Tensor, labels: Tensor) -> Tensor:
        """(B,) in float64."""
        return self._likelihood().label_law(logits.double()).log_prob(labels)

    def _likelihood(self) -> ClassLikelihood:
        return self.model.class_likelihood("guide laplace")


@dataclass(frozen=True)
class PrecisionRule:
    """How the prior precision is found.

    Attributes:
        name: its key in `PRECISION_RULES`.
        needs_held_out: whether it looks at held-out items.
        find: the precision, given a guide whose curvature is known, the held-out batches, and whether to show progress.
    """

    name: str
    needs_held_out: bool
    find: Callable[[LaplaceGuide, Iterable[Batch] | None, bool], float]


def _by_evidence(guide: LaplaceGuide, held_out: Iterable[Batch] | None, progress: bool) -> float:
    return evidence_precision(guide.loc_square(), guide.eigenvalues())


def _by_held_out_nll(guide: LaplaceGuide, held_out: Iterable[Batch] | None, progress: bool) -> float:
    nll = guide.held_out_nll(held_out or (), HELD_OUT_PRECISIONS, progress=progress)
    return float(HELD_OUT_PRECISIONS[int(nll.argmin())])


PRECISION_RULES = {
    rule.name: rule
    for rule in (PrecisionRule("evidence", False, _by_evidence), PrecisionRule("held_out", True, _by_held_out_nll))
}


def _check_key(name: str, value: str, table: dict[str, Any]) -> None:
    if value not in table:
        raise unknown_name(name, table, value)
