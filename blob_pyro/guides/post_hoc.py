"""What guides that are fitted to a trained adapter have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import ClassVar, Self

from torch import nn

from blob_pyro.data.examples import Batch
from blob_pyro.guides.base import AdapterGuide


class PostHocGuide(AdapterGuide):
    """Abstract. A posterior about an adapter that was trained as a point; the adapter itself is left as it is.

    Attributes:
        trained_as: name in `GUIDES` of the point that is trained first.
    """

    is_random = True
    trained_as: ClassVar[str]

    @abstractmethod
    def fit(self, train: Iterable[Batch], held_out: Iterable[Batch] | None = None, *, progress: bool = False) -> Self:
        """Find the spread, without changing the adapter.

        Args:
            train: batches with labels; may be iterated several times.
            held_out: such batches of items that the adapter was not trained on, where the guide uses any.
            progress: show progress.
        """

    def scale_parameters(self) -> dict[str, nn.Parameter]:
        """None: nothing is trained by gradients."""
        return {}
