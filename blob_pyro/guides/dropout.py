"""Monte Carlo dropout on the adapters' input."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from torch import Tensor, nn

from blob_pyro.distributions import DroppedColumns
from blob_pyro.guides.base import AdapterGuide
from blob_pyro.guides.only_A import refuse_lora_B
from blob_pyro.model.bayesian_lora import BayesianLoRA


class DropoutGuide(AdapterGuide):
    r"""q(A): A = M diag(z) / (1 - p), z_j ~ Bernoulli(1 - p) for each input feature j. Mean M, nothing else is learnt.

    A draw is one mask for each adapted layer, the same for all tokens and items that see the draw: dropout as a law of
    the weights, whose draws PosteriorPredictive holds for a whole data set. PEFT's `lora_dropout` is another thing: it
    drops features anew for every token (and only in training mode), which is no draw of a weight. It stays in force
    beside this guide, so leave lora_dropout at 0.

    The KL is 0: a law on 2^n points has no density against a Gaussian prior, so the prior is cancelled as for
    `MLEGuide`, and under any of Pyro's ELBOs the loss is the negative log-likelihood under dropout. What Gal and
    Ghahramani derive for the KL of a dropout law blurred by small Gaussians is weight decay on M: take `weight_decay`
    for it.

    Source: Gal and Ghahramani 2016 (arXiv 1506.02142), section 3; the MCD row of BLoB (arXiv 2406.11675) has p = 0.1
    and 10 draws, dropped for each token.

    Valid for: a BayesianLoRA whose A matrices are random; several draws in one forward. Flipout refuses it: the entries
    of a column are dropped together.
    Cost against plain LoRA: no parameter; one mask and one product of A's size for each layer and draw.

    Args:
        model: the model.
        p: probability that an input feature is dropped.

    Raises:
        ConfigError: p is not between 0 and 1, or the model has random B matrices.
    """

    title = "MC dropout"
    is_random = True
    ranges: ClassVar = {"p": (lambda p: 0 < p < 1, "a probability between 0 and 1")}

    def __init__(self, model: BayesianLoRA, p: float = 0.1) -> None:
        super().__init__(model)
        refuse_lora_B("dropout", model.sites)
        self.check(p=p)
        self.p = float(p)

    def scale(self, site: str) -> Tensor:
        """Posterior standard deviation of A at `site`, |M| sqrt(p / (1 - p)), (r, n), float32."""
        return self.loc(site).abs() * math.sqrt(self.p / (1 - self.p))

    def posterior(self, site: str) -> DroppedColumns:
        """M with its columns dropped, event_shape (r, n)."""
        return DroppedColumns(self.loc(site), self.p, self.prior(site))

    def scale_parameters(self) -> dict[str, nn.Parameter]:
        """None."""
        return {}

    def settings(self) -> dict[str, Any]:
        """{"p": ...}."""
        return {"p": self.p}
