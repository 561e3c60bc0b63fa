"""Effects between a sample statement and the layer that applies it.

`draw` is the step at which a sampled A matrix becomes something a layer can apply. By default it is the
value itself; under `flipout()` it is a sign-flipped perturbation about the guide's location.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyro
import torch
from pyro.infer.autoguide.initialization import InitMessenger, init_to_sample
from pyro.ops.provenance import detach_provenance
from pyro.poutine.messenger import Messenger
from pyro.poutine.replay_messenger import ReplayMessenger
from pyro.poutine.runtime import _PYRO_STACK, effectful
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, constraints

from blob_pyro.errors import ConfigError, ParamStoreError, UnsupportedPosteriorError
from blob_pyro.model.layers.drawn_linear import Draw, WeightDraw
from blob_pyro.model.layers.flipped import flip


@effectful(type="draw")
def draw(values: Mapping[str, Tensor], num_items: int) -> dict[str, Draw]:
    """Turn the values of all sites into what their layers apply to a batch of `num_items` items.

    Args:
        values: site -> (r, n), or (S, r, n) for S groups of rows.
        num_items: items in the batch; the layers' inputs have S times as many rows.
    """
    return {site: WeightDraw(value) for site, value in values.items()}


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
        if not msg["done"] and not msg["is_observed"] and isinstance(msg["fn"], Distribution):
            self._laws[msg["name"]] = msg["fn"]

    def _pyro_draw(self, msg: dict[str, Any]) -> None:
        values: Mapping[str, Tensor] = msg["args"][0]
        locs = {site: self._loc(site, value) for site, value in values.items()}
        msg["value"] = flip(values, locs, msg["kwargs"]["num_items"])
        msg["done"] = True

    def _loc(self, site: str, value: Tensor) -> Tensor:
        """Mean of the guide's law at a site, (r, n)."""
        law = self._laws.get(site)
        if law is None:
            raise UnsupportedPosteriorError(
                f"site {site}: expected a guide to sample it inside flipout(); got a value from elsewhere; "
                "run this model call outside flipout()"
            )
        _refuse_unsupported(site, law)
        # under a plate the law has one copy for each draw, all of one mean
        return law.mean.reshape(-1, *value.shape[-2:])[0]


def flipout() -> FlipoutMessenger:
    r"""Context manager: each example of a batch sees its own weight draw, at next to no price.

    With q(A) = Normal(M, Omega^2) and one draw E ~ Normal(0, 1) of shape (r, n), example i gets random
    signs s_i, t_i and the pre-activation

        z_i = M x_i + t_i * ((E * Omega) (x_i * s_i)),

    so that its A_i has the posterior's law for every i, and the noise of two examples is uncorrelated:
    the gradient's variance falls with the batch. All tokens of an example share one draw, so what is
    computed is x_i A_i^T with the A_i made: B r n numbers a site, and no second product over the tokens.

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


def replayed_parameters() -> list[Tensor] | None:
    """Under SVI the parameters of the guide whose draws the model is run at, unconstrained; elsewhere None."""
    for handler in reversed(_PYRO_STACK):
        if isinstance(handler, ReplayMessenger) and handler.trace is not None:
            sites = (site for site in handler.trace.nodes.values() if site["type"] == "param")
            return [getattr(site["value"], "unconstrained", lambda value=site["value"]: value)() for site in sites]
    return None


def autoguide_sets_up() -> bool:
    """Whether an autoguide is finding out what the model samples; with `init_to_sample` that is `Predictive`."""
    found = (handler for handler in _PYRO_STACK if isinstance(handler, InitMessenger))
    return any(handler.init_fn is not init_to_sample for handler in found)


def take_up_loaded(parameters: Mapping[str, nn.Parameter]) -> None:
    """Give Parameters what Pyro's param store was loaded with under their names, once; as `declare` does.

    What a model or guide of this process has there is left alone: it may be another one's.
    """
    store = pyro.get_param_store()
    for name in parameters.keys() & store.keys():
        held, parameter = store[name], parameters[name]
        if held is not parameter and held.shape == parameter.shape and not _is_of_this_process(held):
            _declare_one(name, parameter)


def declare(parameters: Callable[[], Mapping[str, nn.Parameter]]) -> None:
    """`pyro.param` for Parameters that live in a module: Pyro trains those very tensors.

    Inside `LocalParamsMessenger` nobody asks for them: it does nothing there, and `parameters` is not called.

    Args:
        parameters: gives the Parameters by Pyro name.

    Where the store was loaded from a file (or given a state), its values are taken up: training goes on from there.

    Raises:
        ParamStoreError: the param store holds another live model's tensor of one of the names, or one of another shape.
    """
    if any(isinstance(handler, LocalParamsMessenger) for handler in _PYRO_STACK):
        return
    for name, parameter in parameters().items():
        _declare_one(name, parameter)


def _declare_one(name: str, parameter: nn.Parameter) -> None:
    if pyro.settings.get("module_local_params") or not parameter.requires_grad:
        # The local store forgets a Parameter's `unconstrained` when the module's call ends, and SVI.step then
        # fails on it; the global one would thaw what is frozen. A param statement past the store, as Pyro makes for a
        # module's own parameters, does neither.
        parameter.unconstrained = weakref.ref(parameter)  # type: ignore[attr-defined]
        _param_statement(name, parameter, constraint=constraints.real, event_dim=None, name=name)
        return
    held = detach_provenance(pyro.param(name, parameter))  # `pyro.render_model` wraps what it traces
    if held is not parameter:
        _take_up(name, parameter, held)
        pyro.param(name, parameter)
    parameter.__dict__.setdefault(_DECLARED, _Here())


_DECLARED = "_declared_to_pyro"


class _Here:
    """Marks a Parameter that a module of this process has declared; read from a file the mark is False."""

    def __reduce__(self) -> tuple[type[bool], tuple[()]]:
        return bool, ()


def _is_of_this_process(held: Tensor) -> bool:
    return isinstance(held.__dict__.get(_DECLARED), _Here)


def _take_up(name: str, parameter: nn.Parameter, held: Tensor) -> None:
    """Give a Parameter the value that the store has read from a file (or from a state), and the store the Parameter.

    Raises:
        ParamStoreError: the store's tensor is of another model or guide in this process, or of another shape.
    """
    if _is_of_this_process(held):
        raise ParamStoreError(
            f"parameter {name}: expected a fresh name in Pyro's param store; it holds another model's tensor (or "
            "that of a guide made before); call pyro.clear_param_store() before you train a new one"
        )
    if held.shape != parameter.shape:
        raise ParamStoreError(
            f"parameter {name}: expected shape {tuple(parameter.shape)} in Pyro's param store; got "
            f"{tuple(held.shape)}, of another model: call pyro.clear_param_store()"
        )
    with torch.no_grad():
        parameter.copy_(held)
    del pyro.get_param_store()[name]


def _refuse_unsupported(site: str, law: Distribution) -> None:
    base = law
    while isinstance(base, Independent):
        base = base.base_dist
    if not isinstance(base, Normal):
        raise UnsupportedPosteriorError(
            f"site {site}: flipout expects a Normal posterior with independent entries; "
            f"got {type(base).__name__}; run outside flipout()"
        )


def check_gradients(who: str, *, inside: bool = False) -> None:
    """Raise where a training could compute no gradient.

    Args:
        who: what is called, for the message.
        inside: whether it turns gradients on where it needs them, which inference mode alone prevents.

    Raises:
        ConfigError: torch.no_grad or torch.inference_mode is around the call.
    """
    off = "torch.inference_mode" if torch.is_inference_mode_enabled() else "torch.no_grad"
    if torch.is_inference_mode_enabled() or not (inside or torch.is_grad_enabled()):
        raise ConfigError(f"{who}: expected gradients to be on; got {off} around the call: leave it")


@contextlib.contextmanager
def training_mode(network: nn.Module, training: bool = True) -> Iterator[None]:
    """Put the network in training (or evaluation) mode; each module gets its own former mode back."""
    before = {module: module.training for module in network.modules()}
    network.train(training)
    try:
        yield
    finally:
        for module, mode in before.items():
            module.training = mode
