"""How far is each guide from the truth? On a tiny network, where NUTS can tell it.

    python examples/reference_posterior.py             # four minutes on one core

The model is the library's own: a one-block Llama with random weights, whose LoRA A matrices (a few hundred entries)
have the Gaussian prior, B being fixed. The labels are drawn from the model at one A from the prior. Pyro's NUTS draws
from the exact posterior; every guide is fitted to the same items, the variational ones to the textbook ELBO.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyro
import torch
import transformers as tf
from peft import LoraConfig, get_peft_model
from pyro.infer import MCMC, NUTS
from torch import Tensor

import blob_pyro as bp
from blob_pyro import guides
from blob_pyro.report import markdown_table

VOCAB, WIDTH, CLASSES = 32, 16, 3
NUM_ITEMS, LENGTH = 32, 6
PRIOR_SCALE = 0.3
LLAMA = tf.LlamaConfig(
    vocab_size=VOCAB,
    hidden_size=WIDTH,
    intermediate_size=WIDTH,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=LENGTH,
    initializer_range=0.5,
    pad_token_id=0,
)

Build = Callable[[bp.BayesianLoRA], guides.AdapterGuide]
GUIDES: dict[str, Build] = {
    "blob": guides.BLoBGuide,
    "mean_field": guides.MeanFieldGuide,
    "low_rank": guides.LowRankGuide,
    "scalabl": guides.ScalaBLGuide,
    "laplace": guides.LaplaceGuide,
    "tfb": guides.TFBGuide,
    "dropout": guides.DropoutGuide,
    "map": guides.MAPGuide,
    "mle": guides.MLEGuide,
}


@dataclass(frozen=True)
class Distance:
    """How a guide differs from the reference.

    Attributes:
        mean: root mean square of (mean - reference mean) / reference standard deviation over all entries of A.
        scale: median ratio of the standard deviations, guide over reference; 0 for a point.
        total_variation: mean over fresh items of half the sum of |p - reference p|, p being the predictive.
    """

    mean: float
    scale: float
    total_variation: float


def make_model(seed: int = 0) -> tuple[bp.BayesianLoRA, bp.Batch, bp.Batch]:
    """The model with B fixed, its labelled items, and fresh items of the same kind."""
    torch.manual_seed(seed)
    adapter = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM")
    network = get_peft_model(tf.LlamaForCausalLM(LLAMA), adapter).eval()
    for name, parameter in network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.5)
            parameter.requires_grad_(False)
    model = bp.BayesianLoRA(network, bp.MultipleChoice((3, 4, 5)), prior_scale=PRIOR_SCALE, num_data=NUM_ITEMS)
    items, fresh = (
        bp.Batch(torch.randint(6, VOCAB, (count, LENGTH)), torch.ones(count, LENGTH, dtype=torch.long))
        for count in (NUM_ITEMS, 200)
    )
    truth = {site: model.prior(site).sample() for site in model.sites}
    with torch.no_grad():
        labels = torch.distributions.Categorical(logits=model.logits(items, truth)).sample()
    return model, bp.Batch(items.input_ids, items.attention_mask, labels=labels), fresh


def reference(model: bp.BayesianLoRA, items: bp.Batch, num_samples: int, warmup_steps: int) -> dict[str, Tensor]:
    """Draws from the exact posterior, site -> (num_samples, r, n)."""
    start = {site: model.prior(site).sample() for site in model.sites}
    model.network.requires_grad_(False)  # A alone is drawn; a traced function takes no other leaf
    kernel = NUTS(model, target_accept_prob=0.8, max_tree_depth=6, jit_compile=True, ignore_jit_warnings=True)
    chain = MCMC(kernel, num_samples, warmup_steps, initial_params=start, disable_progbar=True)
    chain.run(items)
    draws: dict[str, Tensor] = chain.get_samples()
    return draws


def fitted(build: Build, num_steps: int, seed: int = 0) -> tuple[bp.BayesianLoRA, guides.AdapterGuide]:
    """A fresh copy of the model with a guide fitted to its items."""
    model, items, _ = make_model(seed)
    torch.manual_seed(seed + 1)
    guide = build(model)
    trained = guides.GUIDES[guide.trained_as](model) if isinstance(guide, guides.PostHocGuide) else guide
    svi = bp.BLoBSVI(model, trained, recipe="elbo", lr=0.02, num_steps=num_steps)
    for _ in range(num_steps):
        svi.step(items)
    if isinstance(guide, guides.PostHocGuide):
        guide.fit([items])
    return model, guide


def predictive(model: bp.BayesianLoRA, draws: Mapping[str, Tensor], fresh: bp.Batch) -> Tensor:
    """Mean of the draws' probabilities, (items, classes)."""
    with torch.no_grad():
        return model.logits(fresh, draws).softmax(-1).mean(0)


def distance(build: Build, truth: Mapping[str, Tensor], num_steps: int, num_samples: int) -> Distance:
    """How far a fitted guide is from the reference draws."""
    model, guide = fitted(build, num_steps)
    _, _, fresh = make_model()
    with torch.no_grad():
        found = guide.sample_draws(num_samples)
        draws = {site: torch.stack([draw[site] for draw in found]) for site in model.sites}
        gaps = [(guide.loc(site) - truth[site].mean(0)) / truth[site].std(0) for site in model.sites]
        ratios = [guide.scale(site) / truth[site].std(0) for site in model.sites]
    apart = predictive(model, draws, fresh) - predictive(model, truth, fresh)
    return Distance(
        mean=float(torch.cat([gap.flatten() for gap in gaps]).square().mean().sqrt()),
        scale=float(torch.cat([ratio.flatten() for ratio in ratios]).median()),
        total_variation=float(apart.abs().sum(-1).mean() / 2),
    )


def distances(num_samples: int, warmup_steps: int, num_steps: int) -> dict[str, Distance]:
    """Every guide's distance; "NUTS again" is a second chain, which tells how exact the first one is."""
    model, items, fresh = make_model()
    pyro.set_rng_seed(7)
    truth = reference(model, items, num_samples, warmup_steps)
    again = reference(model, items, num_samples, warmup_steps)
    apart = predictive(model, again, fresh) - predictive(model, truth, fresh)
    gaps = torch.cat([((again[s].mean(0) - truth[s].mean(0)) / truth[s].std(0)).flatten() for s in truth])
    ratios = torch.cat([(again[s].std(0) / truth[s].std(0)).flatten() for s in truth])
    rows = {
        "NUTS again": Distance(
            float(gaps.square().mean().sqrt()), float(ratios.median()), float(apart.abs().sum(-1).mean() / 2)
        )
    }
    return rows | {name: distance(build, truth, num_steps, num_samples) for name, build in GUIDES.items()}


def table(rows: Mapping[str, Distance]) -> str:
    """The distances in Markdown."""
    body = [[name, f"{d.mean:.2f}", f"{d.scale:.2f}", f"{d.total_variation:.3f}"] for name, d in rows.items()]
    return markdown_table(["guide", "mean, in sd", "sd / sd", "total variation"], body)


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Every guide's distance to the exact posterior of a tiny network.")
    parser.add_argument("--num_samples", type=int, default=300, help="draws of each chain, and of each guide")
    parser.add_argument("--warmup_steps", type=int, default=200, help="of each chain")
    parser.add_argument("--num_steps", type=int, default=1500, help="optimiser steps of each guide")
    options = parser.parse_args(arguments)
    print(table(distances(options.num_samples, options.warmup_steps, options.num_steps)))


if __name__ == "__main__":
    main()
