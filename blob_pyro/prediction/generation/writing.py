"""`generate`: S posterior draws, each held for a whole text, in one batch with one KV cache; `hold_draws` alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from blob_pyro.config.checks import unknown_name
from blob_pyro.data.examples import Batch
from blob_pyro.errors import ConfigError
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.layers.drawn_linear import WeightDraw, hold
from blob_pyro.model.layers.inject import drawn_linear
from blob_pyro.prediction.generation.choice import Choice
from blob_pyro.prediction.generation.decoding import Ending, Start, decode
from blob_pyro.prediction.generation.measures import TokenMeasures, token_measures
from blob_pyro.prediction.generation.prompts import (
    Prompts,
    ending_for,
    read_prompts,
    text_behind,
    token_rows,
)
from blob_pyro.prediction.generation.record import Generations
from blob_pyro.prediction.predictive import PosteriorPredictive, stack
from blob_pyro.system.progress import Tell, counted

MODES = ("per_draw", "average")

Written = tuple[Tensor, Tensor, TokenMeasures]
"""(P, C, T) tokens, where they are tokens of a text, and what the draws say of them."""


def generate(
    model: BayesianLoRA,
    guide: Callable[..., Any],
    prompts: Prompts,
    *,
    num_draws: int = 8,
    mode: str = "per_draw",
    max_new_tokens: int = 32,
    do_sample: bool = False,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    stop_strings: str | Sequence[str] | None = None,
    progress: bool = False,
) -> Generations:
    r"""Write text under posterior draws, each of them held for a whole text.

    Mode "per_draw": S texts a prompt, text s under draw s alone; what plain `network.generate` writes with that draw
    held. Each text is then read under the other draws too, which is where its entropies come from. Mode "average"
    (Bayesian model averaging): one text a prompt; at each step the S draws' next-token probabilities are averaged, the
    token is picked by that law, and every draw reads it.

    All P prompts under all S draws share each forward, S * P rows, and the KV cache that comes with them. The draws are
    made first, then (with do_sample) a uniform number for each step and row, prompt by prompt, all from torch's global
    generator: `pyro.set_rng_seed` makes a call repeatable, and what is drawn behind a prompt does not depend on those
    that follow it. A text ends behind a token of the network's `generation_config.eos_token_id`, or the tokenizer's
    end-of-text token, which training puts behind a completion; nothing else of generation_config is used, no default
    for sampling and no penalty. The network is in evaluation mode inside and gets its former modes back.

    Args:
        model: the model; of a causal language model.
        guide: one of `bp.guides`, or any Pyro guide of this model (an autoguide, say).
        prompts: one text or several; or a Batch of token ids (or a mapping as tokenizers make it with
            return_tensors="pt"), padded on either side.
        num_draws: posterior draws S; 0 writes under the posterior mean.
        mode: "per_draw" or "average".
        max_new_tokens: most tokens of a text.
        do_sample, temperature, top_k, top_p: as in transformers, but that nothing is cut off by default (there top_k is
            50). Without do_sample the most probable token is taken. They pick tokens: entropies and log-probabilities
            are those of the laws as they are.
        stop_strings: as in transformers: a text ends behind the token that completes one of them. They are looked for
            in what is written, not in the prompt.
        progress: show progress, in tokens of a text.

    Raises:
        ConfigError: a setting is out of range, or there are stop_strings without a tokenizer; the network writes no
            text; the new tokens do not fit its context; num_draws = 0 with a guide that has no mean; or draws that hold
            heads of their own (an ensemble's), of which a network has one at a time.
        DataError: no prompt, an empty one, one longer than the context, or something else than text and token ids.

    Source: the averaging of step-wise probabilities: BLoB, arXiv 2406.11675, equation 12, for each token.
    """
    choice = Choice(do_sample, temperature, top_k, top_p)
    if mode not in MODES:
        raise unknown_name("mode", MODES, mode)
    if max_new_tokens < 1:
        raise ConfigError(f"max_new_tokens: expected at least 1; got {max_new_tokens}")
    if model.likelihood.task_type != "CAUSAL_LM":
        raise ConfigError(
            f"generate: expected a causal language model (likelihood MultipleChoice); got a model with the likelihood "
            f"{type(model.likelihood).__name__}, whose network writes no text"
        )
    model.check_alive()
    batch = read_prompts(model, prompts, max_new_tokens)
    ending = ending_for(model, batch, max_new_tokens, stop_strings)
    with torch.no_grad(), model.evaluating():
        draws = stack(PosteriorPredictive(model, guide, num_draws).sample_draws(batch)) or {}
        with hold_draws(model, draws), counted(max_new_tokens, "generate", unit="tokens", show=progress) as tell:
            start = Start.reading(model.network.get_base_model(), batch, max(1, num_draws))
            written = (_per_draw if mode == "per_draw" else _average)(start, choice, ending, tell)
    return _record(model, batch, *written)


def _per_draw(start: Start, choice: Choice, ending: Ending, tell: Tell) -> Written:
    """(P, S, T) tokens, text s written under draw s, and what all draws say of them."""
    num_draws, num_prompts, _ = start.logits.shape
    uniforms = choice.uniforms(ending.max_new_tokens, num_draws, num_prompts)

    def pick(logits: Tensor, step: int) -> Tensor:
        return choice(logits.flatten(0, 1).float(), uniforms[step]).unflatten(0, (num_draws, num_prompts))

    steps = [(tokens, real) for _, tokens, real in decode(start, pick, ending, tell)]
    tokens, mask = (torch.stack(parts, -1).transpose(0, 1) for parts in zip(*steps, strict=True))
    return tokens, mask, score(start, tokens, mask)


def _average(start: Start, choice: Choice, ending: Ending, tell: Tell) -> Written:
    """(P, 1, T) tokens, picked by the draws' averaged law, and what the draws said at each step."""
    num_draws, num_prompts, _ = start.logits.shape
    uniforms = choice.uniforms(ending.max_new_tokens, 1, num_prompts)

    def pick(logits: Tensor, step: int) -> Tensor:
        law = logits.float().softmax(-1).mean(0)
        return choice(law.log(), uniforms[step]).expand(num_draws, -1)

    steps = [
        (token_measures(logits, picked[0]), picked[0], real[0])
        for logits, picked, real in decode(start, pick, ending, tell)
    ]
    measured, tokens, mask = (list(parts) for parts in zip(*steps, strict=True))
    real = torch.stack(mask, -1)
    measures = TokenMeasures.stacked(measured, -1).map(lambda values: (values * real).unsqueeze(-2))
    return torch.stack(tokens, -1)[:, None], real[:, None], measures


def _record(model: BayesianLoRA, batch: Batch, tokens: Tensor, mask: Tensor, measures: TokenMeasures) -> Generations:
    tokens, mask, measures, prompts = tokens.cpu(), mask.cpu(), measures.map(Tensor.cpu), token_rows(batch)
    texts = None if model.tokenizer is None else tuple(map(partial(_texts, model.tokenizer), prompts, tokens, mask))
    return Generations(prompts, tokens, mask, measures.log_probs, measures.entropy, measures.mutual_information, texts)


def _texts(tokenizer: Any, prompt: tuple[int, ...], tokens: Tensor, mask: Tensor) -> tuple[str, ...]:
    """The C texts behind one prompt."""
    return tuple(text_behind(tokenizer, prompt, row[real].tolist()) for row, real in zip(tokens, mask, strict=True))


SCORED_TOKENS = 1536
"""Most tokens of a forward, draws x texts x length; what fills memory is their logits over the whole vocabulary (150 MB
for 50,000 words in bfloat16). A forward takes one text under all draws whatever it is."""


def score(start: Start, tokens: Tensor, mask: Tensor) -> TokenMeasures:
    """What each draw says of every token of C texts behind each prompt.

    The prompts are not read again: their keys and values are there, and a text is read at once, not step by step. The
    laws are those of the steps up to rounding.

    Args:
        start: P prompts, read under S draws.
        tokens: (P, C, T) ids.
        mask: (P, C, T) True at tokens, False behind the end of a text.

    Returns:
        (S, P, C, T) log-probabilities, (P, C, T) entropies and mutual informations; 0 where `mask` is False.
    """
    size = max(1, SCORED_TOKENS // (start.logits.shape[0] * tokens.shape[-1]))
    prompts = []
    for prompt, (texts, real) in enumerate(zip(tokens, mask, strict=True)):
        parts = [_read(start, prompt, *part) for part in zip(texts.split(size), real.split(size), strict=True)]
        prompts.append(TokenMeasures.joined(parts, -2))
    return TokenMeasures.stacked(prompts, -3).map(lambda values: values * mask)


def _read(start: Start, prompt: int, tokens: Tensor, mask: Tensor) -> TokenMeasures:
    """Of (c, T) tokens behind one prompt: (S, c, T) and (c, T)."""
    num_draws, num_prompts, _ = start.logits.shape
    first = start.logits[:, prompt, None].expand(-1, len(tokens), -1)
    steps = [token_measures(first, tokens[:, 0])]
    width = int(mask.sum(-1).max())
    if width > 1:
        own = torch.arange(num_draws, device=tokens.device) * num_prompts + prompt
        rows = start.rows.select(own.repeat_interleave(len(tokens)))
        logits = rows.read(tokens[:, : width - 1].repeat(num_draws, 1), last=False).unflatten(0, (num_draws, -1))
        steps += [token_measures(logits[:, :, step], tokens[:, step + 1]) for step in range(width - 1)]
    behind = tokens.shape[-1] - width
    return TokenMeasures.stacked(steps, -1).map(lambda values: F.pad(values, (0, behind)))


def hold_draws(model: BayesianLoRA, draws: Mapping[str, Tensor] | None) -> hold:
    """Context manager in which the network applies the draws; plain `network.generate` is then that draw's own.

    Args:
        model: the model.
        draws: site -> (r, n), or (S, r, n): the network's rows are then S groups, one draw each. A site that is not in
            it, and every site for None, is at the adapter's own weight.

    Raises:
        ConfigError: a name is no site.
    """
    draws = draws or {}
    if points := sorted(draws.keys() - model.sites.keys()):
        raise ConfigError(
            f"generate: expected draws of the sites alone, which share a forward; got values of {points[0]} too, a "
            "point parameter, of which the network holds one at a time; take a guide whose draws share their heads"
        )
    layers = {site: drawn_linear(model.sites[site], site, model.adapter) for site in draws}
    return hold({layers[site]: WeightDraw(value) for site, value in draws.items()})
