"""The paper's tables and figures, made again: at the paper's settings, or at small ones that end on two cores."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from blob_pyro.config.checks import did_you_mean
from blob_pyro.errors import ConfigError
from blob_pyro.experiments.paper.cost_table import cost
from blob_pyro.experiments.paper.figures import figure2, figure3, figure4, figure5
from blob_pyro.experiments.paper.order import Order, Reproduction
from blob_pyro.experiments.paper.shift_table import table2
from blob_pyro.experiments.paper.task_tables import ablations, roberta, table1
from blob_pyro.system.locks import alone_in

__all__ = ["ITEMS", "Item", "Order", "Reproduction", "find_item"]


@dataclass(frozen=True)
class Item:
    """One table or figure of the paper.

    Attributes:
        description: one line for `blob-pyro reproduce --help`.
        table: makes it, where nobody else writes into the order's directory.
    """

    description: str
    table: Callable[[Order], Reproduction]

    def make(self, order: Order) -> Reproduction:
        """Make it.

        Raises:
            BlobPyroError: as its own file tells; RunDirectoryError where another process writes into the directory.
        """
        with alone_in(order.path):
            return self.table(order)


ITEMS: dict[str, Item] = {
    "table1": Item("every system on six tasks with a decoder; three at small scale", table1),
    "table2": Item("trained on one task, tested on others: scores, shift detection", table2),
    "roberta": Item("every system on five tasks with an encoder; three at small scale", roberta),
    "ablations": Item("BLoB, and BLoB with one of its parts changed or left out", ablations),
    "cost": Item("parameters, time and memory of every system against plain LoRA", cost),
    "figure2": Item("growth of the standard deviations under the KL alone", figure2),
    "figure3": Item("scores by the number of posterior draws", figure3),
    "figure4": Item("scores by prior scale and by the KL's learning rate", figure4),
    "figure5": Item("uncertainty of the embeddings of a few answers", figure5),
}


def find_item(name: str) -> Item:
    """The table or figure of a name.

    Raises:
        ConfigError: there is none; the message tells the nearest.

    Example:
        >>> find_item("tabel1")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        blob_pyro.errors.ConfigError: expected one of table1, ..., figure5; got 'tabel1'; did you mean table1?
    """
    if name in ITEMS:
        return ITEMS[name]
    raise ConfigError(f"expected one of {', '.join(ITEMS)}; got {name!r}{did_you_mean(name, ITEMS)}")
