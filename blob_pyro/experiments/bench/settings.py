"""What a benchmark measures (`BenchSettings`), and one point of its grid (`Case`)."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from blob_pyro.config.checks import check
from blob_pyro.config.ranges import MOST_DRAWS, check_range
from blob_pyro.model.loading import DTYPES

PARTS = ("train", "predict", "bookkeeping")
CONTENDERS: dict[str, tuple[str, ...]] = {
    "train": ("lora_full", "lora_answer", "blob", "blob_no_flipout", "naive_pyro"),
    "predict": ("lora_full", "lora_answer", "blob", "predictive"),
    "bookkeeping": ("lora", "blob", "randn"),
}
OURS = ("blob", "blob_no_flipout")
LLAMA_7B = "llama-7b-shaped"


@dataclass(frozen=True)
class BenchSettings:
    """What `blob-pyro bench` measures; fields that hold several values span a grid.

    Attributes:
        parts: "train" (a step), "predict" (N draws over one batch), "bookkeeping" (a step whose network
            costs nothing).
        model: hub id, folder or alias of a causal language model, or "llama-7b-shaped": Llama-2-7B's shapes
            with random weights.
        dtype: type of the base weights; "auto" takes the checkpoint's (bfloat16 for llama-7b-shaped).
        quantization: bitsandbytes quantisation of the base, "8bit" or "4bit".
        layers: how many of the model's first blocks to keep, one or more numbers; none given keeps all.
        batch_size: items in a training batch.
        length: tokens of each item of a training batch, one or more numbers.
        r: rank of the adapters.
        lora_alpha: the adapters are scaled by lora_alpha / r.
        target_modules: names of the adapted layers (the paper adds lm_head).
        num_samples: posterior draws N of a prediction, one or more numbers.
        num_prompts: prompts in the batch of a prediction.
        min_length: tokens of the shortest prompt.
        max_length: tokens of the longest prompt; the others lie evenly between.
        num_sites: adapted layers of the bookkeeping part.
        in_features: width of the bookkeeping part's A matrices.
        device: where the network runs, "cpu" or "cuda".
        attn_implementation: attention of every contender; by default blob's is the library's choice and the
            others' is transformers'.
        contenders: which ones to run; none given runs all. train: lora_full, lora_answer, blob, blob_no_flipout,
            naive_pyro; predict: lora_full, lora_answer, blob, predictive; bookkeeping: lora, blob, randn.
        rounds: timed rounds, each of every contender in turn.
        warmup: rounds before those.
        memory: measure the peak memory of each contender as well, in a process of its own.
        seed: seeds the random weights, the adapters and the token ids.

    Raises:
        ConfigError: a field has a value that cannot work.
    """

    parts: tuple[str, ...] = PARTS
    model: str = "smollm2"
    dtype: str = "auto"
    quantization: str | None = None
    layers: tuple[int, ...] = ()
    batch_size: int = 4
    length: tuple[int, ...] = (64, 128)
    r: int = 8
    lora_alpha: float = 16
    target_modules: tuple[str, ...] = ("q_proj", "v_proj")
    num_samples: tuple[int, ...] = (10,)
    num_prompts: int = 16
    min_length: int = 20
    max_length: int = 125
    num_sites: int = 65
    in_features: int = 4096
    device: str = "cpu"
    attn_implementation: str | None = None
    contenders: tuple[str, ...] = ()
    rounds: int = 10
    warmup: int = 2
    memory: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        values = as_record(self)
        known_device = re.fullmatch(r"cpu|cuda(:\d+)?", self.device) is not None
        check(known_device, "device", "'cpu', 'cuda' or 'cuda:1'", self.device)
        _check_each("parts", self.parts, PARTS)
        _check_each("contenders", self.contenders, sorted({name for names in CONTENDERS.values() for name in names}))
        check(self.dtype in DTYPES, "dtype", f"one of {', '.join(DTYPES)}", self.dtype)
        check(self.quantization in (None, "8bit", "4bit"), "quantization", "'8bit', '4bit' or None", self.quantization)
        for name in ("parts", "length", "num_samples", "target_modules"):
            check(bool(values[name]), name, "at least one value", values[name])
        for name in ("batch_size", "r", "num_prompts", "min_length", "num_sites", "in_features", "rounds"):
            check(values[name] >= 1, name, "at least 1", values[name])
        for name in ("layers", "length", "num_samples"):
            check(all(value >= 1 for value in values[name]), name, "numbers of at least 1", values[name])
        check(0 < self.lora_alpha < math.inf, "lora_alpha", "a number above 0", self.lora_alpha)
        check(self.warmup >= 0, "warmup", "at least 0 rounds", self.warmup)
        check(
            self.max_length >= self.min_length, "max_length", f"at least min_length {self.min_length}", self.max_length
        )
        check(0 <= self.seed < 2**32, "seed", "a whole number from 0 to 4294967295", self.seed)
        counts = (
            "batch_size",
            "r",
            "num_prompts",
            "num_sites",
            "in_features",
            "rounds",
            "warmup",
            "length",
            "max_length",
        )
        for name in (*counts, "max_length"):
            check_range(name, values[name], 0, 1_000_000)
        check_range("num_samples", self.num_samples, 1, MOST_DRAWS)
        takes_part = any(self.names(part) for part in PARTS)
        check(takes_part, "contenders", f"one that takes part in {', '.join(self.parts)}", values["contenders"])

    def names(self, part: str) -> tuple[str, ...]:
        """The contenders of a part, in the order in which they run; none where the part is not measured."""
        chosen = self.contenders or CONTENDERS[part]
        return tuple(name for name in CONTENDERS[part] if name in chosen and part in self.parts)


@dataclass(frozen=True)
class Case:
    """One point of the grid.

    Attributes:
        part: one of `PARTS`.
        layers: blocks of the model; None stands for all.
        length: tokens of each item ("train").
        num_samples: posterior draws N ("predict").
        in_features: width of each adapted layer ("bookkeeping").
        own_sites: those are the model's own adapted layers ("bookkeeping").
    """

    part: str
    layers: int | None = None
    length: int = 0
    num_samples: int = 0
    in_features: tuple[int, ...] = ()
    own_sites: bool = False


def as_record(value: BenchSettings | Case) -> dict[str, Any]:
    """The fields as JSON types."""
    return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(value).items()}


def from_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of the dataclass that `as_record` wrote down."""
    return {name: tuple(v) if isinstance(v, list) else v for name, v in record.items()}


def _check_each(name: str, values: tuple[str, ...], known: tuple[str, ...] | list[str]) -> None:
    for value in values:
        check(value in known, name, f"some of {', '.join(known)}", value)
