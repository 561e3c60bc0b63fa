"""Tiny random models of every shape that people fine-tune."""

from __future__ import annotations

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

from cases import (
    BERT,
    GPT2,
    HEAD_DIM,
    HIDDEN,
    LLAMA,
    OPT,
    SMALL,
    VOCAB,
    WITHOUT_GROUPS,
    causal_base,
    word_tokenizer,
)

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
XLM = {"vocab_size": VOCAB, "emb_dim": HIDDEN, "n_layers": 2, "n_heads": 4, "pad_index": 0, "pad_token_id": 0}

Q_V = {"q_proj", "v_proj"}
MOE = LLAMA | HEAD_DIM | {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
MLA = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
DEEPSEEK = (LLAMA | MLA | {"num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2}) | {
    "moe_intermediate_size": 16, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
}  # fmt: skip
LINEAR_ATTENTION = {
    "linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 8, "linear_value_head_dim": 8,
}  # fmt: skip
# Those of a state that is no list of keys and values.
HYBRID: dict[str, tuple[str, dict[str, Any], set[str]]] = {
    "lfm2": ("Lfm2ForCausalLM", LLAMA | {"layer_types": ["conv", "full_attention"]}, {"q_proj", "v_proj"}),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        MOE | LINEAR_ATTENTION | {"num_experts": 4, "layer_types": ["linear_attention", "full_attention"]},
        {"q_proj", "v_proj"},
    ),
    "recurrent_gemma": (
        "RecurrentGemmaForCausalLM",
        LLAMA | {"lru_width": HIDDEN, "attention_window_size": 16, "block_types": ["recurrent", "attention"]},
        {"q_proj", "v_proj"},
    ),
}
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
    "qwen2_moe": ("Qwen2MoeForCausalLM", MOE | {"num_experts": 4, "shared_expert_intermediate_size": 16}, Q_V),
    "qwen3_moe": ("Qwen3MoeForCausalLM", MOE | {"num_experts": 4}, Q_V),
    "mixtral": ("MixtralForCausalLM", MOE | {"num_local_experts": 4}, Q_V),
    "olmo2": ("Olmo2ForCausalLM", LLAMA, Q_V),
    "glm4": ("Glm4ForCausalLM", LLAMA | HEAD_DIM, Q_V),
    "gpt_oss": ("GptOssForCausalLM", MOE | {"num_local_experts": 4}, Q_V),
    "deepseek_v3": ("DeepseekV3ForCausalLM", DEEPSEEK, {"q_b_proj", "kv_b_proj"}),
    **HYBRID,
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
    "qwen3_next": ("Qwen3NextForSequenceClassification", HYBRID["qwen3_next"][1], Q_V),
}
# Whose blocks stand in no list of one name, or in several.
IN_LISTS = {
    "albert": ("AlbertForSequenceClassification", ENCODER | {"embedding_size": 16}, {"query", "value"}),
    "xlm": ("XLMForSequenceClassification", XLM, {"q_lin", "v_lin"}),
}
VISION = {
    "hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 28,
    "patch_size": 14,
}  # fmt: skip
GEMMA3 = {
    "text_config": LLAMA | HEAD_DIM, "vision_config": VISION, "mm_tokens_per_image": 4, "boi_token_index": 90,
    "eoi_token_index": 91, "image_token_index": 92,
}  # fmt: skip
T5 = {"vocab_size": VOCAB, "d_model": HIDDEN, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4, "eos_token_id": 2}
BART = SMALL | {
    "d_model": HIDDEN, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64,
}  # fmt: skip
# (network, settings, likelihood, what the line says)
REFUSED: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "T5 as a classifier": ("T5ForSequenceClassification", T5, "classes", "a decoder in one .t5.: take a dec"),
    "BART as a classifier": ("BartForSequenceClassification", BART, "classes", "got an encoder and a decoder in one"),
    "BART as a decoder": ("BartForConditionalGeneration", BART, "causal", "expected a causal .* in one .bart.: take a"),
    "T5 as a decoder": ("T5ForConditionalGeneration", T5, "causal", "expected a causal .* in one .t5.: take a decoder"),
    "BERT as a decoder": ("BertForMaskedLM", ENCODER, "causal", "got an encoder .bert.: set model.likelihood to seq"),
    "Longformer": (
        "LongformerForSequenceClassification", ENCODER | {"attention_window": 4}, "classes", "got longformer, whose",
    ),
    "YOSO": ("YosoForSequenceClassification", ENCODER, "classes", "padding changes no answer; got yoso"),
}  # fmt: skip


@functools.cache
def folder_of(model_class: str, settings: str) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="blob_pyro_test_"))
    causal_base(model_class, json.loads(settings)).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def saved(model_class: str, settings: dict[str, Any]) -> str:
    return str(folder_of(model_class, json.dumps(settings)))
