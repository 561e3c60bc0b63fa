"""Tiny random models of every shape that people fine-tune: default layers, a fit, answers, save and load."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers as tf
from architectures import (
    CAUSAL,
    CLASSIFIERS,
    DEBERTA,
    DISTILBERT,
    ENCODER,
    GEMMA3,
    HYBRID,
    IN_LISTS,
    REFUSED,
    XLM,
    saved,
)
from cases import SMALL, adapt, causal_base, fill_B, make_batch

import blob_pyro as bp
from blob_pyro.config.sections import DataConfig, ModelConfig, RunConfig
from blob_pyro.errors import ConfigError, UnsupportedLayerError
from blob_pyro.model.architectures import is_decoder
from blob_pyro.model.likelihoods import Likelihood
from blob_pyro.prediction.predictive import stack
from blob_pyro.runs.build import build_model


def check(path: str, likelihood: Likelihood, targets: set[str], run: Path) -> None:
    """The layers that are adapted by default; two steps under flipout; three draws; the same after save and load."""
    model = bp.BayesianLoRA.from_pretrained(path, likelihood, r=2, lora_alpha=4, num_data=8)
    assert {site.removesuffix(".lora_A").rsplit(".", 1)[-1] for site in model.sites} == targets
    guide, batch = bp.BLoBGuide(model, eps=0.2), make_batch()
    before = {site: model.location(site).detach().clone() for site in model.sites}
    history = bp.fit(model, guide, [batch], bp.TrainConfig(num_steps=3, batch_size=4, lr=0.05), progress=False)
    assert len(history) == 3
    assert all(not torch.equal(before[site], model.location(site)) for site in model.sites)
    torch.manual_seed(0)
    found = bp.PosteriorPredictive(model, guide, num_samples=3)(batch)
    assert float((found.draws[0] - found.draws[1]).abs().max()) > 0
    bp.save(run, model, guide)
    again = bp.load(run)
    torch.manual_seed(0)
    assert torch.equal(bp.PosteriorPredictive(again.model, again.guide, num_samples=3)(batch).draws, found.draws)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CAUSAL))
def test_causal_language_models(name: str, tmp_path: Path) -> None:
    model_class, settings, targets = CAUSAL[name]
    check(saved(model_class, settings), bp.MultipleChoice([5, 17, 40]), targets, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(CAUSAL))
def test_draws_are_each_items_own_and_padding_changes_nothing(name: str) -> None:
    """In items as wide as there are draws times items: where tokens came first, nothing would be refused."""
    model_class, settings, _ = CAUSAL[name]
    model = bp.BayesianLoRA.from_pretrained(saved(model_class, settings), bp.MultipleChoice([5, 17, 40]), r=2)
    laws_of_draws(model)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*CLASSIFIERS, *IN_LISTS])
def test_draws_are_each_items_own_in_classifiers(name: str) -> None:
    model_class, settings, _ = (CLASSIFIERS | IN_LISTS)[name]
    path = saved(model_class, settings | {"num_labels": 3})
    laws_of_draws(bp.BayesianLoRA.from_pretrained(path, bp.SequenceClassification(3), r=2))


def laws_of_draws(model: bp.BayesianLoRA) -> None:
    fill_B(model.network)
    model.network.eval()
    lengths = [12, 7, 9, 4]
    mask = torch.tensor([[1] * length + [0] * (12 - length) for length in lengths])
    ids = torch.randint(3, 96, (4, 12), generator=torch.Generator().manual_seed(3)) * mask
    generator = torch.Generator().manual_seed(5)
    draws = {site: 0.3 * torch.randn(3, *model.location(site).shape, generator=generator) for site in model.sites}
    with torch.no_grad():
        found = model.logits(bp.Batch(ids, mask), draws)
        assert float((found[0] - found[1]).abs().max()) > 1e-3
        for draw in range(3):
            held = {site: value[draw] for site, value in draws.items()}
            for item, length in enumerate(lengths):
                alone = model.logits(bp.Batch(ids[item : item + 1, :length], mask[item : item + 1, :length]), held)
                torch.testing.assert_close(found[draw, item], alone[0], rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*HYBRID, "gpt_oss", "deepseek_v3", "mixtral"])
def test_a_text_is_what_the_network_itself_writes(name: str) -> None:
    """At the mean, prompt by prompt; under draws its log-probabilities are those of forwards over the whole text."""
    model_class, settings, _ = CAUSAL[name]
    model = bp.BayesianLoRA.from_pretrained(saved(model_class, settings), bp.CausalLM(), r=2)
    fill_B(model.network)
    model.network.generation_config.eos_token_id = None
    batch, guide = make_batch(), bp.BLoBGuide(model, eps=0.6)
    found = bp.generate(model, guide, batch, num_draws=0, max_new_tokens=5)
    for prompt, tokens in zip(found.prompts, found.tokens, strict=True):
        ids = torch.tensor([prompt])
        whole = model.network.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False
        )
        assert tokens.tolist() == whole[:, len(prompt) :].tolist()
    torch.manual_seed(0)
    drawn = bp.generate(model, guide, batch, num_draws=2, max_new_tokens=5)
    torch.manual_seed(0)
    draws = stack(bp.PosteriorPredictive(model, guide, 2).sample_draws(batch))
    assert draws is not None
    prompt = drawn.prompts[1]
    for text in range(2):
        ids = torch.tensor([[*prompt, *drawn.tokens[1, text].tolist()]])
        with torch.no_grad():
            logits = model.logits(bp.Batch(ids, torch.ones_like(ids)), draws)[:, 0]
        laws = logits[:, len(prompt) - 1 :].log_softmax(-1)
        expected = laws.gather(-1, drawn.tokens[1, text].expand(2, -1)[..., None])[..., 0]
        torch.testing.assert_close(drawn.log_probs[:, 1, text], expected, rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("default:.*random there")
@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_work_is_a_line_before_training(name: str) -> None:
    model_class, settings, kind, message = REFUSED[name]
    likelihood = bp.MultipleChoice([5, 17]) if kind == "causal" else bp.SequenceClassification(2)
    with pytest.raises((ConfigError, UnsupportedLayerError), match=message) as caught:
        bp.BayesianLoRA.from_pretrained(saved(model_class, settings), likelihood, r=2)
    assert "\n" not in str(caught.value)


def test_a_vision_language_base_is_adapted_where_texts_go() -> None:
    """Its vision tower has projections of the same names."""
    path = saved("Gemma3ForConditionalGeneration", GEMMA3)
    for targets in (None, ["q_proj"], "all-linear"):
        with pytest.warns(UserWarning, match="adapted is its language model; no text comes to model.vision_tower, "):
            model = bp.BayesianLoRA.from_pretrained(path, bp.MultipleChoice([5, 17, 40]), r=2, target_modules=targets)
        assert model.sites and all(".language_model." in site for site in model.sites)
    history = bp.fit(model, bp.BLoBGuide(model), [make_batch()], bp.TrainConfig(num_steps=1), progress=False)
    assert len(history) == 1


def test_an_adapter_in_a_vision_tower_is_told() -> None:
    base = causal_base("Gemma3ForConditionalGeneration", GEMMA3)
    likelihood = bp.MultipleChoice([5, 17])
    with pytest.warns(
        UserWarning, match=r"2 adapted layers .*vision_tower.* where no text comes: they stay as they are"
    ):
        bp.BayesianLoRA(adapt(base, ("v_proj",), likelihood), likelihood)


HEADS = {
    "distilbert": ("DistilBertModel", DISTILBERT, {"pre_classifier", "classifier"}),
    "deberta-v2": ("DebertaV2Model", DEBERTA, {"pooler", "classifier"}),
    "bert": ("BertForMaskedLM", ENCODER, {"bert.pooler", "classifier"}),
    "xlm": ("XLMModel", XLM, {"sequence_summary"}),
    "roberta": ("RobertaModel", ENCODER, {"classifier"}),
}


@pytest.mark.parametrize("name", list(HEADS))
def test_all_of_a_fresh_head_is_trained_and_saved(name: str, tmp_path: Path) -> None:
    """Of a backbone's files; a part that was left out would be another in each process."""
    model_class, settings, parts = HEADS[name]
    path = saved(model_class, settings)
    model = bp.BayesianLoRA.from_pretrained(path, bp.SequenceClassification(3), r=2)
    heads = {key.split(".modules_to_save.")[0] for key in model.point_parameters() if ".modules_to_save." in key}
    assert {key.removeprefix("base_model.model.") for key in heads} == parts
    expected = model.logits(make_batch())
    bp.save(tmp_path / "run", model, bp.BLoBGuide(model))
    torch.manual_seed(99)
    assert torch.equal(bp.load(tmp_path / "run").model.logits(make_batch()), expected)


def test_a_part_that_no_adapter_holds_is_told(tmp_path: Path) -> None:
    """Of an adapter that PEFT alone made: it takes no pooler for a head."""
    path = saved("DebertaV2Model", DEBERTA)
    base = tf.AutoModelForSequenceClassification.from_pretrained(path, num_labels=3)
    adapt(base, ("value_proj",), bp.SequenceClassification(3)).save_pretrained(str(tmp_path))
    settings = ModelConfig(id=path, likelihood="sequence_classification", adapter=str(tmp_path))
    config = RunConfig(data=DataConfig(task="tweets"), model=settings)
    with pytest.warns(UserWarning, match="its files lack pooler.dense.bias, pooler.dense.weight; random there"):
        build_model(config, ["a", "b", "c"], 8)


@pytest.mark.slow
@pytest.mark.filterwarnings("default:.*random there")
@pytest.mark.parametrize("name", [*CLASSIFIERS, *IN_LISTS])
def test_classifiers(name: str, tmp_path: Path) -> None:
    """Encoders and decoders; the head is trained and saved."""
    model_class, settings, targets = (CLASSIFIERS | IN_LISTS)[name]
    check(saved(model_class, settings | {"num_labels": 3}), bp.SequenceClassification(3), targets, tmp_path)


@pytest.mark.parametrize("targets", [["query_proj"], ["query_proj", "value_proj"]])
def test_a_layer_that_all_items_share_is_named_and_refused(targets: list[str]) -> None:
    """DeBERTa-v2's query projection of the relative positions; one draw for all is no trouble."""
    path = saved("DebertaV2ForSequenceClassification", DEBERTA | {"num_labels": 3})
    model = bp.BayesianLoRA.from_pretrained(path, bp.SequenceClassification(3), r=2, target_modules=targets, num_data=8)
    guide, batch = bp.BLoBGuide(model), make_batch()
    bp.PosteriorPredictive(model, guide, num_samples=1)(batch)
    for attempt in (
        lambda: bp.PosteriorPredictive(model, guide, num_samples=3)(batch),
        lambda: bp.fit(model, guide, [batch], bp.TrainConfig(num_steps=1, batch_size=4), progress=False),
    ):
        with pytest.raises(
            UnsupportedLayerError, match=r"got 1; a layer that is applied .* leave it out of target_mod"
        ):
            attempt()


def test_an_unknown_architecture_lists_its_linear_layers() -> None:
    """Mamba is in no table, and its layers are called like no other's."""
    settings = SMALL | {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
    with pytest.raises(
        ConfigError, match="target_modules: .*Its linear layers are: dt_proj, in_proj, lm_head, out_proj"
    ):
        bp.BayesianLoRA.from_pretrained(saved("MambaForCausalLM", settings), bp.MultipleChoice([5, 17]))


def test_a_configuration_without_a_padding_token_is_loaded() -> None:
    """CodeGen's has no such field."""
    settings = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 64, "rotary_dim": 4, "n_ctx": 64}
    path = saved(
        "CodeGenForCausalLM", settings | {name: SMALL[name] for name in ("vocab_size", "bos_token_id", "eos_token_id")}
    )
    bp.BayesianLoRA.from_pretrained(path, bp.MultipleChoice([5, 17]))


@pytest.mark.parametrize(
    ("config", "decodes"),
    [
        (tf.LlamaConfig(), True),
        (tf.Gemma3Config(), True),
        (tf.ModernBertDecoderConfig(), True),
        (tf.BertConfig(is_decoder=True), True),
        (tf.BertConfig(), False),
        (tf.ModernBertConfig(), False),
        (tf.CanineConfig(), False),
    ],
    ids=lambda value: getattr(value, "model_type", str(value)),
)
def test_which_read_from_left_to_right(config: tf.PreTrainedConfig, decodes: bool) -> None:
    assert is_decoder(config) == decodes


def test_every_default_is_tested() -> None:
    from blob_pyro.model.layers.targets import DEFAULT_TARGET_MODULES

    tested = {getattr(tf, kind).config_class.model_type for kind, *_ in (*CAUSAL.values(), *CLASSIFIERS.values())}
    assert set(DEFAULT_TARGET_MODULES) <= tested
