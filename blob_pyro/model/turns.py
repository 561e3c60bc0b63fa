"""Which guide a model is trained under: the guides of one model share its random matrices, for a mean, B and heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from blob_pyro.errors import UnsupportedPosteriorError

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

    Attributes:
        others: the turn of whatever is none of `bp.guides`.
    """

    def __init__(self) -> None:
        self.others = Turn("a guide that is none of bp.guides")
        self._now: Turn | None = None
        self._trained: Turn | None = None
        self._last_training = 0
        self._count = 0
        self._asked: Turn | None = None

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

    def model_runs(self, parameters: Parameters) -> None:
        """A model's forward with gradients."""
        turn, self._asked = self._asked or self.others, None
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
