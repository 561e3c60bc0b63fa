"""One command for a GPU: does it compute what the CPU does, and what do a step, a prediction and a text cost there?

    python examples/gpu_check.py                            # on "cuda", under five minutes
    python examples/gpu_check.py --layers 32 --budget 1200  # all blocks of a Llama-2-7B
    python examples/gpu_check.py --device cpu               # a rehearsal without a GPU: a tiny network, half a minute

It takes the installed package alone (and same_numbers.py beside this file); all weights are random. First a small Llama
in float32, bfloat16 and 4 bit on the CPU and on the device (same_numbers.py): a larger error than allowed is a line and
exit code 1. Then layers of Llama-2-7B's shapes, as `blob-pyro bench` has them: ratios against plain PEFT LoRA, tokens a
second of texts under N = 10 draws, and peak memory in fresh processes. What there is no time or memory for is left out
and told. gpu_check.json has all of it, gpu_check.md a table for docs/performance.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import shlex
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from same_numbers import ALLOWED, KINDS, NETWORK, TINY, Check, compare, save_network

import blob_pyro as bp
from blob_pyro.errors import BlobPyroError
from blob_pyro.experiments.bench import LLAMA_7B, BenchResult, BenchSettings, Case, Measurement
from blob_pyro.experiments.bench.clock import interleaved, ratio
from blob_pyro.experiments.bench.measure import check_device, measure, plan, synchronizer
from blob_pyro.experiments.bench.memory import measure_memory
from blob_pyro.experiments.bench.networks import Base
from blob_pyro.experiments.bench.results import now
from blob_pyro.report import markdown_table
from blob_pyro.system.files import write_output
from blob_pyro.system.machine import describe_machine
from blob_pyro.system.terminal import quiet_libraries

TIMED = ("bfloat16", "4-bit")
NUM_DRAWS = 10
NEW_TOKENS = 32
FIRST = 20.0  # seconds that the first task of a part is taken to need


def on_gpu(device: str) -> bool:
    """Whether it has the room and the speed for Llama-2-7B's shapes."""
    return device.startswith("cuda")


def settings_of(kind: str, options: argparse.Namespace, folder: str) -> BenchSettings:
    """What is timed: layers of Llama-2-7B's shapes, or on a CPU the tiny network of a folder."""
    shapes: dict[str, Any] = {"model": LLAMA_7B, "layers": (options.layers,), "length": (300,), "rounds": 10}
    if not on_gpu(options.device):
        shapes = {"model": folder, "length": (16,), "num_prompts": 3, "max_length": 24, "rounds": 2, "warmup": 1}
    return BenchSettings(
        parts=("train", "predict"), contenders=("lora_full", "lora_answer", "blob"), memory=False, **KINDS[kind],
        target_modules=("q_proj", "v_proj", "lm_head"), num_samples=(NUM_DRAWS,), device=options.device, **shapes,
    )  # fmt: skip


def write_texts(settings: BenchSettings, base: Base) -> dict[str, Any]:
    """Seconds of a text by plain PEFT LoRA, and of N = 10 texts, or of one text that averages N draws, by ours."""
    model = bp.BayesianLoRA(base.adapted(max(settings.layers, default=None)), base.likelihood)
    guide, device = bp.BLoBGuide(model), settings.device
    plain = base.adapted(max(settings.layers, default=None), plain=True).eval()
    for network in (plain, model.network):
        network.generation_config.eos_token_id = None  # the same number of tokens everywhere
    ids = torch.randint(base.vocab_size, (1, 32), generator=torch.Generator().manual_seed(3)).to(device)
    prompt = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    length = 4 if settings.model != LLAMA_7B else NEW_TOKENS
    ours: dict[str, Any] = {"num_draws": NUM_DRAWS, "max_new_tokens": length}
    seconds = interleaved(
        {
            "plain": lambda _: plain.generate(**prompt, max_new_tokens=length, do_sample=False, pad_token_id=0),
            "per_draw": lambda _: bp.generate(model, guide, prompt, mode="per_draw", **ours),
            "average": lambda _: bp.generate(model, guide, prompt, mode="average", **ours),
        },
        rounds=3, warmup=1, synchronize=synchronizer(device),
    )  # fmt: skip
    texts = {"plain": 1, "per_draw": NUM_DRAWS, "average": 1}
    return {
        name: {"seconds": values, "tokens_per_second": texts[name] * length / sorted(values)[len(values) // 2]}
        | {"ratio_to_plain": dataclasses.asdict(ratio(values, seconds["plain"]))}
        for name, values in seconds.items()
    }


# --- the whole of it ---


@dataclass
class Findings:
    """All that was found so far, written anew after each part.

    Attributes:
        options: the command's.
        command: its words.
        checks: of the same numbers.
        timed: kind -> ratios and memory.
        texts: kind -> speeds of generation.
        left_out: what there was no time or memory for.
        failed: what ended in an error.
        took: part -> seconds of its last task.
    """

    options: argparse.Namespace
    command: str
    date: str = field(default_factory=now)
    started: float = field(default_factory=time.monotonic)
    checks: list[Check] = field(default_factory=list)
    timed: dict[str, BenchResult] = field(default_factory=dict)
    texts: dict[str, Any] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    took: dict[str, float] = field(default_factory=dict)

    def attempt(self, part: str, name: str, task: Callable[[], object]) -> None:
        """Do a task, unless it would end too late by what the last of its part took; what stops it is a line."""
        began = time.monotonic()
        if began - self.started + self.took.get(part, FIRST) > self.options.budget:
            self.left_out.append(f"{part}, {name}: no time within {self.options.budget:g} s (--budget)")
        else:
            print(f"{part}, {name} ...", file=sys.stderr, flush=True)
            self._do(f"{part}, {name}", task)
            self.took[part] = time.monotonic() - began
        self.save()

    def _do(self, name: str, task: Callable[[], object]) -> None:
        try:
            task()
        except Exception as error:  # of whatever kind: the other parts have figures of their own
            line = next(iter(str(error).splitlines()), "")
            if isinstance(error, torch.OutOfMemoryError) or "OutOfMemoryError" in line:
                self.left_out.append(f"{name}: out of memory; take fewer --layers than {self.options.layers}")
            else:
                self.failed.append(f"{name}: {type(error).__name__}: {line}")
        gc.collect()
        if on_gpu(self.options.device):
            with suppress(RuntimeError):  # behind an error of the device every call fails
                torch.cuda.empty_cache()

    def problems(self) -> list[str]:
        """A line for each error that is larger than allowed, what was not compared, and each part that failed."""
        missing = [kind for kind in KINDS if kind not in {check.kind for check in self.checks}]
        wrong = [str(check) for check in self.checks if not check.ok]
        return wrong + [f"{kind}: not compared" for kind in missing] + self.failed

    def save(self) -> None:
        """The JSON file, and the table beside it."""
        machine = describe_machine(self.options.device)
        record = {
            "command": self.command, "date": self.date, "machine": machine, "layers": self.options.layers,
            "seconds": round(time.monotonic() - self.started, 1), "problems": self.problems(),
            "left_out": self.left_out,
            "checks": [dataclasses.asdict(check) | {"ok": check.ok} for check in self.checks],
            "bench": {kind: result.record() for kind, result in self.timed.items()}, "generation": self.texts,
        }  # fmt: skip
        write_output(self.options.output, json.dumps(record, indent=1) + "\n")
        write_output(self.options.output.with_suffix(".md"), self.table(machine) + "\n")

    def table(self, machine: Mapping[str, str | int]) -> str:
        """A paragraph and a Markdown table, as docs/performance.md has them."""
        names = ("torch", "transformers", "peft", "pyro", "bitsandbytes")
        versions = ", ".join(f"{name} {machine[name]}" for name in names)
        shapes = f"{self.options.layers} layer(s) of Llama-2-7B's shapes" if machine.get("gpu") else "a tiny network"
        head = (
            f"`{self.command}`, {self.date[:10]}: {machine.get('gpu', machine['processor'])}, "
            f"Python {machine['python']}, {versions}. Times and memory: {shapes}."
        )
        parts = [head, markdown_table(["", *KINDS], list(self._rows())) if self.checks or self.timed else "no figures"]
        return "\n\n".join([*parts, *(f"Left out: {line}." for line in self.left_out), *self.problems()])

    def _rows(self) -> Iterator[list[str]]:
        errors = {(check.quantity, check.kind, check.device): check for check in self.checks}
        for device in dict.fromkeys(("cpu", self.options.device)):
            for name in ALLOWED:
                found = [errors.get((name, kind, device)) for kind in KINDS]
                cells = ["-" if one is None else f"{one.error:.1e} (at most {one.allowed:g})" for one in found]
                yield [f"error of {name} on {device}", *cells]
        lines = {kind: dict(timed_cells(result)) for kind, result in self.timed.items()}
        lines |= {kind: lines.get(kind, {}) | dict(text_cells(found)) for kind, found in self.texts.items()}
        for name in dict.fromkeys(name for cells in lines.values() for name in cells):
            yield [name, *(lines.get(kind, {}).get(name, "-") for kind in KINDS)]


def timed_cells(result: BenchResult) -> Iterator[tuple[str, str]]:
    """Lines of the table: ratios, our median time, and memory where it was measured."""
    settings = result.settings
    items = f"{settings.num_prompts} x {settings.min_length} to {settings.max_length} tokens"
    for one in result.measurements:
        train = one.case.part == "train"
        what = f"a step, {settings.batch_size} x {one.case.length} tokens" if train else f"N = {NUM_DRAWS}, {items}"
        for pair in one.pairs():
            spread = one.ratio(*pair)
            name = " / ".join(pair)
            yield f"{what}: {name}", f"{spread.median:.2f} ({spread.lower:.2f} to {spread.upper:.2f})"
            if (memory := one.memory_ratio(*pair)) is not None:
                yield f"{what}: {name}, peak memory", f"{memory:.3f}"
        yield f"{what}: blob, ms", f"{1000 * one.median('blob'):.1f}"
        if "blob" in one.memory:
            yield f"{what}: blob, peak MiB", f"{one.memory['blob'].peak / 2**20:,.0f}"


def text_cells(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Lines of the table: tokens a second."""
    names = {"plain": "plain LoRA, one text", "per_draw": f"{NUM_DRAWS} texts, a draw each",
             "average": f"one text, {NUM_DRAWS} draws averaged"}  # fmt: skip
    for name, what in names.items():
        yield f"generation, {what}: tokens/s", f"{found[name]['tokens_per_second']:.1f}"


def check_numbers(findings: Findings, folder: str, kind: str) -> None:
    findings.checks += compare(folder, kind, findings.options.device)


def time_kind(findings: Findings, folder: str, kind: str) -> None:
    """Ratios and generation, on one base."""
    settings = settings_of(kind, findings.options, folder)
    base = Base(settings)
    cases, measured = plan(settings, base), list[Measurement]()
    settings = rounds_within(findings.options.budget / 5, settings, cases, base)
    for case in cases:
        measured.append(measure(settings, case, base))
        machine = describe_machine(settings.device)
        findings.timed[kind] = BenchResult(settings, findings.command, findings.date, machine, tuple(measured))
    findings.texts[kind] = write_texts(settings, base)


def rounds_within(seconds: float, settings: BenchSettings, cases: Sequence[Case], base: Base) -> BenchSettings:
    """As many rounds as settings ask for, or those that there is time for by a trial of one; two at least."""
    trial = dataclasses.replace(settings, rounds=1, warmup=1)
    one = sum(sum(map(sum, measure(trial, case, base).seconds.values())) for case in cases)
    fitting = int(seconds / one) - settings.warmup
    return dataclasses.replace(settings, rounds=max(2, min(settings.rounds, fitting)))


def weigh(findings: Findings, kind: str, part: str) -> None:
    """Peak memory of ours and of plain LoRA, each in a fresh process."""
    result = findings.timed[kind]
    at = next(at for at, one in enumerate(result.measurements) if one.case.part == part)
    one = result.measurements[at]
    memory = {name: measure_memory(result.settings, one.case, name) for name in ("lora_full", "blob")}
    measured = [*result.measurements]
    measured[at] = dataclasses.replace(one, memory=memory)
    findings.timed[kind] = dataclasses.replace(result, measurements=tuple(measured))


def run(findings: Findings) -> None:
    """Every part, those first without which the others say nothing."""
    options = findings.options
    with tempfile.TemporaryDirectory(prefix="blob_pyro_check_") as name:
        folder = save_network(Path(name), NETWORK if on_gpu(options.device) else TINY)
        for kind in KINDS:
            findings.attempt("numbers", kind, partial(check_numbers, findings, folder, kind))
        for kind in TIMED:
            findings.attempt("times", kind, partial(time_kind, findings, folder, kind))
        measured = [(kind, one.case.part) for kind, result in findings.timed.items() for one in result.measurements]
        for kind, part in measured if on_gpu(options.device) else measured[:1]:
            findings.attempt("memory", f"{kind} {part}", partial(weigh, findings, kind, part))


def most_layers(device: str) -> int:
    """4, or as many as fit a smaller GPU at 3 GiB each: weights, what a step keeps, and the head's logits."""
    if not on_gpu(device):
        return TINY["num_hidden_layers"]
    free, _ = torch.cuda.mem_get_info(torch.device(device))
    return max(1, min(4, free // (3 * 2**30)))


def main(words: Sequence[str] | None = None) -> int:
    """Check and measure; 0 where all is well, 1 where a number is off or a part failed, 2 for what cannot be asked."""
    words = list(sys.argv[1:] if words is None else words)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="what is checked and timed: cuda (default), cuda:1, cpu")
    parser.add_argument("--layers", type=int, help="of Llama-2-7B's 32, to be timed (default: 4, of a small GPU fewer)")
    parser.add_argument("--budget", type=float, default=280, help="seconds in which it ends (default: 280)")
    parser.add_argument(
        "--output", type=Path, default=Path("gpu_check.json"), help="the JSON; the table lies beside it"
    )
    options = parser.parse_args(words)
    try:
        check_device(options.device)
        if options.layers is None:
            options.layers = most_layers(options.device)
        settings_of("bfloat16", options, ".")  # refuses what cannot be before anything is computed
        findings = Findings(options, shlex.join(["python", "examples/gpu_check.py", *words]))
        with quiet_libraries(), warnings.catch_warnings(action="ignore"):
            run(findings)
    except BlobPyroError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2
    print(options.output.with_suffix(".md").read_text(encoding="utf-8"), end="")
    for line in findings.problems():
        print(f"gpu_check: {line}", file=sys.stderr)
    return 1 if findings.problems() else 0


if __name__ == "__main__":
    sys.exit(main())
