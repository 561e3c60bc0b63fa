"""Tables that the laws run over: a new model, guide or likelihood added here inherits every law."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

import blob_pyro as bp
from blob_pyro import guides
from blob_pyro.model.layers.inject import drawn_linear
from blob_pyro.model.likelihoods import CausalLM, Likelihood, MultipleChoice, SequenceClassification, WholeAnswer

VOCAB, HIDDEN, LAYERS, HEADS = 96, 32, 2, 4
ANSWERS = (5, 17, 40)
WHOLE_ANSWERS = ((5,), (17, 40), (9, 40, 7))
LENGTHS = (7, 4, 6, 3)
NUM_DATA = 40

# Weights ten times wider than the usual 0.02: logits differ by units, so that any cap, scale or lost adapter shows.
SMALL = {"vocab_size": VOCAB, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2}
LLAMA = SMALL | {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
WITHOUT_GROUPS = {key: value for key, value in LLAMA.items() if key != "num_key_value_heads"}
BERT = WITHOUT_GROUPS | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "num_labels": 3}
GPT2 = SMALL | {
    "n_embd": HIDDEN,
    "n_layer": LAYERS,
    "n_head": HEADS,
    "n_positions": 64,
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
}
OPT = SMALL | {
    "hidden_size": HIDDEN,
    "word_embed_proj_dim": HIDDEN,
    "ffn_dim": 48,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "max_position_embeddings": 64,
    "dropout": 0.0,
    "init_std": 0.2,
}
HEAD_DIM = {"head_dim": HIDDEN // HEADS}
Q_V = ("q_proj", "v_proj")

LIKELIHOODS: dict[str, Callable[[], Likelihood]] = {
    "MultipleChoice": lambda: MultipleChoice(ANSWERS),
    "WholeAnswer": lambda: WholeAnswer(WHOLE_ANSWERS),
    "SequenceClassification": lambda: SequenceClassification(3),
    "CausalLM": CausalLM,
}
CLASS_LIKELIHOODS = [name for name in LIKELIHOODS if name != "CausalLM"]
# Named settings of a guide that are to pass its laws as well.
VARIANTS: dict[str, Any] = {
    "blob_softplus": functools.partial(guides.BLoBGuide, scale="softplus"),
    "laplace_diag": functools.partial(guides.LaplaceGuide, structure="diag"),
}
KINDS = dict(guides.GUIDES) | {name: builder.func for name, builder in VARIANTS.items()}


def built(builder: Callable[..., guides.AdapterGuide]) -> Callable[..., guides.AdapterGuide]:
    """The builder itself; that of a post-hoc guide fits it to `make_batch()`."""

    def build(model: bp.BayesianLoRA, **settings: Any) -> guides.AdapterGuide:
        guide = builder(model, **settings)
        if isinstance(guide, guides.PostHocGuide):
            guide.fit([make_batch()])
        return guide

    return build


# Every guide, on `model_for` it; and those of a model whose A alone is random.
EVERY_GUIDE = {name: built(builder) for name, builder in (dict(guides.GUIDES) | VARIANTS).items()}
GUIDES = {name: build for name, build in EVERY_GUIDE.items() if KINDS[name].bayesian == "A"}
RANDOM_GUIDES = [name for name in GUIDES if KINDS[name].is_random]
POINT_GUIDES = [name for name in GUIDES if not KINDS[name].is_random]
FLIPPABLE = [name for name in GUIDES if KINDS[name].supports_flipout]
# Those that start from a fresh adapter; the others want a trained one.
TRAINED = [name for name in GUIDES if not issubclass(KINDS[name], guides.PostHocGuide)]


def causal_base(model_class: str, settings: dict[str, Any]) -> Any:
    """A random network in evaluation mode; the same weights at every call."""
    kind = getattr(tf, model_class)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return kind(kind.config_class(**settings)).eval()


def adapt(base: Any, targets: tuple[str, ...], likelihood: Likelihood, **lora: Any) -> Any:
    """`base` with a rank-4 adapter whose B matrices are not zero, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        config = LoraConfig(r=4, lora_alpha=8, target_modules=list(targets), task_type=likelihood.task_type, **lora)
        network = get_peft_model(base, config)
        fill_B(network)
    return network.eval()


def fill_B(network: nn.Module) -> None:
    """Make every lora_B matter: a fresh one is zero."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)


def causal(
    model_class: str,
    settings: dict[str, Any],
    *targets: str,
    dtype: Any = None,
    bayesian: str = "A",
    bayesian_layers: list[int] | None = None,
    likelihood: str = "MultipleChoice",
    **lora: Any,
) -> Any:
    """Builder of a BayesianLoRA over a causal language model, with a likelihood of `LIKELIHOODS`."""
    make_likelihood = LIKELIHOODS[likelihood]

    def build(*, bayesian: str = bayesian, **changes: Any) -> bp.BayesianLoRA:
        likelihood = make_likelihood()
        network = adapt(
            causal_base(model_class, settings | changes).to(dtype or torch.float32), targets, likelihood, **lora
        )
        return bp.BayesianLoRA(
            network, likelihood, num_data=NUM_DATA, bayesian=bayesian, bayesian_layers=bayesian_layers
        )

    return build


def classifier(model_class: str, settings: dict[str, Any], *targets: str, bayesian: str = "A") -> Any:
    """Builder of a BayesianLoRA over a sequence classifier."""

    def build(*, bayesian: str = bayesian, **changes: Any) -> bp.BayesianLoRA:
        likelihood = SequenceClassification(3)
        base = causal_base(model_class, settings | changes)
        return bp.BayesianLoRA(adapt(base, targets, likelihood), likelihood, num_data=NUM_DATA, bayesian=bayesian)

    return build


Build = Callable[..., bp.BayesianLoRA]

MODELS: dict[str, Build] = {
    "llama": causal("LlamaForCausalLM", LLAMA, *Q_V),
    "llama_head": causal("LlamaForCausalLM", LLAMA, *Q_V, "lm_head"),
    "llama_B": causal("LlamaForCausalLM", LLAMA, *Q_V, bayesian="B"),
    "llama_both": causal("LlamaForCausalLM", LLAMA, *Q_V, bayesian="both"),
    "llama_head_both": causal("LlamaForCausalLM", LLAMA, *Q_V, "lm_head", bayesian="both"),
    "llama_last": causal("LlamaForCausalLM", LLAMA, *Q_V, bayesian_layers=[-1]),
    "llama_last_both": causal("LlamaForCausalLM", LLAMA, *Q_V, "lm_head", bayesian="both", bayesian_layers=[-1]),
    "llama_whole": causal("LlamaForCausalLM", LLAMA, *Q_V, likelihood="WholeAnswer"),
    "llama_bfloat16": causal("LlamaForCausalLM", LLAMA, *Q_V, dtype=torch.bfloat16),
    "mistral": causal("MistralForCausalLM", LLAMA | HEAD_DIM, *Q_V),
    "qwen2": causal("Qwen2ForCausalLM", LLAMA, *Q_V),
    "opt": causal("OPTForCausalLM", OPT, *Q_V),
    "gpt2": causal("GPT2LMHeadModel", GPT2, "c_attn", fan_in_fan_out=True),
    "bert": classifier("BertForSequenceClassification", BERT, "query", "value"),
    "bert_both": classifier("BertForSequenceClassification", BERT, "query", "value", bayesian="both"),
    "roberta": classifier("RobertaForSequenceClassification", BERT, "query", "value"),
    "llama_classifier": classifier("LlamaForSequenceClassification", LLAMA | {"num_labels": 3}, *Q_V),
}
FLOAT32 = [name for name in MODELS if name != "llama_bfloat16"]
WITH_HEAD = ("bert", "bert_both", "roberta", "llama_classifier")

# Every architecture of answer_head.PLAIN_HEADS, and two whose logits are capped or scaled.
PLAIN: dict[str, Build] = {
    "llama": MODELS["llama"],
    "mistral": MODELS["mistral"],
    "qwen2": MODELS["qwen2"],
    "opt": MODELS["opt"],
    "gpt2": MODELS["gpt2"],
    "qwen3": causal("Qwen3ForCausalLM", LLAMA | HEAD_DIM, *Q_V),
    "smollm3": causal("SmolLM3ForCausalLM", LLAMA, *Q_V),
    "gemma": causal("GemmaForCausalLM", LLAMA | HEAD_DIM, *Q_V),
    "phi": causal("PhiForCausalLM", WITHOUT_GROUPS, *Q_V),
    "phi3": causal("Phi3ForCausalLM", LLAMA, "qkv_proj"),
    "gpt_neox": causal("GPTNeoXForCausalLM", WITHOUT_GROUPS, "query_key_value"),
}
SHAPED: dict[str, Build] = {
    "gemma2": causal("Gemma2ForCausalLM", LLAMA | HEAD_DIM | {"final_logit_softcapping": 2.0}, *Q_V),
    "cohere": causal("CohereForCausalLM", LLAMA | {"logit_scale": 0.25}, *Q_V),
    "granite": causal("GraniteForCausalLM", LLAMA | {"logits_scaling": 4.0}, *Q_V),
}


@functools.cache
def base_folder(model_class: str = "LlamaForCausalLM") -> Path:
    """A tiny saved model with a tokenizer, kept for the test session; 64 wide, as bitsandbytes' blocks want."""
    folder = Path(tempfile.mkdtemp(prefix="blob_pyro_test_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    wide = {"GPT2LMHeadModel": GPT2, "LlamaForCausalLM": LLAMA | {"hidden_size": 64, "intermediate_size": 128}}
    causal_base(model_class, wide[model_class]).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def word_tokenizer() -> tf.PreTrainedTokenizerFast:
    """A token for each of the words w3, w4, ..."""
    words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, VOCAB)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="w3"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def pretrained(**settings: Any) -> bp.BayesianLoRA:
    """`BayesianLoRA.from_pretrained` on that folder, B not zero, in evaluation mode."""
    defaults: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": list(Q_V), "num_data": NUM_DATA}
    model = bp.BayesianLoRA.from_pretrained(str(base_folder()), MultipleChoice(ANSWERS), **(defaults | settings))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        fill_B(model.network)
    model.network.eval()
    return model


QUANTISED: dict[str, Build] = {
    "4bit": functools.partial(pretrained, quantization="4bit"),
    "8bit": functools.partial(pretrained, quantization="8bit", llm_int8_threshold=0.0),
}


def model_for(guide: str, name: str = "llama", **changes: Any) -> bp.BayesianLoRA:
    """A model of `MODELS` in which the factors are random that a guide of `EVERY_GUIDE` needs."""
    return MODELS[name](bayesian=KINDS[guide].bayesian, **changes)


def one_draw(guide: Any) -> Any:
    """The guide with the same noise at every call."""
    forward = guide.forward

    def seeded(batch: bp.Batch | None = None) -> Any:
        torch.manual_seed(7)
        return forward(batch)

    guide.forward = seeded
    return guide


def make_batch(
    lengths: tuple[int, ...] = LENGTHS,
    *,
    side: str = "right",
    labels: bool = True,
    width: int | None = None,
    seed: int = 3,
) -> bp.Batch:
    """Random items of the given lengths, padded with token 0; item i is the same whatever the rest."""
    width = width or max(lengths)
    ids, mask = torch.zeros(len(lengths), width, dtype=torch.long), torch.zeros(len(lengths), width, dtype=torch.long)
    for row, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(1000 * seed + row)
        columns = slice(0, length) if side == "right" else slice(width - length, width)
        ids[row, columns] = torch.randint(3, VOCAB, (length,), generator=generator)
        mask[row, columns] = 1
    answers = torch.arange(len(lengths)) % 3
    return bp.Batch(ids, mask, labels=answers if labels else None, index=torch.arange(len(lengths)))


def draw_all(model: bp.BayesianLoRA, num_draws: int | None = None, scale: float = 0.3) -> dict[str, Tensor]:
    """Random values for every site, (r, n) or (S, r, n), of the prior's size."""
    shape = () if num_draws is None else (num_draws,)
    return {site: scale * torch.randn(*shape, *model.location(site).shape) for site in model.sites}


def trainable(*modules: nn.Module) -> dict[str, nn.Parameter]:
    """Every trainable parameter of the modules, by position and name."""
    return {f"{i}.{name}": p for i, m in enumerate(modules) for name, p in m.named_parameters() if p.requires_grad}


def snapshot(*modules: nn.Module) -> dict[str, Tensor]:
    """Copies of every trainable parameter."""
    return {name: p.detach().clone() for name, p in trainable(*modules).items()}


def held_draws(model: bp.BayesianLoRA) -> list[str]:
    """Sites whose layer still holds a draw."""
    return [site for site, layer in model.sites.items() if drawn_linear(layer, site, model.adapter).draw is not None]
