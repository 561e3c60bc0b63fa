"""`Passes`: batch after batch of endless passes over a loader, with a place that one can come back to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import Generator, Tensor
from torch.utils.data import DataLoader

from blob_pyro.data.batches.collate import EncodedDataset
from blob_pyro.data.batches.loaders import batches_of
from blob_pyro.data.examples import Batch
from blob_pyro.errors import CheckpointError, DataError
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.vocabulary import check_to_learn, check_token_ids


@dataclass(frozen=True)
class Place:
    """Where training stands in its data.

    Attributes:
        done: batches that the present pass has given.
        generator: state of the loader's generator when that pass began, uint8; None for a loader without one.
    """

    done: int = 0
    generator: Tensor | None = None


def check_beforehand(loader: Iterable[Batch], model: BayesianLoRA, num_steps: int) -> None:
    """Refuse what the model cannot learn before the first step, where looking changes nothing and is cheap.

    That is a list of batches, and the tokens of `bp.train_loader`'s items; a step looks at all there is in a batch.

    Args:
        loader: batches.
        model: the model.
        num_steps: how many batches there will be at most.

    Raises:
        DataError: an item beyond the context or without a token, or an id that is none of the embedding's.
        LabelError: a label is none that the likelihood observes.
    """
    if isinstance(loader, list | tuple):
        for batch in loader[:num_steps]:
            check_to_learn(Batch.of(batch), model)
    elif isinstance(loader, DataLoader) and isinstance(loader.dataset, EncodedDataset):
        ids = (token for item in loader.dataset.items for token in item.input_ids)
        check_token_ids(ids, model.network, model.tokenizer, "input_ids")


class Passes:
    """Goes through a loader again and again.

    Args:
        loader: batches; iterated anew at each pass. Where its order is random, all of it must come from
            `loader.generator`, as `bp.train_loader`'s does: only then can one come back to a place.
        place: where to start; None is the beginning.
    """

    def __init__(self, loader: Iterable[Batch], place: Place | None = None) -> None:
        self._loader, self._place = loader, place or Place()
        found = getattr(loader, "generator", None)
        self._generator = found if isinstance(found, Generator) else None

    @property
    def place(self) -> Place:
        """Behind the batch that came last."""
        return self._place

    def __iter__(self) -> Iterator[Batch]:
        """Batches without end.

        Raises:
            DataError: a pass without a batch.
            CheckpointError: the place lies beyond the end of a pass.
        """
        if self._generator is not None and self._place.generator is not None:
            self._generator.set_state(self._place.generator)
        skip = self._place.done
        while True:
            start = None if self._generator is None else self._generator.get_state()
            self._place = Place(0, start)
            for number, batch in enumerate(batches_of(self._loader), 1):
                self._place = Place(number, start)
                if number > skip:
                    yield batch
            if not self._place.done:
                raise DataError("expected at least one batch to train on; got an empty loader")
            if skip > self._place.done:
                raise CheckpointError(
                    f"expected a place within a pass of {self._place.done} batches; got batch {skip}: the checkpoint "
                    "is of other data, or altered; delete it to go on from the one before it"
                )
            skip = 0
