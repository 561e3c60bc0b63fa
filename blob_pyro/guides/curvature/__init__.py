"""Curvature of the negative log-likelihood at an adapter's weights, site by site, and what follows from it."""

from blob_pyro.guides.curvature.evidence import evidence_precision, log_evidence
from blob_pyro.guides.curvature.jacobians import (
    MAX_TOKENS,
    Linearised,
    SiteJacobian,
    contrasts,
    fisher_root,
    linearise,
    linearise_batches,
)
from blob_pyro.guides.curvature.logit_law import draw_probs, linear_covariance, logit_covariance
from blob_pyro.guides.curvature.sites import STRUCTURES, Curvature, DiagonalCurvature, KroneckerCurvature
from blob_pyro.guides.curvature.streamed import LeadingEigenpairs

__all__ = [
    "MAX_TOKENS",
    "STRUCTURES",
    "Curvature",
    "DiagonalCurvature",
    "KroneckerCurvature",
    "LeadingEigenpairs",
    "Linearised",
    "SiteJacobian",
    "contrasts",
    "draw_probs",
    "evidence_precision",
    "fisher_root",
    "linear_covariance",
    "linearise",
    "linearise_batches",
    "log_evidence",
    "logit_covariance",
]
