"""A merged model is an ordinary transformers folder that answers as the mean, but for rounding."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers as tf
from cases import HEAD_DIM, LLAMA, Q_V, adapt, base_folder, causal_base, make_batch, word_tokenizer
from safetensors.torch import load_file
from saved_runs import classifier_batch, logits_at, logits_of, saved, saved_classifier

import blob_pyro as bp
from blob_pyro.errors import UnsupportedPosteriorError
from blob_pyro.guides import EnsembleGuide
from blob_pyro.model.loading import BaseSource


def merged(run: bp.Run, told: list[str] | None = None) -> Path:
    return bp.export(run.path, "merged", say=(told if told is not None else []).append)


def member_or_mean(run: bp.Run) -> dict[str, torch.Tensor]:
    return run.guide.member(0) if isinstance(run.guide, EnsembleGuide) else {}


@pytest.mark.parametrize("name", ["blob", "mle", "tfb", "ensemble"])
def test_transformers_alone_loads_it(name: str, tmp_path: Path) -> None:
    """The weights that PEFT merges, bit for bit; the mean's logits up to float32's rounding; the tokenizer."""
    run, told = saved(tmp_path / "run", name), list[str]()
    folder = merged(run, told)
    network, report = tf.AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    expected = logits_at(run, member_or_mean(run))
    torch.testing.assert_close(logits_of(network.eval()), expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, logits_of(run.model.network.unload()), atol=1e-2)
    assert "a merged model has no posterior, and answers as N=0" in told[0]
    assert told[1].startswith("in float32, merging rounds: on 4 x 32 random tokens a logit moved by at most ")
    tokens = tf.AutoTokenizer.from_pretrained(folder)("w5 w7").input_ids
    assert tokens == tf.AutoTokenizer.from_pretrained(base_folder())("w5 w7").input_ids


def test_peft_merges_the_same(tmp_path: Path) -> None:
    run = saved(tmp_path / "run")
    ours = tf.AutoModelForCausalLM.from_pretrained(merged(run)).state_dict()
    theirs = run.model.network.merge_and_unload().state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_the_rounding_that_is_told_is_measured(tmp_path: Path) -> None:
    """In bfloat16 the same adapter loses about 2^-8 of each weight; the manifest holds what was printed."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        run = saved(tmp_path / dtype, dtype=dtype)
        folder = merged(run)
        manifest = json.loads((folder / "manifest.json").read_text())
        found[dtype] = manifest["rounding"]
        assert found[dtype]["dtype"] == dtype
        network = tf.AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval()
        assert str(network.dtype) == f"torch.{dtype}"
        moved = float((logits_of(network) - logits_of(run.model.network)).abs().max())
        assert found[dtype]["logit"] / 20 < moved < 20 * found[dtype]["logit"]  # other tokens, of the same size
        assert "merging rounds" in (folder / "README.md").read_text().lower()
    assert found["float32"]["logit"] < 1e-3 < found["bfloat16"]["logit"] < found["bfloat16"]["spread"]


@pytest.mark.parametrize("model_class", ["LlamaForCausalLM", "Qwen3ForCausalLM"])
def test_replicated_layers_are_layers_of_their_own(model_class: str, tmp_path: Path) -> None:
    """PEFT's copies share the base's weights: merged into these, each would get the adapters of all."""
    network = adapt(
        causal_base(model_class, LLAMA | HEAD_DIM), Q_V, bp.CausalLM(), layer_replication=[(0, 2), (1, 2), (0, 1)]
    )
    base = tmp_path / "base"
    causal_base(model_class, LLAMA | HEAD_DIM).save_pretrained(base)
    word_tokenizer().save_pretrained(base)
    model = bp.BayesianLoRA(network, bp.CausalLM(), source=BaseSource(str(base)))
    expected = logits_of(network)
    bp.save(tmp_path / "run", model, bp.BLoBGuide(model))
    again = tf.AutoModelForCausalLM.from_pretrained(bp.export(tmp_path / "run", "merged")).eval()
    assert len(again.model.layers) == again.config.num_hidden_layers == 4
    assert not torch.equal(again.model.layers[0].self_attn.q_proj.weight, again.model.layers[3].self_attn.q_proj.weight)
    torch.testing.assert_close(logits_of(again), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")  # PEFT warns of what is tested here
def test_an_adapted_output_layer_that_is_tied_to_the_embedding(tmp_path: Path) -> None:
    """Merged into the shared weight the adapter would change the embedding as well."""
    base = tmp_path / "tied"
    network = tf.AutoModelForCausalLM.from_pretrained(base_folder())
    network.config.tie_word_embeddings = True
    network.tie_weights()
    network.save_pretrained(base)
    tf.AutoTokenizer.from_pretrained(base_folder()).save_pretrained(base)
    model = from_tied(base)
    bp.save(tmp_path / "run", model, bp.BLoBGuide(model))
    expected = logits_of(model.network.eval())
    folder = bp.export(tmp_path / "run", "merged")
    again = tf.AutoModelForCausalLM.from_pretrained(folder).eval()
    assert again.config.tie_word_embeddings is False
    torch.testing.assert_close(logits_of(again), expected, rtol=1e-4, atol=1e-4)
    embedding = again.get_input_embeddings().weight
    assert torch.equal(embedding, load_file(base / "model.safetensors")["model.embed_tokens.weight"])
    assert not torch.equal(embedding, again.get_output_embeddings().weight)


def from_tied(base: Path) -> bp.BayesianLoRA:
    """A model whose adapter is on the tied layer as well."""
    likelihood = bp.MultipleChoice((5, 17, 40))
    model = bp.BayesianLoRA.from_pretrained(str(base), likelihood, r=4, target_modules=["q_proj", "lm_head"])
    with torch.no_grad():
        for name, parameter in model.network.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    return model


@pytest.mark.parametrize("name", ["blob", "ensemble"])
def test_a_classifier_keeps_its_trained_head_and_knows_its_labels(name: str, tmp_path: Path) -> None:
    run = saved_classifier(tmp_path / "run", name)
    folder = merged(run)
    network = tf.AutoModelForSequenceClassification.from_pretrained(folder).eval()
    expected = logits_at(run, member_or_mean(run), classifier_batch())
    torch.testing.assert_close(logits_of(network, classifier_batch()), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_a_quantised_base_is_refused(quantization: str, tmp_path: Path) -> None:
    run = saved(tmp_path / "run", quantization=quantization)
    with pytest.raises(
        UnsupportedPosteriorError, match=f"a base that is not quantised; got {quantization}: "
    ) as caught:
        merged(run)
    assert "\n" not in str(caught.value) and not (run.path / "export").exists()


@pytest.mark.filterwarnings("ignore:Merge lora module to 4-bit linear")  # PEFT warns of what is tested here
def test_what_is_left_of_an_adapter_in_4_bits(tmp_path: Path) -> None:
    """Why it is refused: PEFT's merge rounds to 16 levels, and the difference is of the adapter's own size."""
    run = saved(tmp_path / "run", quantization="4bit")
    network: Any = run.model.network
    unmerged, base = logits_of(network), logits_of_base(network)
    error = (logits_of(network.merge_and_unload()) - unmerged).norm()
    assert float(error) > 0.1 * float((unmerged - base).norm())


def logits_of_base(network: Any) -> torch.Tensor:
    with network.disable_adapter():
        return logits_of(network, make_batch())


def test_labels_of_a_run_are_in_the_configuration(tmp_path: Path) -> None:
    from blob_pyro.cli import main

    raw = tiny.settings(
        tmp_path, tiny.bert(), model={"likelihood": "sequence_classification", "target_modules": ["query"]}
    )
    assert main(["fit", str(tiny.write_yaml(tmp_path / "c.yaml", raw)), "--quiet"]) == 0
    folder = bp.export(tmp_path / "run", "merged")
    config = tf.AutoConfig.from_pretrained(folder)
    assert config.id2label == {0: "negative", 1: "positive"} and config.label2id == {"negative": 0, "positive": 1}
