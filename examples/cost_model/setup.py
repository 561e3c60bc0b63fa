"""`Setup`: how a network is trained, as far as it changes what a step costs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blob_pyro.errors import ConfigError

FLOAT32 = 4  # bytes of a number; adapters, posterior, noise and optimisers have it whatever the base has
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Setup:
    """Settings under the names that a configuration file has for them.

    Attributes:
        batch_size: items of a whole step, over all processes and forwards.
        length: tokens of each item; what is padded counts too.
        r: rank of the adapters.
        target_modules: names of the adapted layers.
        guide: "blob", "mean_field", "low_rank", "scalabl", or a point: "mle", "map", "dropout". Its A is random.
        guide_rank: of low_rank.
        recipe: "blob", "decoupled" or "elbo".
        flipout: whether each item has an A of its own (blob and mean_field).
        dtype: of the base and of what flows between its layers.
        quantization: of the base's matrices in blocks, or None.
        attn_implementation: "sdpa" keeps no probabilities, "eager" keeps them all.
        gradient_checkpointing: keep the inputs of blocks alone.
        num_processes: processes, one a device.
        shard_base: whether each has its share of every block's weights; otherwise each has all.
        gradient_accumulation_steps: forwards of a process in a step.
        answer_tokens: positions of an item at which the whole vocabulary is compared (causal_lm); 0 reads the rows of
            a few answers after the last token (multiple_choice).
        evaluates: whether the best parameters are kept beside (eval_steps).
    """

    batch_size: int = 4
    length: int = 300
    r: int = 8
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    guide: Literal["blob", "mean_field", "low_rank", "scalabl", "mle", "map", "dropout"] = "blob"
    guide_rank: int = 4
    recipe: Literal["blob", "decoupled", "elbo"] = "blob"
    flipout: bool = True
    dtype: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    quantization: Literal["8bit", "4bit"] | None = None
    attn_implementation: Literal["sdpa", "eager"] = "sdpa"
    gradient_checkpointing: bool = False
    num_processes: int = 1
    shard_base: bool = False
    gradient_accumulation_steps: int = 1
    answer_tokens: int = 0
    evaluates: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "length", "r", "guide_rank", "num_processes", "gradient_accumulation_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}: expected at least 1; got {getattr(self, name)}")
        if self.shard_base and (self.quantization or self.num_processes == 1):
            raise ConfigError(
                "shard_base: expected several processes and a base that is not quantised; got "
                f"num_processes {self.num_processes}, quantization {self.quantization}"
            )

    @property
    def num_forwards(self) -> int:
        """Forwards of a process in a step."""
        return min(self.gradient_accumulation_steps, self._longest_share)

    @property
    def rows(self) -> int:
        """Items of the largest forward of a process."""
        return -(-self._longest_share // self.num_forwards)

    @property
    def bytes(self) -> int:
        """Of one number of `dtype`."""
        return BYTES[self.dtype]

    @property
    def is_random(self) -> bool:
        """Whether A is drawn."""
        return self.guide not in ("mle", "map", "dropout")

    @property
    def flips(self) -> bool:
        """Whether each item has an A of its own."""
        return self.flipout and self.guide in ("blob", "mean_field")

    @property
    def _longest_share(self) -> int:
        return -(-self.batch_size // self.num_processes)
