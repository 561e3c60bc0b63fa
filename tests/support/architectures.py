"""Tiny random models of every shape that people fine-tune."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

from cases import BERT, GPT2, HEAD_DIM, LLAMA, OPT, WITHOUT_GROUPS, causal_base, word_tokenizer

ENCODER = {key: value for key, value in BERT.items() if key != "num_labels"}
DEBERTA = ENCODER | {
    "relative_attention": True,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "position_buckets": 16,
    "norm_rel_ebd": "layer_norm",
}
DISTILBERT = {"vocab_size": 96, "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "pad_token_id": 0}
MODERNBERT = ENCODER | {"sep_token_id": 2, "cls_token_id": 1, "global_attn_every_n_layers": 1}

Q_V = {"q_proj", "v_proj"}
CAUSAL: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "llama": ("LlamaForCausalLM", LLAMA, Q_V),
    "mistral": ("MistralForCausalLM", LLAMA | HEAD_DIM, Q_V),
    "qwen2": ("Qwen2ForCausalLM", LLAMA, Q_V),
    "qwen3": ("Qwen3ForCausalLM", LLAMA | HEAD_DIM, Q_V),
    "gemma": ("GemmaForCausalLM", LLAMA | HEAD_DIM, Q_V),
    "gemma2": ("Gemma2ForCausalLM", LLAMA | HEAD_DIM, Q_V),
    "phi": ("PhiForCausalLM", WITHOUT_GROUPS, Q_V | {"fc1", "fc2"}),
    "phi3": ("Phi3ForCausalLM", LLAMA, {"qkv_proj"}),
    "smollm3": ("SmolLM3ForCausalLM", LLAMA, Q_V),
    "granite": ("GraniteForCausalLM", LLAMA, Q_V),
    "cohere": ("CohereForCausalLM", LLAMA, Q_V),
    "gpt2": ("GPT2LMHeadModel", GPT2, {"c_attn"}),
    "gpt_neox": ("GPTNeoXForCausalLM", WITHOUT_GROUPS, {"query_key_value"}),
    "opt": ("OPTForCausalLM", OPT, Q_V),
}
CLASSIFIERS: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "bert": ("BertForSequenceClassification", ENCODER, {"query", "value"}),
    "roberta": ("RobertaForSequenceClassification", ENCODER, {"query", "value"}),
    "deberta": ("DebertaForSequenceClassification", DEBERTA, {"in_proj"}),
    "deberta-v2": ("DebertaV2ForSequenceClassification", DEBERTA, {"value_proj"}),
    "distilbert": ("DistilBertForSequenceClassification", DISTILBERT, {"q_lin", "v_lin"}),
    "modernbert": ("ModernBertForSequenceClassification", MODERNBERT, {"Wqkv"}),
    "llama": ("LlamaForSequenceClassification", LLAMA, Q_V),
    "mistral": ("MistralForSequenceClassification", LLAMA | HEAD_DIM, Q_V),
    "gpt2": ("GPT2ForSequenceClassification", GPT2, {"c_attn"}),
}


@functools.cache
def folder_of(model_class: str, settings: tuple[tuple[str, Any], ...]) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="blob_pyro_test_"))
    causal_base(model_class, {k: list(v) if isinstance(v, tuple) else v for k, v in settings}).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def saved(model_class: str, settings: dict[str, Any]) -> str:
    frozen = tuple((k, tuple(v) if isinstance(v, list) else v) for k, v in settings.items())
    return str(folder_of(model_class, frozen))
