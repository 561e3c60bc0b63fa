"""Which guide a model is trained under: the guides of one model share its random matrices, for a mean, B and heads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from blob_pyro.errors import UnsupportedLayerError, UnsupportedPosteriorError

Parameters = Callable[[], Sequence[Tensor]]
"""Gives some parameters that every training moves."""


@dataclass(eq=False)
class Turn:
    """The last time that a guide was made or trained.

    Attributes:
        guide: what it is called in messages.
        number: of the turn, from 1; 0 where it had none.
        left: the parameters when the next turn began.
    """

    guide: str
    number: int = 0
    left: list[Tensor] = field(default_factory=list)


class Turns:
    """Tells whether a model was trained under another guide than the one that is asked.

    Under SVI the model's forward with gradients follows its guide's: that begins the guide's turn. A turn that nobody
    trained in (a guide that is only made) counts for nothing, nor does one behind which the parameters were put back.
    Guides that are none of `bp.guides` are known by their parameters, which the model sees in what it is replayed at.
    """

    def __init__(self) -> None:
        self._others: list[tuple[set[int], Turn]] = []
        self._now: Turn | None = None
        self._trained: Turn | None = None
        self._last_training = 0
        self._count = 0
        self._asked: Turn | None = None

    @classmethod
    def of(cls, network: nn.Module, adapter: str) -> Turns:
        """Those of an adapter: two models over one have the same."""
        kept: dict[str, Turns] = vars(network).setdefault("_blob_pyro_turns", {})
        return kept.setdefault(adapter, cls())

    def guide_is_made(self, guide: str, parameters: Parameters) -> Turn:
        """The turn of a new guide, which begins where the model is."""
        turn = Turn(guide)
        self.begin(turn, parameters)
        return turn

    def begin(self, turn: Turn, parameters: Parameters) -> None:
        """A guide is made or fitted: from here on it goes with the model."""
        if turn is self._now:
            return
        if self._now is not None:
            self._now.left = [parameter.detach().clone() for parameter in parameters()]
        self._now = turn
        self._count += 1
        turn.number = self._count

    def guide_runs(self, turn: Turn) -> None:
        """A guide's forward with gradients: what the model's behind it belongs to."""
        self._asked = turn

    def turn_of(self, guide: Callable[..., Any]) -> Turn:
        """The turn of a guide that is none of `bp.guides`; of a mere function that of the last such one."""
        if isinstance(guide, nn.Module):
            return self._other(guide.parameters())
        return self._others[-1][1] if self._others else self._other(())

    def _other(self, parameters: Iterable[Tensor]) -> Turn:
        ids = set(map(id, parameters))
        for known, turn in self._others:
            if known & ids or known == ids:
                known |= ids
                return turn
        turn = Turn("a guide that is none of bp.guides")
        self._others.append((ids, turn))
        return turn

    def model_runs(self, parameters: Parameters, replayed: Sequence[Tensor] | None) -> None:
        """A model's forward with gradients.

        Args:
            parameters: gives some that every training moves.
            replayed: under SVI, those of the guide.

        Raises:
            UnsupportedLayerError: under SVI, none of them can be trained.
        """
        if replayed is not None:
            _check_trainable(parameters())
        turn, self._asked = self._asked or self._other(replayed or ()), None
        self.begin(turn, parameters)
        self._trained, self._last_training = turn, turn.number

    def check(self, turn: Turn, parameters: Parameters) -> None:
        """Raise where the parameters were changed under another guide since a turn.

        Args:
            turn: of the guide that is asked.
            parameters: gives those of now.

        Raises:
            UnsupportedPosteriorError: they were.
        """
        if self._trained is None or turn is self._now or not 0 < turn.number < self._last_training:
            return
        if not all(map(torch.equal, turn.left, parameters())):
            raise UnsupportedPosteriorError(
                f"{turn.guide}: expected the model as this guide left it; it was trained under {self._trained.guide} "
                "since, and all guides of a model share its mean: fit this one again, or train each on a model of its "
                "own over the same base, copy.deepcopy(model)"
            )


def _check_trainable(parameters: Sequence[Tensor]) -> None:
    if any(parameter.is_inference() for parameter in parameters):
        raise UnsupportedLayerError(
            "expected an adapter to train; got one that was made inside torch.inference_mode(): make or load the model "
            "outside"
        )
    if not any(parameter.requires_grad for parameter in parameters):
        raise UnsupportedLayerError(
            "expected an adapter to train; got one that is frozen (set_adapter(..., inference_mode=True), "
            "set_requires_grad, requires_grad_): set requires_grad of its parameters again"
        )
