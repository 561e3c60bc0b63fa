"""Point parameters (heads, B where A is random) at other values for one forward."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, ExitStack
from types import TracebackType
from typing import cast

from torch import Tensor, nn

from blob_pyro.errors import ConfigError
from blob_pyro.model.layers.drawn_linear import Draw


class substitute:
    """Context manager that puts tensors in the place of Parameters, and undoes itself. May be entered again.

    Gradients go to the tensors.

    Args:
        network: the module that holds the Parameters.
        values: name of a Parameter in `network` -> the tensor of its shape that stands for it inside the context.
    """

    def __init__(self, network: nn.Module, values: Mapping[str, Tensor]) -> None:
        places = {name: name.rpartition(".") for name in values}
        self._places = {
            name: (network.get_submodule(path)._parameters, attribute) for name, (path, _, attribute) in places.items()
        }
        self._values = {name: value.to(network.get_parameter(name).dtype) for name, value in values.items()}
        self._before: list[dict[str, nn.Parameter | None]] = []

    def __enter__(self) -> None:
        self._before.append({name: holder[attribute] for name, (holder, attribute) in self._places.items()})
        for name, (holder, attribute) in self._places.items():
            holder[attribute] = cast(nn.Parameter, self._values[name])

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for name, value in self._before.pop().items():
            holder, attribute = self._places[name]
            holder[attribute] = value


class together:
    """Several context managers as one; may be entered again where all of them may.

    Args:
        contexts: entered in order, left in reverse.
    """

    def __init__(self, *contexts: AbstractContextManager[None]) -> None:
        self._contexts = contexts
        self._entered: list[ExitStack] = []

    def __enter__(self) -> None:
        with ExitStack() as stack:
            for context in self._contexts:
                stack.enter_context(context)
            self._entered.append(stack.pop_all())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._entered.pop().__exit__(kind, error, trace)


def checked_points(
    points: Mapping[str, Tensor | Draw], known: Mapping[str, Tensor], num_draws: int | None
) -> dict[str, Tensor]:
    """Values of point parameters, without the draw dimension of size 1 that they may have.

    Args:
        points: name -> value.
        known: name -> Parameter, of all that there are.
        num_draws: of the sites beside them.

    Raises:
        ConfigError: a name is none of them, a value has another shape, or there are several draws beside it.
    """
    found = {}
    if num_draws not in (None, 1):
        raise ConfigError(
            f"draws: expected one draw a forward beside values of point parameters; got {num_draws} draws and "
            f"{next(iter(points))}; give them one after another"
        )
    for name, value in points.items():
        if name not in known:
            raise ConfigError(f"draws: expected names of sites and point parameters of the model; got {name!r}")
        shape = tuple(known[name].shape)
        if not isinstance(value, Tensor) or tuple(value.shape) not in (shape, (1, *shape)):
            got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ConfigError(f"draws: expected one value of shape {shape} for the point parameter {name}; got {got}")
        found[name] = value.reshape(shape)
    return found
