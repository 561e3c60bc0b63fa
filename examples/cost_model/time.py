"""`step_time`: operations of a training step, and how long they take on a machine of given speeds."""

from __future__ import annotations

from dataclasses import dataclass

from blob_pyro.errors import ConfigError
from cost_model.memory import adapter_numbers, memory, posterior_numbers
from cost_model.setup import FLOAT32, Setup
from cost_model.shapes import Shapes

GATHERS = 2  # of a sharded block for each forward: for it, and for its backward (recomputation is part of that)


@dataclass(frozen=True)
class Machine:
    """What one device reaches in practice, not what its data sheet says.

    Attributes:
        flops: floating-point operations a second, in large matrix products of the base's dtype.
        bandwidth: bytes a second, from its memory.
        link: bytes a second that it receives from the others; needed for several processes alone.
    """

    flops: float
    bandwidth: float
    link: float | None = None


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step.

    Attributes:
        compute: the operations.
        weights: reading the base's weights from memory, which goes on beside computing.
        gather: fetching the shares of a sharded base, which goes on beside computing too.
        gradients: adding up the trained parameters' gradients over the processes.
        optimizer: reading and writing what is trained.
    """

    compute: float
    weights: float
    gather: float
    gradients: float
    optimizer: float

    @property
    def least(self) -> float:
        """Where computing hides the reading and fetching, or is hidden by them."""
        return max(self.compute, self.weights, self.gather) + self.gradients + self.optimizer

    @property
    def most(self) -> float:
        """Where nothing is hidden."""
        return self.compute + self.weights + self.gather + self.gradients + self.optimizer


def step_flops(shapes: Shapes, setup: Setup) -> float:
    """Operations (a multiplication and an addition are two) of one process in a step.

    A frozen matrix takes 2 m n for each token in the forward, and as many for the gradient of its input; none for its
    own. Adapters take three times their forward; the attention's products three times theirs, over the whole square of
    positions in eager attention and half of it in sdpa. Checkpointing adds a forward of the blocks, up to the last
    thing that is kept: what down_proj makes is not needed again where it has no adapter.
    """
    tokens = setup.rows * setup.length * setup.num_forwards
    square = setup.length if setup.attn_implementation == "eager" else setup.length / 2
    attention = 4 * tokens * square * shapes.heads * shapes.head_dim * shapes.layers
    matrices = 2 * tokens * shapes.linear_numbers * shapes.layers
    adapters = 2 * tokens * adapter_numbers(shapes, setup)
    head = 2 * setup.rows * setup.num_forwards * setup.answer_tokens * shapes.vocab * shapes.hidden
    again = 0.0
    if setup.gradient_checkpointing:
        down = 0 if "down_proj" in setup.target_modules else shapes.hidden * shapes.intermediate
        again = matrices - 2 * tokens * down * shapes.layers + attention + adapters
    return 2 * matrices + 3 * (attention + adapters) + again + 2 * head


def step_time(shapes: Shapes, setup: Setup, machine: Machine) -> StepTime:
    """Seconds of a step.

    Raises:
        ConfigError: several processes on a machine without a `link`.
    """
    if setup.num_processes > 1 and machine.link is None:
        raise ConfigError("machine.link: expected bytes a second between the processes; got None")
    link = machine.link or 1.0  # unused by one process
    others = setup.num_processes - 1
    found = memory(shapes, setup)
    trained = FLOAT32 * (adapter_numbers(shapes, setup) + posterior_numbers(shapes, setup))
    blocks = shapes.layers * (shapes.linear_numbers + shapes.other_numbers) * setup.bytes
    received = GATHERS * blocks * others / setup.num_processes if setup.shard_base else 0.0
    passes = (3 if setup.gradient_checkpointing else 2) * setup.num_forwards
    read = blocks if setup.shard_base else found.base - shapes.outside_numbers * setup.bytes
    return StepTime(
        compute=step_flops(shapes, setup) / machine.flops,
        weights=passes * read / machine.bandwidth,
        gather=setup.num_forwards * received / link,
        gradients=2 * others / setup.num_processes * trained / link,
        optimizer=2 * (found.optimizer + found.copies + found.gradients + trained) / machine.bandwidth,
    )
