"""`LinearisedPredictive`: answers of the network linearised at the adapter's own weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from blob_pyro.data.examples import Batch
from blob_pyro.errors import UnsupportedPosteriorError
from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.guides import AdapterGuide
from blob_pyro.guides.curvature import MAX_TOKENS, draw_probs, linearise, logit_covariance
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.handlers import check_gradients
from blob_pyro.prediction.predictive import answer, check_counts


class LinearisedPredictive:
    r"""p(y | x) = E softmax(f), f ~ Normal(f(x; M), J Sigma J^T), by N draws of the K logits f.

    f(x; M) are the logits at the posterior mean, J their Jacobian in all random matrices there, Sigma the posterior's
    covariance. Laplace's approximation belongs to this linear model: far from M, where weight draws go, the
    network's own curvature was never measured. Softmax does not see a common shift of the logits, so that K - 1
    directions are followed and drawn. Drawing costs next to nothing, hence the large N.

    The same N draws of noise are shown to every item: an answer does not depend on the items beside it, beyond
    rounding. Draws of two items are not joint draws of the posterior. The network is in evaluation mode inside and gets
    its former modes back. With 8-bit bases and llm_int8_threshold above 0 rows are coupled, and the Jacobian is not
    an item's own (see docs/gotchas.md).

    Source: Immer et al. 2021 (arXiv 2008.08217); Laplace-LoRA, arXiv 2308.13111, section 4.

    Valid for: guides with a Gaussian law at every site: `LaplaceGuide`, `BLoBGuide`, `MeanFieldGuide`, `LowRankGuide`.
    Cost: one forward and K - 1 backward passes of activations for each item, whatever N. Memory: the activations of a
    forward.

    Args:
        model: the model.
        guide: one of `bp.guides`, with its mean at the adapter's own weights.
        num_samples: draws N of the logits; 0 answers with the posterior mean.
        max_tokens: most tokens of a forward, items x padded width; one item goes whatever the budget. None: 1536.

    Raises:
        ConfigError: num_samples below 0, or max_tokens below 1.
        UnsupportedPosteriorError: the guide is none of `bp.guides`, or (when called) its law is not Gaussian.
    """

    def __init__(
        self, model: BayesianLoRA, guide: AdapterGuide, num_samples: int = 1000, *, max_tokens: int | None = None
    ) -> None:
        check_counts(num_samples, max_tokens)
        if not isinstance(guide, AdapterGuide):
            raise UnsupportedPosteriorError(
                f"guide: expected one of bp.guides with a Gaussian law; got {type(guide).__name__}; "
                "use PosteriorPredictive"
            )
        self.model, self.guide = model, guide
        self.num_samples, self.max_tokens = num_samples, max_tokens

    def __call__(
        self, data: Batch | Iterable[Batch], *, progress: bool = False, description: str = "predict"
    ) -> Predictions:
        """Answer one batch, or every item of a loader, as `PosteriorPredictive` does.

        Args:
            data: a Batch, or an iterable of them; where the batches carry an index, the answers come in
                its order.
            progress: show a progress bar.
            description: title of the progress bar.

        Returns:
            Predictions with labels where every batch has them, on the CPU; draws (N, n, K).

        Raises:
            DataError: no item at all.
            ConfigError: torch.inference_mode is around the call.
        """
        num_classes = self.model.class_likelihood("LinearisedPredictive").num_classes
        check_gradients("LinearisedPredictive", inside=True)
        self.guide.check_model(self.model)
        noise = torch.randn(self.num_samples, num_classes - 1)

        def probs(items: Batch, budget: int) -> Tensor:
            if self.num_samples == 0:
                return self.model.logits(items).softmax(-1).unsqueeze(0)
            logits, covariance = self.logit_law(items)
            return draw_probs(logits, covariance, noise.to(logits))

        with torch.no_grad(), self.model.evaluating():
            return answer(
                self.model,
                data,
                probs,
                max_tokens=self.max_tokens or MAX_TOKENS,
                progress=progress,
                description=description,
            )

    def logit_law(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Mean (B, K) and covariance (B, K - 1, K - 1) of the logits in the directions of `curvature.contrasts`.

        Args:
            batch: B items on the model's device; the network should be in evaluation mode.
        """
        found = linearise(self.model, batch)
        with torch.no_grad():
            return found.logits, logit_covariance(self.guide.posteriors(), found)
