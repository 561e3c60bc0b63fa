"""What a launcher was told (`accelerate config`, options of `accelerate launch`): done here, or refused in one line.

accelerate hands it to the processes in environment variables. Which of these are done, by whom, and what to take in
place of the others: docs/scaling.md.
"""

from __future__ import annotations

import os
import sys
import warnings
from typing import Any

import torch.distributed as dist

from blob_pyro.errors import ConfigError

_OFF = ("", "0", "false", "f", "no", "n", "off")
_SHARDED = "launch with --multi_gpu, and set model.shard_base: true, which gives each process a share of the base"
_REFUSED = {
    "ACCELERATE_USE_FSDP": ("no FSDP of accelerate's", _SHARDED),
    "ACCELERATE_USE_DEEPSPEED": ("no DeepSpeed", _SHARDED),
    "ACCELERATE_USE_MEGATRON_LM": ("no Megatron-LM", _SHARDED),
    "ACCELERATE_USE_PARALLELISM_CONFIG": ("no parallelism_config", _SHARDED),
    "ACCELERATE_DYNAMO_BACKEND": ("no compilation", "launch with --dynamo_backend no"),
    "ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE": ("SageMaker's distributed_type 'NO'", "start the processes with torchrun"),
    "ACCELERATE_IN_TPU_POD": ("GPUs or CPUs", "TPUs are not supported: launch on one of these"),
}
"""Of each variable what is expected of it, and what to do where it says something else."""

_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")


def refuse_unsupported() -> None:
    """Refuse what this library does not do, and processes that accelerate was told of and has not started.

    Raises:
        ConfigError: names the environment variable.
    """
    for name, (expected, advice) in _REFUSED.items():
        if _is_on(name):
            raise ConfigError(f"accelerate: expected {expected}; got {name}={os.environ[name]}: {advice}")
    precision = _mixed_precision()
    if precision not in ("no", "bf16", "fp16"):
        raise ConfigError(
            f"accelerate: expected mixed_precision no, bf16 or fp16; got ACCELERATE_MIXED_PRECISION={precision}: "
            "launch with one of these, and set train.mixed_precision to it"
        )
    if num_launched() == 1 and _is_on("ACCELERATE_CPU_AFFINITY"):
        raise ConfigError(
            "accelerate: expected several processes for enable_cpu_affinity; got one, which is not pinned "
            "(ACCELERATE_CPU_AFFINITY): launch without it, below numactl"
        )
    if _by_accelerate() and "MASTER_ADDR" in os.environ and num_launched() == 1 and "WORLD_SIZE" not in os.environ:
        raise ConfigError(
            f"accelerate: expected the processes that it was told of (MASTER_ADDR={os.environ['MASTER_ADDR']}); got "
            "this one alone, for it starts no more without --multi_gpu or --mpirun_hostfile: launch with --multi_gpu, "
            "which needs no GPU, or with torchrun (where one is meant, unset MASTER_ADDR)"
        )


def check_training(mixed_precision: str, gradient_accumulation_steps: int) -> None:
    """Refuse a training whose settings are not those of the launcher. Where that says nothing they hold.

    Args:
        mixed_precision: of the training.
        gradient_accumulation_steps: of the training.

    Raises:
        ConfigError: they differ, or as `refuse_unsupported`.
    """
    refuse_unsupported()
    own = {"mixed_precision": mixed_precision, "gradient_accumulation_steps": str(gradient_accumulation_steps)}
    told = {"mixed_precision": _mixed_precision()}
    told["gradient_accumulation_steps"] = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    nothing = {"mixed_precision": "no", "gradient_accumulation_steps": "1"}
    for name, value in told.items():
        if value not in (nothing[name], own[name]):
            raise ConfigError(
                f"train.{name}: expected {value}, as accelerate was told (ACCELERATE_{name.upper()}); got {own[name]}: "
                f"set it to that, or launch with --{name} {nothing[name]}"
            )


def refuse_device_map(device_map: Any) -> None:
    """Refuse a map to another device where accelerate was told to take the CPU.

    Args:
        device_map: `model.device_map`.

    Raises:
        ConfigError: it names one.
    """
    if told_to_use_cpu() and device_map not in (None, "cpu", {"": "cpu"}):
        raise ConfigError(
            "model.device_map: expected cpu, or null, as accelerate was told to use the CPU (ACCELERATE_USE_CPU); got "
            f"{device_map}: leave one of them out"
        )


def warn_of_others(mixed_precision: str, gradient_accumulation_steps: int) -> None:
    """Tell of processes that nobody has connected, and of an `Accelerator` of this process with other settings.

    Args:
        mixed_precision: of the training.
        gradient_accumulation_steps: of the training.
    """
    if (count := num_launched()) > 1 and not (dist.is_available() and dist.is_initialized()):
        warnings.warn(
            f"a launcher has started {count} processes that nothing has connected: each trains alone, on all items; "
            "call accelerate.PartialState() first to have them train together",
            stacklevel=3,
        )
    own = {"mixed_precision": mixed_precision, "gradient_accumulation_steps": gradient_accumulation_steps}
    for name, value in _accelerator().items():
        if value not in ("no", 1, own[name]):
            warnings.warn(
                f"an accelerate.Accelerator (or a Trainer's) of this process has {name}={value}, which acts on what it "
                f"prepares alone; this training has {name}={own[name]}",
                stacklevel=3,
            )


def num_launched() -> int:
    """How many processes a launcher has started: torchrun, accelerate, or mpirun for accelerate on CPUs."""
    names = _SIZES if _by_accelerate() and told_to_use_cpu() else _SIZES[:1]  # srun sets PMI_SIZE of any processes
    return max(int(os.environ.get(name, "1")) for name in names)


def told_to_use_cpu() -> bool:
    """`accelerate launch --cpu`, or its environment variable."""
    return _is_on("ACCELERATE_USE_CPU")


def _is_on(name: str) -> bool:
    return os.environ.get(name, "").lower() not in _OFF


def _by_accelerate() -> bool:
    return "ACCELERATE_MIXED_PRECISION" in os.environ  # it always sets this one


def _mixed_precision() -> str:
    return os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()


def _accelerator() -> dict[str, Any]:
    """The settings of an `Accelerator` that this process has made; none where it has made none."""
    state = sys.modules.get("accelerate.state")
    if state is None or not state.is_initialized():
        return {}
    found = {"mixed_precision": state.AcceleratorState().mixed_precision}
    return found | {"gradient_accumulation_steps": state.GradientState().num_steps}
