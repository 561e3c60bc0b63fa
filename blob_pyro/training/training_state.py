"""Everything that the next step of training depends on, and `Best`, the parameters of the lowest held-out NLL."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blob_pyro.errors import CheckpointError
from blob_pyro.system.hub_errors import one_line
from blob_pyro.system.processes import Ranks
from blob_pyro.training.kl_rate import Settled
from blob_pyro.training.passes import Place
from blob_pyro.training.random_state import RandomState
from blob_pyro.training.state_checks import GENERATOR, check_like, check_moments, split_moment
from blob_pyro.training.svi import BLoBSVI


@dataclass(frozen=True)
class TrainingState:
    """What a checkpoint of training holds.

    Attributes:
        tensors: parameters, the last good ones, those of the lowest held-out NLL, the optimisers' moments, generators.
        numbers: counters, loss scale, place in the data, generators of NumPy and Python; JSON types only.
    """

    tensors: dict[str, Tensor]
    numbers: dict[str, Any]

    @property
    def step(self) -> int:
        """Steps that were done."""
        return int(self.numbers["step"])

    @classmethod
    def of(cls, svi: BLoBSVI, place: Place, best: Best, ranks: Ranks) -> TrainingState:
        """The state behind a step; called by every process, each of which gets all of it."""
        names = parameter_names(svi)
        tensors = dict(zip(names, (p.detach() for p in svi.recipe.parameters()), strict=True))
        for prefix, copies in (("last_good", svi.last_good), ("best", best.copies)):
            if copies is not None:
                tensors |= {f"{prefix}.{name}": copy for name, copy in zip(names, copies, strict=True)}
        tensors |= _moments(svi)
        if place.generator is not None:
            tensors[GENERATOR] = place.generator
        random_states = ranks.gather(RandomState.here(svi.model.network))
        for rank, state in enumerate(random_states):
            found = {"torch": state.torch} | state.devices
            tensors |= {f"random.{rank}.{name}": value for name, value in found.items()}
        numbers = {
            "step": svi.steps_done,
            "num_skipped": svi.num_skipped,
            "settled": None if svi.settled is None else dataclasses.asdict(svi.settled),
            "first_width": svi.first_width,
            "loss_scale": dataclasses.asdict(svi.loss_scale),
            "best": {"nll": best.nll if best.copies else None, "step": best.step, "waited": best.waited},
            "batches_of_pass": place.done,
            "random": [state.others for state in random_states],
        }
        return cls({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, numbers)

    def restore(self, svi: BLoBSVI, best: Best, ranks: Ranks) -> Place:
        """Put it into an optimisation that was made anew with the same settings; the place to go on from.

        Raises:
            CheckpointError: it does not fit.
        """
        try:
            self._check(svi)
            self._restore_svi(svi)
            self._restore_best(best, parameter_names(svi))
            own = f"random.{ranks.index}."
            found = {name.removeprefix(own): value for name, value in self.tensors.items() if name.startswith(own)}
            RandomState(found.pop("torch"), found, self.numbers["random"][ranks.index]).restore(svi.model.network)
            return Place(int(self.numbers["batches_of_pass"]), self.tensors.get(GENERATOR))
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
            why = f"{type(error).__name__}: {one_line(error, 200)}"
            raise CheckpointError(
                f"expected the training state of this model, guide and recipe; it is of another, or altered ({why})"
            ) from error

    def _check(self, svi: BLoBSVI) -> None:
        """Raise unless every tensor is one of this optimisation's; nothing is changed before."""
        parameters = dict(zip(parameter_names(svi), svi.recipe.parameters(), strict=True))
        for prefix in ("", "last_good.", "best."):
            copies = {name for name in self.tensors if name.startswith(f"{prefix}parameter.")}
            if copies or not prefix:
                for name in sorted(copies ^ {prefix + name for name in parameters}):
                    raise KeyError(name)
                for name, parameter in parameters.items():
                    check_like(prefix + name, self.tensors[prefix + name], parameter)
        check_moments(self.tensors, svi.recipe.optimizers, parameters, self.step)
        if not svi.loss_scale.dynamic and self.numbers["loss_scale"]["value"] != svi.loss_scale.value:
            raise ValueError(f"a loss scale of {self.numbers['loss_scale']['value']} without fp16")

    def _restore_svi(self, svi: BLoBSVI) -> None:
        names = parameter_names(svi)
        parameters = [p.detach() for p in svi.recipe.parameters()]
        last_good = self._copies("last_good.", names)
        torch._foreach_copy_(parameters, [self.tensors[name] for name in names])
        _restore_moments(svi, self.tensors)
        if last_good is not None:
            svi.last_good = [copy.to(p) for copy, p in zip(last_good, parameters, strict=True)]
        svi.steps_done, svi.num_skipped = int(self.numbers["step"]), int(self.numbers["num_skipped"])
        settled, first = self.numbers["settled"], self.numbers["first_width"]
        svi.settled = None if settled is None else Settled(**settled)
        svi.first_width = None if first is None else float(first)
        scale = self.numbers["loss_scale"]
        svi.loss_scale.value, svi.loss_scale.good_steps = float(scale["value"]), int(scale["good_steps"])
        svi.recipe.set_rates(svi.steps_done)

    def _restore_best(self, best: Best, names: list[str]) -> None:
        numbers = self.numbers["best"]
        copies = self._copies("best.", names)
        if copies is not None:
            best.copies, best.nll = copies, float(numbers["nll"])
        best.step, best.waited = int(numbers["step"]), int(numbers["waited"])

    def _copies(self, prefix: str, names: list[str]) -> list[Tensor] | None:
        """All parameters of a kind, or none."""
        if prefix + names[0] not in self.tensors:
            return None
        return [self.tensors[prefix + name] for name in names]


def parameter_names(svi: BLoBSVI) -> list[str]:
    """A name for each parameter that a step changes, in the recipe's order."""
    guide = svi.guide
    named = (
        svi.model.point_parameters() | guide.location_parameters() | guide.scale_parameters() | guide.prior_parameters()
    )
    names = {id(parameter): name for name, parameter in named.items()}
    return [f"parameter.{names[id(parameter)]}" for parameter in svi.recipe.parameters()]


def _moments(svi: BLoBSVI) -> dict[str, Tensor]:
    """What the optimisers keep of each parameter, by name."""
    names = dict(zip(map(id, svi.recipe.parameters()), parameter_names(svi), strict=True))
    return {
        f"optimizer.{k}.{names[id(parameter)]}.{key}": value
        for k, optimizer in enumerate(svi.recipe.optimizers)
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def _restore_moments(svi: BLoBSVI, tensors: Mapping[str, Tensor]) -> None:
    """Give each optimiser what it had kept; one that has not stepped yet keeps nothing."""
    parameters = dict(zip(parameter_names(svi), svi.recipe.parameters(), strict=True))
    for name, value in tensors.items():
        if not name.startswith("optimizer."):
            continue
        k, of, key = split_moment(name)
        parameter = parameters[of]
        svi.recipe.optimizers[k].state[parameter][key] = value.clone().to(parameter.device)


class Best:
    """Keeps a copy of the parameters at the lowest held-out NLL so far.

    Args:
        parameters: those that training changes.
        patience: how many evaluations in a row without a lower NLL end training; None never does.

    Attributes:
        nll: the lowest so far, nats per item; infinity before the first.
        step: the step behind which it was found; 0 before the first.
        waited: evaluations since.
        copies: the parameters there; None before the first.
    """

    def __init__(self, parameters: Iterable[Tensor], patience: int | None) -> None:
        self._parameters = [parameter.detach() for parameter in parameters]
        self._patience = patience
        self.nll, self.step, self.waited = math.inf, 0, 0
        self.copies: list[Tensor] | None = None

    def see(self, nll: float, step: int) -> None:
        """Take note of the held-out NLL behind a step; one that is not a number is not lower."""
        if nll < self.nll:
            self.nll, self.step, self.waited = nll, step, 0
            self.copies = [parameter.clone() for parameter in self._parameters]
        else:
            self.waited += 1

    @property
    def is_enough(self) -> bool:
        """Whether it is time to stop."""
        return self._patience is not None and self.waited >= self._patience

    def put_back(self) -> None:
        """Give the parameters the values of the lowest NLL."""
        if self.copies is not None:
            torch._foreach_copy_(self._parameters, self.copies)
