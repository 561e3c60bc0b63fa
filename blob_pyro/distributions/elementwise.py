"""Mean and scale of a law whose entries are independent Normals, however it is wrapped."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Distribution, Independent, Normal


def elementwise_normal(law: Distribution) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of a Normal inside any number of `Independent`.

    Raises:
        NotImplementedError: the law is another one; `TraceMeanField_ELBO` samples the KL then.
    """
    base = law
    while isinstance(base, Independent):
        base = base.base_dist
    if not isinstance(base, Normal):
        raise NotImplementedError(f"expected a Normal with independent entries; got {type(base).__name__}")
    return base.loc, base.scale
