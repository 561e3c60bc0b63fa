"""Effects between a sample statement and the layer that applies it.

`draw` is the step at which a sampled A matrix becomes something a layer can apply. By default it is the
value itself; under `flipout()` it is a sign-flipped perturbation about the guide's location.
"""

from __future__ import annotations

import weakref
from typing import Any

import pyro
import torch
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import effectful
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, constraints

from blob_pyro.adapters.drawn_linear import Draw, FlipoutDraw, WeightDraw
from blob_pyro.errors import ParamStoreError, UnsupportedPosteriorError


@effectful(type="draw")
def draw(value: Tensor, rows: int) -> Draw:
    """Turn the value of a site into what its layer applies to a batch of `rows` rows.

    Args:
        value: (r, n), or (S, r, n) for S groups of rows.
        rows: first dimension of the layer's input.

    A keyword `name` gives the site, so that handlers can tell sites apart.
    """
    return WeightDraw(value)


class FlipoutMessenger(Messenger):
    """Answers `draw` with a perturbation whose signs are flipped for each example.

    The centre of the perturbation is the mean of the guide's law at the site of the same name. It is
    recorded while the guide runs and not while the model is replayed against it, so one context may
    surround a whole training loop.
    """

    def __init__(self) -> None:
        super().__init__()
        self._laws: dict[str, Distribution] = {}

    def __enter__(self) -> FlipoutMessenger:
        self._laws.clear()
        entered: FlipoutMessenger = super().__enter__()
        return entered

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if not msg["done"] and not msg["is_observed"]:
            self._laws[msg["name"]] = msg["fn"]

    def _pyro_draw(self, msg: dict[str, Any]) -> None:
        value, rows = msg["args"][0], msg["kwargs"]["rows"]
        law = self._laws.get(msg["name"])
        if law is None:
            raise UnsupportedPosteriorError(
                f"site {msg['name']}: expected a guide to sample it inside flipout(); got a value from elsewhere; "
                "run this model call outside flipout()"
            )
        _refuse_unsupported(msg["name"], law)
        loc = law.mean.expand(value.shape) if law.mean.dim() <= value.dim() else law.mean.reshape(value.shape)
        msg["value"] = FlipoutDraw(
            loc=loc,
            perturbation=value - loc,
            input_signs=random_signs(rows, value.shape[-1], value.device),
            output_signs=random_signs(rows, value.shape[-2], value.device),
        )
        msg["done"] = True


def flipout() -> FlipoutMessenger:
    r"""Context manager: each example of a batch sees its own weight draw, at the price of one more product.

    With q(A) = Normal(M, Omega^2) and one draw E ~ Normal(0, 1) of shape (r, n), example i gets random
    signs s_i, t_i and the pre-activation

        z_i = M x_i + t_i * ((E * Omega) (x_i * s_i)),

    so that its A_i has the posterior's law for every i, and the noise of two examples is uncorrelated:
    the gradient's variance falls with the batch. All tokens of an example share one draw.

    Source: Wen et al. 2018 (arXiv 1803.04386); BLoB, arXiv 2406.11675, section 3.4.

    Raises:
        UnsupportedPosteriorError: (when a model runs inside) the guide's law is not a Normal with
            independent entries: flipping signs would change the law.
    """
    return FlipoutMessenger()


class LocalParamsMessenger(Messenger):
    """Lets `pyro.param(name, parameter)` return that Parameter, leaving Pyro's global param store alone.

    Statements without an `nn.Parameter` of their own (an autoguide's) go to the store as ever.
    """

    def _pyro_param(self, msg: dict[str, Any]) -> None:
        if len(msg["args"]) > 1 and isinstance(msg["args"][1], nn.Parameter):
            msg["value"] = msg["args"][1]
            msg["done"] = True


@effectful(type="param")
def _param_statement(name: str, parameter: Tensor, **_: Any) -> Tensor:
    return parameter


def declare(name: str, parameter: Tensor) -> Tensor:
    """`pyro.param` for a Parameter that lives in a module: Pyro trains that very tensor.

    Raises:
        ParamStoreError: the param store holds another tensor of this name.
    """
    if pyro.settings.get("module_local_params"):
        # The local store forgets a Parameter's `unconstrained` when the module's call ends, and SVI.step then
        # fails on it. A param statement past the store, as Pyro makes for a module's own parameters, keeps it.
        parameter.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]
        value: Tensor = _param_statement(name, parameter, constraint=constraints.real, event_dim=None, name=name)
        return value
    stored: Tensor = pyro.param(name, parameter)
    if stored is not parameter:
        raise ParamStoreError(
            f"parameter {name}: expected a fresh name in Pyro's param store; it holds another model's tensor; "
            "call pyro.clear_param_store() before you train a new model"
        )
    return parameter


def random_signs(rows: int, size: int, device: torch.device) -> Tensor:
    """(rows, size) of -1.0 and 1.0, each with probability one half."""
    return torch.randint(0, 2, (rows, size), device=device).mul_(2).sub_(1).to(torch.float32)


def _refuse_unsupported(site: str, law: Distribution) -> None:
    base = law
    while isinstance(base, Independent):
        base = base.base_dist
    if not isinstance(base, Normal):
        raise UnsupportedPosteriorError(
            f"site {site}: flipout expects a Normal posterior with independent entries; "
            f"got {type(base).__name__}; run outside flipout()"
        )
