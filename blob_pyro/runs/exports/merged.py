"""`--as merged`: the base model with the mean adapter added to its weights, an ordinary transformers folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from blob_pyro.errors import UnsupportedPosteriorError
from blob_pyro.model.layers.substituted import substitute
from blob_pyro.model.layers.targets import block_list
from blob_pyro.model.likelihoods import SequenceClassification
from blob_pyro.runs.exports.subject import Subject
from blob_pyro.system.hub_errors import one_line

PROBE_ROWS, PROBE_TOKENS = 4, 32


@dataclass(frozen=True)
class Rounding:
    """What merging changed by rounding, over all logits of a few rows of random tokens.

    Attributes:
        logit: largest difference of a logit.
        probability: largest difference of a probability.
        spread: standard deviation of the logits, to compare with.
        dtype: of the weights.
    """

    logit: float
    probability: float
    spread: float
    dtype: str

    def __str__(self) -> str:
        """One line for the user."""
        return (
            f"in {self.dtype}, merging rounds: on {PROBE_ROWS} x {PROBE_TOKENS} random tokens a logit moved by at most "
            f"{self.logit:.2g} (the logits' standard deviation is {self.spread:.2g}), a probability by at most "
            f"{self.probability:.2g}"
        )


def write_merged(subject: Subject, folder: Path) -> tuple[dict[str, Any], Rounding]:
    """Merge, measure what that rounds, and save model and tokenizer. The run's network is used up.

    Returns:
        Entries of the manifest, and the rounding.

    Raises:
        UnsupportedPosteriorError: the base is quantised, or PEFT cannot merge the adapter.
    """
    model = subject.run.model
    if model.source.quantization is not None:
        raise UnsupportedPosteriorError(
            f"--as merged: expected a base that is not quantised; got {model.source.quantization}: the sum would be "
            "rounded to few bits again and lose much of the adapter; take --as mean, beside the quantised base"
        )
    network: Any = model.network
    tokens = _probe(network)
    single = {f"{k}.{model.adapter}.weight" if k in model.sites else k: v for k, v in (subject.single or {}).items()}
    with torch.no_grad(), substitute(network, single):
        before = network(input_ids=tokens).logits
        _untie(network)
        _part_replicas(network)
        merged = _merge(network)
        after = merged(input_ids=tokens).logits
    if subject.labels and isinstance(model.likelihood, SequenceClassification):
        places = model.likelihood.outputs or range(len(subject.labels))
        merged.config.id2label = {k: label.strip() for k, label in sorted(zip(places, subject.labels, strict=True))}
        merged.config.label2id = {label: k for k, label in merged.config.id2label.items()}
    merged.save_pretrained(folder)
    if model.tokenizer is not None:
        model.tokenizer.save_pretrained(folder)
    rounding = _rounding(before, after, str(merged.dtype).removeprefix("torch."))
    return {"adapter_is": subject.single_is, "rounding": vars(rounding)}, rounding


def _merge(network: Any) -> Any:
    """PEFT's merge, which refuses weights that are not finite, and biases of B where the base has none."""
    try:
        return network.merge_and_unload(safe_merge=True)
    except (ValueError, RuntimeError) as error:
        raise UnsupportedPosteriorError(
            f"--as merged: expected an adapter that PEFT can merge; it says: {one_line(error, 200)}; take --as mean"
        ) from error


def _probe(network: Any) -> Tensor:
    """Random tokens, the same for every run of a vocabulary."""
    config = network.config
    generator = torch.Generator().manual_seed(0)
    width = min(PROBE_TOKENS, getattr(config, "max_position_embeddings", PROBE_TOKENS) - 2)
    tokens = torch.randint(config.vocab_size, (PROBE_ROWS, width), generator=generator)
    padding = getattr(config, "pad_token_id", None)
    if padding is not None:  # a classifier looks for a row's end by it
        tokens = tokens.where(tokens != padding, (padding + 1) % config.vocab_size)
    return tokens.to(network.device)


def _untie(network: Any) -> None:
    """Give an adapted output layer a weight of its own: merged into a tied one, it would change the embedding too."""
    base = network.get_base_model()
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    layer = getattr(head, "base_layer", None)
    if layer is not None and layer.weight is embedding.weight:
        layer.weight = nn.Parameter(layer.weight.detach().clone(), requires_grad=False)
        base.config.tie_word_embeddings = False


def _part_replicas(network: Any) -> None:
    """Give copies of a block (layer_replication) weights of their own: each would be merged into the same."""
    seen: set[int] = set()
    base = network.get_base_model()
    for module in (module for block in block_list(base) or () for module in block.modules()):
        for name, weight in module._parameters.items():
            if id(weight) in seen and weight is not None:
                module._parameters[name] = nn.Parameter(weight.detach().clone(), requires_grad=False)
        seen |= {id(weight) for weight in module._parameters.values()}


def _rounding(before: Tensor, after: Tensor, dtype: str) -> Rounding:
    before, after = before.float(), after.float()
    return Rounding(
        logit=float((before - after).abs().max()),
        probability=float((before.softmax(-1) - after.softmax(-1)).abs().max()),
        spread=float(before.std()),
        dtype=dtype,
    )
