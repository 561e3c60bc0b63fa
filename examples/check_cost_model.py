"""What the cost model predicts, beside what this machine does: memory and time of training steps, as a table.

    python examples/check_cost_model.py                       # all cases, about twenty minutes on two cores
    python examples/check_cost_model.py --rounds 3 --only 0 1

A network of SmolLM2-135M's shapes with random weights is trained for a few steps under each setup, in fresh processes
of one thread each (several are started by torchrun). Memory: resident memory of the first process, once the model
stands, and the most of three steps beyond that. Time: medians of steps that alternate with probes of what the machine
reaches at that moment (a product of the MLP's matrix, a copy, and with several processes an exchange of a block), since
other work slows both down; the prediction is made with the probes' speeds. The ratios are predicted / measured.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from cost_model import Machine, Setup, Shapes, memory, step_flops, step_time
from peft import LoraConfig, get_peft_model
from torch import Tensor

import blob_pyro as bp
from blob_pyro.experiments.bench.clock import interleaved
from blob_pyro.experiments.bench.memory import memory_meter
from blob_pyro.model.layers.checkpointing import enable_checkpointing
from blob_pyro.model.layers.sharding import shard_base
from blob_pyro.report import markdown_table
from blob_pyro.system.processes import Ranks, connected
from blob_pyro.system.terminal import quiet_libraries

SMOLLM2: dict[str, Any] = {
    "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
    "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True,
}  # fmt: skip
TINY = SMOLLM2 | {"num_hidden_layers": 2, "vocab_size": 256}
FLOAT32: dict[str, Any] = {"dtype": "float32", "attn_implementation": "sdpa"}
BFLOAT16: dict[str, Any] = {"dtype": "bfloat16", "attn_implementation": "eager"}
CASES = [
    Setup(**FLOAT32, length=64),
    Setup(**FLOAT32, length=256),
    Setup(**FLOAT32, length=128, batch_size=8),
    Setup(**FLOAT32, length=256, gradient_checkpointing=True),
    Setup(**FLOAT32, length=256, num_processes=2),
    Setup(**FLOAT32, length=256, num_processes=2, shard_base=True),
    Setup(**BFLOAT16, length=64),
    Setup(**BFLOAT16, length=256),
    Setup(**BFLOAT16, length=128, batch_size=8),
    Setup(**BFLOAT16, length=256, gradient_checkpointing=True),
    Setup(**BFLOAT16, length=256, num_processes=2),
    Setup(**BFLOAT16, length=256, num_processes=2, shard_base=True),
    Setup(**FLOAT32, length=256, num_processes=2, shard_base=True, gradient_checkpointing=True),
    Setup(**BFLOAT16, length=256, num_processes=2, shard_base=True, gradient_checkpointing=True),
]
EXACT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # freed memory goes back at once


@dataclass(frozen=True)
class Found:
    """What a process measured: bytes, or seconds and speeds; the others are 0."""

    loaded: int = 0
    above: int = 0
    step: float = 0.0
    flops: float = 0.0
    bandwidth: float = 0.0
    link: float = 0.0


def build(setup: Setup, config: dict[str, Any]) -> tuple[bp.BLoBSVI, bp.Batch]:
    """A random network as `setup` has it, ready to train, and a batch without padding."""
    torch.manual_seed(0)
    network = transformers.AutoModelForCausalLM.from_config(
        transformers.LlamaConfig(**config),
        dtype=getattr(torch, setup.dtype),
        attn_implementation=setup.attn_implementation,
    )
    lora = LoraConfig(r=setup.r, lora_alpha=16, target_modules=list(setup.target_modules), task_type="CAUSAL_LM")
    model = bp.BayesianLoRA(get_peft_model(network, lora), bp.MultipleChoice((5, 6, 7)), num_data=100)
    if setup.gradient_checkpointing:
        enable_checkpointing(model.network.get_base_model())
    ranks = Ranks.here()
    if setup.shard_base:
        shard_base(model.network, ranks)
    model.network.train()
    ids = torch.randint(8, 256, (setup.batch_size, setup.length))
    batch = bp.Batch(ids, torch.ones_like(ids), torch.zeros(setup.batch_size, dtype=torch.long))
    return bp.BLoBSVI(model, bp.BLoBGuide(model), num_steps=100, ranks=ranks), batch


def measure_memory(setup: Setup) -> Found:
    """Resident memory; what libraries take at their first step is taken before."""
    warm, batch = build(setup, TINY)
    with bp.flipout():
        warm.step(batch)
    del warm
    meter = memory_meter("cpu")
    before = meter.restart()
    svi, batch = build(setup, SMOLLM2)
    loaded = meter.restart()
    with bp.flipout():
        for _ in range(3):
            svi.step(batch)
    return Found(loaded=loaded - before, above=meter.peak() - loaded)


def measure_time(setup: Setup, rounds: int) -> Found:
    """Seconds of a step, and what the machine reached between the steps."""
    svi, batch = build(setup, SMOLLM2)
    dtype, tokens = getattr(torch, setup.dtype), setup.rows * setup.length
    x, weight = torch.randn(tokens, 576, dtype=dtype), torch.randn(1536, 576, dtype=dtype)
    large, other = torch.ones(2**25), torch.ones(2**25)
    shapes = Shapes.of(transformers.LlamaConfig(**SMOLLM2))
    block = torch.ones((shapes.linear_numbers + shapes.other_numbers) // setup.num_processes, dtype=dtype)
    gathered = [torch.empty_like(block) for _ in range(setup.num_processes)]
    actions: dict[str, Callable[[int], object]] = {
        "step": lambda _: svi.step(batch),
        "flops": lambda _: [F.linear(x, weight) for _ in range(20)],
        "bandwidth": lambda _: large.copy_(other),
    }
    if setup.num_processes > 1:
        actions["link"] = lambda _: exchange(block, gathered)
    with bp.flipout():
        seconds = interleaved(actions, rounds, 2)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    link = (setup.num_processes - 1) * block.nbytes / median["link"] if "link" in median else 0.0
    return Found(
        step=median["step"], flops=20 * 2 * tokens * weight.numel() / median["flops"],
        bandwidth=2 * large.nbytes / median["bandwidth"], link=link,
    )  # fmt: skip


def exchange(block: Tensor, gathered: list[Tensor]) -> None:
    """Every process's share of a block, to all."""
    torch.distributed.all_gather(gathered, block)


def worker(request: str) -> None:
    """In a process of its own: the first one's findings as the last line."""
    asked = json.loads(request)
    setup = Setup(**asked["setup"] | {"target_modules": tuple(asked["setup"]["target_modules"])})
    torch.set_num_threads(1)
    with quiet_libraries(), connected() as ranks:
        found = measure_memory(setup) if asked["what"] == "memory" else measure_time(setup, asked["rounds"])
        if ranks.is_first:
            print(json.dumps(asdict(found)))


def measured(setup: Setup, what: str, rounds: int) -> Found:
    """What fresh processes find."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(setup.num_processes)]
    request = json.dumps({"setup": asdict(setup), "what": what, "rounds": rounds})
    command = [sys.executable, *(launcher if setup.num_processes > 1 else []), __file__, "--worker", request]
    environment = os.environ | (EXACT_MEMORY if what == "memory" else {})
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        sys.exit(f"a process failed: {done.stderr}")
    return Found(**json.loads(done.stdout.strip().splitlines()[-1]))


def row(setup: Setup, bytes_of: Found, times: Found) -> list[str]:
    """A line of the table."""
    shapes = Shapes.of(transformers.LlamaConfig(**SMOLLM2))
    found = memory(shapes, setup)
    machine = Machine(times.flops, times.bandwidth, times.link or None)
    predicted = step_time(shapes, setup, machine)
    above = found.total - found.loaded
    gflops = f"{step_flops(shapes, setup) / times.step / 1e9:.0f} of {times.flops / 1e9:.0f}"
    kind = "sharded" if setup.shard_base else ""
    return [
        setup.dtype, f"{setup.batch_size} x {setup.length}", "yes" if setup.gradient_checkpointing else "no",
        f"{setup.num_processes} {kind}".strip(),
        mib(found.loaded), mib(bytes_of.loaded), f"{found.loaded / bytes_of.loaded:.2f}",
        mib(above), mib(bytes_of.above), f"{above / bytes_of.above:.2f}",
        f"{predicted.least:.2f} to {predicted.most:.2f}", f"{times.step:.2f}",
        f"{predicted.least / times.step:.2f} to {predicted.most / times.step:.2f}", gflops,
    ]  # fmt: skip


def mib(count: int) -> str:
    return f"{count / 2**20:.0f}"


HEADER = [
    "dtype", "batch", "checkpointing", "processes", "loaded MiB, predicted", "measured", "ratio",
    "above MiB, predicted", "measured", "ratio", "step s, predicted", "measured", "ratio", "GFLOP/s of probe's",
]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="timed steps of each case")
    parser.add_argument("--only", type=int, nargs="*", help=f"cases, of 0 to {len(CASES) - 1}")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker)
        return
    rows = []
    for number in range(len(CASES)) if options.only is None else options.only:
        setup = CASES[number]
        rows.append(row(setup, *(measured(setup, what, options.rounds) for what in ("memory", "time"))))
        print(" | ".join(rows[-1]), file=sys.stderr, flush=True)
    print(markdown_table(HEADER, rows))


if __name__ == "__main__":
    main()
