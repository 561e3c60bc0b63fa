"""What a training step needs, by arithmetic alone: bytes of each process, operations, seconds. Nothing is loaded.

    shapes = Shapes.of(AutoConfig.from_pretrained("meta-llama/Meta-Llama-3-70B"))
    setup = Setup(dtype="bfloat16", num_processes=8, shard_base=True, gradient_checkpointing=True)
    memory(shapes, setup).total, step_time(shapes, setup, Machine(flops=400e12, bandwidth=3e12, link=300e9)).least

`examples/check_cost_model.py` compares it with what this machine does; docs/cost_model.md has the comparison.
From a checkout: `PYTHONPATH=examples python`.
"""

from cost_model.memory import Memory, adapter_numbers, memory, posterior_numbers
from cost_model.setup import Setup
from cost_model.shapes import Shapes
from cost_model.time import Machine, StepTime, step_flops, step_time

__all__ = [
    "Machine",
    "Memory",
    "Setup",
    "Shapes",
    "StepTime",
    "adapter_numbers",
    "memory",
    "posterior_numbers",
    "step_flops",
    "step_time",
]
