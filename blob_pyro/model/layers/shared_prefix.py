"""The part of a network before its first block with a random adapter, run once for all draws.

Up to there every draw sees the same activations: those of B items, under whatever adapters are points. The rows
multiply, one group for each draw, only where the first block begins whose adapter is drawn. With random adapters in
the last block alone, S draws cost one forward of the backbone and S of that block.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from blob_pyro.model.layers.answer_head import PLAIN_HEADS
from blob_pyro.model.layers.targets import block_list

if TYPE_CHECKING:
    from peft import PeftModel


@dataclass(frozen=True, eq=False)
class SharedPrefix:
    """Where the rows of a decoder multiply.

    Attributes:
        backbone: the decoder without its head.
        blocks: its blocks from the first drawn one on; empty where only the head is drawn.
    """

    backbone: nn.Module
    blocks: tuple[nn.Module, ...]

    @contextmanager
    def repeated(self, num_items: int, num_draws: int) -> Iterator[None]:
        """Context in which the backbone makes S * B rows of B: row s * B + i is item i under draw s.

        For forwards without gradients: a checkpointed block's recomputation comes after the context.

        Args:
            num_items: B.
            num_draws: S.
        """
        with ExitStack() as stack:
            if not self.blocks:
                stack.callback(self.backbone.register_forward_hook(_Exit(num_draws)).remove)
            for position, block in enumerate(self.blocks):
                entry = _Entry(num_items, num_draws, multiplies=position == 0)
                stack.callback(block.register_forward_pre_hook(entry, with_kwargs=True).remove)
            yield


def find_shared_prefix(network: PeftModel, paths: Iterable[str]) -> SharedPrefix | None:
    """The part before the first of the drawn layers at `paths`; None where nothing can be shared.

    Known for the decoders of `PLAIN_HEADS`, whose blocks stand in one list and run in its order.

    Args:
        network: a PEFT model.
        paths: dotted paths of the layers whose A or B is random.
    """
    causal_lm = network.get_base_model()
    if getattr(getattr(causal_lm, "config", None), "model_type", None) not in PLAIN_HEADS:
        return None
    names = {module: name for name, module in network.named_modules()}
    head, blocks = causal_lm.get_output_embeddings(), block_list(causal_lm)
    if blocks is None:
        return None
    first, inside = len(blocks), names[blocks] + "."
    for path in paths:
        if path.startswith(inside):
            first = min(first, int(path.removeprefix(inside).split(".")[0]))
        elif path != names[head]:
            return None
    return SharedPrefix(getattr(causal_lm, causal_lm.base_model_prefix), tuple(blocks)[first:]) if first else None


@dataclass(frozen=True)
class _Entry:
    """Pre-hook of a block: what the model hands to every block has B rows, its hidden states have S * B."""

    num_items: int
    num_draws: int
    multiplies: bool

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        hidden, *rest = args
        if self.multiplies:
            hidden = _repeat(hidden, self.num_draws)
        return (hidden, *map(self._fit, rest)), {name: self._fit(value) for name, value in kwargs.items()}

    def _fit(self, value: Any) -> Any:
        """Repeat what has a row for each item (masks, positions); one row stands for all, and so does anything else."""
        if isinstance(value, tuple):
            return tuple(map(self._fit, value))
        per_item = isinstance(value, Tensor) and value.dim() > 1 and len(value) == self.num_items > 1
        return _repeat(value, self.num_draws) if per_item else value


@dataclass(frozen=True)
class _Exit:
    """Hook of a backbone without a drawn block."""

    num_draws: int

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        output.last_hidden_state = _repeat(output.last_hidden_state, self.num_draws)
        return output


def _repeat(value: Tensor, num_draws: int) -> Tensor:
    return value.repeat(num_draws, *(1,) * (value.dim() - 1))
