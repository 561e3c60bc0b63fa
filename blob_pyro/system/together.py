"""Something that processes go through together: it goes well in all of them, or ends in all of them."""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterator
from typing import Any

import torch.distributed as dist

from blob_pyro.errors import BlobPyroError, ModelLoadError
from blob_pyro.system.hub_errors import one_line
from blob_pyro.system.processes import Ranks

PATIENCE = datetime.timedelta(days=1)
"""How long a process waits for the others; NCCL gives up after ten minutes, and loading may take hours."""


class Together:
    """Several processes that meet after each stage. Every method is called by all of them, in one order.

    Args:
        ranks: the processes; more than one.
        group: of all of them, over gloo.
    """

    def __init__(self, ranks: Ranks, group: Any) -> None:
        self._ranks, self._group = ranks, group

    @contextlib.contextmanager
    def stage(self) -> Iterator[None]:
        """Go on when all have come through the inside; where it raises in one process, it raises in all.

        Raises:
            BlobPyroError: in those that came through: what the first that failed was told, of the same kind.
                ModelLoadError where that was no error of ours, or a process has ended.
        """
        try:
            yield
        except BaseException as error:  # of Ctrl-C, too, the others must hear
            with contextlib.suppress(ModelLoadError):  # another has gone already: what happened here counts
                self._meet(_told(error))
            raise
        for index, told in enumerate(self._meet(None)):
            if told is not None:
                kind, message = told
                raise (ModelLoadError(f"process {index}: {message}") if kind is None else kind(message))

    def from_first(self, value: Any = None) -> Any:
        """What the first process gives, in all; any object that pickles, from processes of this run alone."""
        return self._meet(value if self._ranks.is_first else None)[0]

    def _meet(self, value: Any) -> list[Any]:
        found: list[Any] = [None] * self._ranks.num
        try:
            dist.all_gather_object(found, value, group=self._group)
        except RuntimeError as error:  # gloo's, where a connection closes
            raise ModelLoadError(
                "model.shard_base: expected all processes to load the base together; one has ended, perhaps killed for "
                "want of memory: see what it and the system say"
            ) from error
        return found


@contextlib.contextmanager
def together(ranks: Ranks) -> Iterator[Together]:
    """Several processes, with a connection of their own that waits as long as it takes."""
    group = dist.new_group(backend="gloo", timeout=PATIENCE)
    try:
        yield Together(ranks, group)
    finally:
        dist.destroy_process_group(group)


def _told(error: BaseException) -> tuple[type[BlobPyroError] | None, str]:
    """What the others need to know of an error."""
    if isinstance(error, BlobPyroError):
        return type(error), str(error)
    if not isinstance(error, Exception):
        return None, "it was stopped"
    return None, f"{type(error).__name__}: {one_line(error, limit=300)}"
