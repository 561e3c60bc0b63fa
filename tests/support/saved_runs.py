"""Saved runs to export, one of every guide, and their networks as plain PEFT loads them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyro
import tiny
import torch
import transformers as tf
from cases import EVERY_GUIDE, KINDS, fill_B, make_batch, pretrained
from peft import PeftModel
from torch import Tensor

import blob_pyro as bp
from blob_pyro.model.layers.inject import keep_unpacked
from blob_pyro.model.layers.substituted import substitute
from blob_pyro.model.loading import load_base


def saved(path: Path, guide_name: str = "blob", **settings: Any) -> bp.Run:
    """A run of one training step on the tiny Llama, saved into `path` and loaded from it."""
    settings = {"bayesian": KINDS[guide_name].bayesian} | settings
    model = pretrained(**settings)
    guide = EVERY_GUIDE[guide_name](model)
    if guide.scale_parameters():
        bp.BLoBSVI(model, guide, lr=1e-2).step(make_batch())
    if guide_name == "ensemble":
        fill_B(model.network)  # those of the other members are zero
    bp.save(path, model, guide)
    return loaded(path)


def saved_classifier(path: Path, guide_name: str = "blob") -> bp.Run:
    """A run on the tiny BERT, whose head is trained as well; its items are `classifier_batch`."""
    likelihood = bp.SequenceClassification(2)
    model = bp.BayesianLoRA.from_pretrained(
        str(tiny.bert()), likelihood, r=2, lora_alpha=4, target_modules=["query", "value"], num_data=8,
        bayesian=KINDS[guide_name].bayesian,
    )  # fmt: skip
    guide = EVERY_GUIDE[guide_name](model)
    fill_B(model.network)
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if "modules_to_save" in name:
                parameter.normal_(0, 0.3)
    bp.save(path, model, guide)
    return loaded(path)


def loaded(path: Path) -> bp.Run:
    """`bp.load`, in evaluation mode."""
    run = bp.load(path)
    run.model.network.eval()
    return run


def classifier_batch() -> bp.Batch:
    tokenizer = tf.AutoTokenizer.from_pretrained(tiny.bert())
    examples = [bp.Example(row["text"], 0, str(i)) for i, row in enumerate(tiny.items(4))]
    encoded = bp.encode(examples, tokenizer, tiny.CONTEXT)
    return next(iter(bp.predict_loader(encoded, 4, tokenizer.pad_token_id)))


def drawn(run: bp.Run, num_draws: int, seed: int) -> list[dict[str, Tensor]]:
    """The draws that a user of `PosteriorPredictive` holds after that seed."""
    pyro.set_rng_seed(seed)
    draws = bp.PosteriorPredictive(run.model, run.guide, num_draws).sample_draws()
    return [dict(draw) for draw in draws if draw is not None]


def base_of(run: bp.Run) -> Any:
    """A fresh copy of the run's base network, loaded by transformers' own call.

    Of a 4-bit one with the kernel that the run's network has: on some CPUs bitsandbytes takes another, which rounds
    otherwise.
    """
    base = load_base(run.model.source, run.model.likelihood).eval()
    keep_unpacked(base)
    return base


def plain(run: bp.Run, folder: Path) -> Any:
    """Plain PEFT on a fresh base."""
    return PeftModel.from_pretrained(base_of(run), str(folder)).eval()


def logits_of(network: Any, batch: bp.Batch | None = None) -> Tensor:
    """The network's own logits at every position, no library in between."""
    batch = batch or make_batch()
    with torch.no_grad():
        found: Tensor = network(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return found


def logits_at(run: bp.Run, values: Mapping[str, Tensor], batch: bp.Batch | None = None) -> Tensor:
    """Those of the run's network with a draw in the place of its matrices (and heads)."""
    model = run.model
    named = {f"{key}.{model.adapter}.weight" if key in model.sites else key: v for key, v in values.items()}
    with substitute(model.network, named):
        return logits_of(model.network, batch)
