"""`memory`: the bytes that a process needs in a training step, part by part."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from blob_pyro.errors import ConfigError
from cost_model import activations
from cost_model.setup import FLOAT32, Setup
from cost_model.shapes import Shapes

GATHERED_BLOCKS = 2  # the one that computes, and the one that is fetched meanwhile
QUANTISED_BLOCK = 64  # numbers of a 4-bit matrix that share a scale


@dataclass(frozen=True)
class Memory:
    """Bytes of one process.

    Attributes:
        base: the frozen weights that it holds between steps.
        gathered: whole blocks while they compute, of a sharded base; of a quantised one, a matrix in `dtype`.
        adapters: the LoRA matrices.
        posterior: what the guide has beside them.
        gradients: of both.
        optimizer: AdamW's two moments of what it changes.
        copies: the last good parameters, and the best ones where there are evaluations.
        draws: what stands for the A matrices in a forward.
        activations: what the forward keeps for the backward.
        block: what the backward of one block needs for a while; with checkpointing, all that the block keeps as well.
        logits: of the whole vocabulary, where it is compared; gone before the first block's backward begins.
    """

    base: int
    gathered: int
    adapters: int
    posterior: int
    gradients: int
    optimizer: int
    copies: int
    draws: int
    activations: int
    block: int
    logits: int

    @property
    def total(self) -> int:
        """What the device must hold at the worst moment, without what torch and its libraries take for themselves."""
        return sum(asdict(self).values()) - min(self.block, self.logits)

    @property
    def loaded(self) -> int:
        """Before the first step: base, adapters and posterior."""
        return self.base + self.adapters + self.posterior


def memory(shapes: Shapes, setup: Setup) -> Memory:
    """Bytes of a process.

    Raises:
        ConfigError: target_modules names no layer of a block, nor "lm_head".
    """
    adapters, posterior = adapter_numbers(shapes, setup), posterior_numbers(shapes, setup)
    in_adamw = adapters + (0 if setup.recipe == "blob" else posterior)
    return Memory(
        base=_base(shapes, setup),
        gathered=_gathered(shapes, setup),
        adapters=FLOAT32 * adapters,
        posterior=FLOAT32 * posterior,
        gradients=FLOAT32 * (adapters + posterior),
        optimizer=2 * FLOAT32 * in_adamw,
        copies=(2 if setup.evaluates else 1) * FLOAT32 * (adapters + posterior),
        draws=activations.draws(setup, _A_numbers(shapes, setup), random=setup.is_random),
        activations=activations.kept(shapes, setup),
        block=activations.block_backward(shapes, setup),
        logits=activations.head(shapes, setup),
    )


def adapter_numbers(shapes: Shapes, setup: Setup) -> int:
    """How many numbers the LoRA matrices A (r, n) and B (m, r) have."""
    return sum(setup.r * (m + n) * count for m, n, count in _adapted(shapes, setup))


def posterior_numbers(shapes: Shapes, setup: Setup) -> int:
    """How many numbers the guide learns beside the adapters."""
    each = {"blob": 1, "mean_field": 1, "low_rank": 1 + setup.guide_rank}
    if setup.guide == "scalabl":
        return setup.r * sum(count for _, _, count in _adapted(shapes, setup))
    return each.get(setup.guide, 0) * _A_numbers(shapes, setup)


def _A_numbers(shapes: Shapes, setup: Setup) -> int:
    """Entries of all A matrices."""
    return sum(setup.r * n * count for _, n, count in _adapted(shapes, setup))


def _adapted(shapes: Shapes, setup: Setup) -> list[tuple[int, int, int]]:
    """Output and input features of each adapted layer, and how many of these there are."""
    linears = {name: (*shape, shapes.layers) for name, shape in shapes.block_linears.items()}
    linears["lm_head"] = (shapes.vocab, shapes.hidden, 1)
    for name in setup.target_modules:
        if name not in linears:
            raise ConfigError(f"target_modules: expected some of {', '.join(linears)}; got {name!r}")
    return [linears[name] for name in dict.fromkeys(setup.target_modules)]


def _base(shapes: Shapes, setup: Setup) -> int:
    """Of a sharded base, blocks are shared out and the rest is whole."""
    share = setup.num_processes if setup.shard_base else 1
    block = _matrices(shapes, setup) + shapes.other_numbers * setup.bytes
    return -(-shapes.layers * block // share) + shapes.outside_numbers * setup.bytes


def _matrices(shapes: Shapes, setup: Setup) -> int:
    """Bytes of a block's matrices; quantised ones with their scales in float32."""
    if setup.quantization == "8bit":
        return shapes.linear_numbers + FLOAT32 * sum(m for m, _ in shapes.block_linears.values())
    if setup.quantization == "4bit":
        scales = sum(-(-m * n // QUANTISED_BLOCK) for m, n in shapes.block_linears.values())
        return shapes.linear_numbers // 2 + FLOAT32 * scales
    return shapes.linear_numbers * setup.bytes


def _gathered(shapes: Shapes, setup: Setup) -> int:
    if setup.shard_base:
        return GATHERED_BLOCKS * (shapes.linear_numbers + shapes.other_numbers) * setup.bytes
    if setup.quantization:
        return max(m * n for m, n in shapes.block_linears.values()) * setup.bytes
    return 0
