"""Tiny random models with a trained tokenizer, as local folders: whole runs in a second or two."""

from __future__ import annotations

import atexit
import functools
import json
import shutil
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers as tf
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

GOOD, BAD = ("lovely", "bright", "warm", "kind"), ("awful", "dull", "cold", "rude")
THINGS = ("day", "film", "meal", "song", "walk", "story")
PROMPT = "Tweet: {text}\nSentiment:"
LABELS = (" negative", " positive")
CONTEXT = 48

# Weights ten times wider than the usual 0.02: the answers differ from item to item.
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT,
    "initializer_range": 0.2,
}
BERT = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}


def items(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows with a text, its label and a field of the user's own; both labels equally often."""
    rows = []
    for i in range(count):
        label = "positive" if i % 2 else "negative"
        words = GOOD if i % 2 else BAD
        thing, word = THINGS[(i + seed) % len(THINGS)], words[(i // 2 + seed) % len(words)]
        rows.append({"text": f"What a {word} {thing}, number {i}.", "label": label, "who": f"user {i}"})
    return rows


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_jsonl(path: Path) -> list[Any]:
    """The objects of a file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def settings(folder: Path, network: Path, /, **sections: Any) -> dict[str, Any]:
    """A quick run on own files in `folder`; a section given here is merged into its own."""
    base: dict[str, Any] = {
        "data": {
            "train_file": str(write_jsonl(folder / "train.jsonl", items(12))),
            "test_file": str(write_jsonl(folder / "test.jsonl", items(6, seed=1))),
            "prompt": PROMPT,
            "truncate_field": "text",
            "labels": list(LABELS),
        },
        "model": {"id": str(network), "r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]},
        "guide": {},
        "train": {"num_steps": 4, "batch_size": 3, "lr": 0.01},
        "predict": {"num_samples": 2},
        "output": str(folder / "run"),
    }
    for name, value in sections.items():
        base[name] = base.get(name, {}) | value if isinstance(value, Mapping) else value
    return base


def write_yaml(path: Path, value: Any) -> Path:
    """`value` as a YAML file."""
    path.write_text(yaml.safe_dump(value), encoding="utf-8")
    return path


@functools.cache
def llama() -> Path:
    """A causal language model in which each of `LABELS` is one token, and "lovely" is several."""
    tokenizer = _tokenizer(bos_token="<s>", eos_token="</s>")
    return _save(lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**LLAMA, **_ids(tokenizer))), tokenizer)


@functools.cache
def bert() -> Path:
    """A classifier; its head for a number of labels is made anew whenever it is loaded."""
    tokenizer = _tokenizer()
    return _save(lambda: tf.BertForSequenceClassification(tf.BertConfig(**BERT, **_ids(tokenizer))), tokenizer)


def _tokenizer(**specials: str) -> tf.PreTrainedTokenizerFast:
    """A byte-level BPE, trained on the labels alone: every other word falls into letters."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<pad>", *specials.values()],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = ("Tweet:", "\nSentiment:", " What", " number", *LABELS)
    bpe.train_from_iterator(10 * words, trainer)
    return tf.PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", **specials)


def _ids(tokenizer: tf.PreTrainedTokenizerFast) -> dict[str, int | None]:
    names = ("pad_token_id", "bos_token_id", "eos_token_id")
    return {"vocab_size": len(tokenizer)} | {name: getattr(tokenizer, name) for name in names}


def _save(build: Callable[[], tf.PreTrainedModel], tokenizer: tf.PreTrainedTokenizerFast) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="blob_pyro_tiny_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        build().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
