"""How much faster are S draws at once than one after the other, and do they write the same?

    python examples/generation_speed.py                    # SmolLM2-135M, 8 draws, 32 tokens: some minutes on two cores
    python examples/generation_speed.py --dtype bfloat16   # as the model comes: faster, and near ties part (docs)
    python examples/generation_speed.py --run runs/short   # the posterior of a run

The loop is plain transformers: `network.generate` with one draw held, once for each. Both take turns in one process.
Without a run, the posterior is BLoB's about a fresh adapter whose B is random, so that the draws write different texts.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

import pyro
import torch
from torch import Tensor

import blob_pyro as bp
from blob_pyro.prediction.generation import hold_draws

PROMPTS = (
    "Tweet: my flight was late again and nobody told us why.\nSentiment:",
    "The best thing about living near the sea is",
    "Once upon a time there was a small robot who",
    "To make a good cup of tea, you first",
    "The three largest cities of France are",
)

Writer = Callable[[bp.BayesianLoRA, bp.guides.AdapterGuide, str, int, int], Tensor]


@dataclass(frozen=True)
class Speed:
    """What was measured.

    Attributes:
        loop: median seconds of S calls of `network.generate`.
        batch: median seconds of `bp.generate` in mode "per_draw".
        average: median seconds of mode "average".
        equal: texts that are the same token for token.
        texts: texts that were compared.
        distinct: different texts among the loop's.
    """

    loop: float
    batch: float
    average: float
    equal: int
    texts: int
    distinct: int

    def __str__(self) -> str:
        return (
            f"loop {self.loop:.2f} s, per_draw {self.batch:.2f} s ({self.loop / self.batch:.1f} times as fast), "
            f"average {self.average:.2f} s ({self.loop / self.average:.1f}); "
            f"{self.equal} of {self.texts} texts equal token for token ({self.distinct} different ones)"
        )


def make(base: str, dtype: str, run: str | None) -> tuple[bp.BayesianLoRA, bp.guides.AdapterGuide]:
    """A run's model and guide; or an untrained pair with a random B."""
    if run is not None:
        found = bp.load(run)
        return found.model, found.guide
    likelihood = bp.MultipleChoice([5, 6])  # it plays no part
    model = bp.BayesianLoRA.from_pretrained(base, likelihood, r=8, lora_alpha=16, dtype=dtype)
    for name, parameter in model.network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model, bp.BLoBGuide(model, eps=0.15)


def loop(model: bp.BayesianLoRA, guide: bp.guides.AdapterGuide, prompt: str, num_draws: int, length: int) -> Tensor:
    """(S, T) tokens, one draw after the other."""
    inputs = model.tokenizer(prompt, return_tensors="pt")
    texts = []
    for draw in bp.PosteriorPredictive(model, guide, num_draws).sample_draws():
        with hold_draws(model, draw):
            whole = model.network.generate(**inputs, max_new_tokens=length, do_sample=False)
        texts.append(whole[0, inputs["input_ids"].shape[1] :])
    return torch.stack(texts)


def at_once(
    mode: str, model: bp.BayesianLoRA, guide: bp.guides.AdapterGuide, prompt: str, num_draws: int, length: int
) -> Tensor:
    """(S, T) tokens, or (1, T) in mode "average"."""
    return bp.generate(model, guide, prompt, num_draws=num_draws, mode=mode, max_new_tokens=length).tokens[0]


def measure(
    model: bp.BayesianLoRA, guide: bp.guides.AdapterGuide, num_draws: int = 8, length: int = 32, rounds: int = 1
) -> Speed:
    """Write behind every prompt by the loop and at once, in turn, `rounds` times over."""
    writers: dict[str, Writer] = {"loop": loop, **{mode: partial(at_once, mode) for mode in ("per_draw", "average")}}
    seconds: dict[str, list[float]] = {name: [] for name in writers}
    counts = torch.zeros(3, dtype=torch.long)
    model.network.generation_config.eos_token_id = None  # the same number of tokens everywhere
    model.network.eval()
    for seed, prompt in product(range(rounds), PROMPTS):
        found = {}
        for name, write in writers.items():
            pyro.set_rng_seed(seed)
            start = time.perf_counter()
            found[name] = write(model, guide, prompt, num_draws, length)
            seconds[name].append(time.perf_counter() - start)
        same = (found["loop"] == found["per_draw"]).all(-1).sum()
        counts += torch.tensor([same, num_draws, len(found["loop"].unique(dim=0))])
    one_by_one, per_draw, average = (statistics.median(values) for values in seconds.values())
    equal, texts, distinct = counts.tolist()
    return Speed(one_by_one, per_draw, average, equal, texts, distinct)


def main() -> None:
    """Measure, and print a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="smollm2", help="a model without a run (default: smollm2)")
    parser.add_argument("--dtype", default="float32", help="of its weights (default: float32)")
    parser.add_argument("--run", help="a run directory")
    parser.add_argument("--num_draws", type=int, default=8)
    parser.add_argument("--max_new_tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=1, help="times every prompt is written, each with other draws")
    options = parser.parse_args()
    pyro.set_rng_seed(0)
    print(
        measure(
            *make(options.base, options.dtype, options.run), options.num_draws, options.max_new_tokens, options.rounds
        )
    )


if __name__ == "__main__":
    main()
