"""Token ids that the tokenizer gives out and the network does not know: one line, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers as tf
from cases import MODELS, make_batch, model_for

import blob_pyro as bp
from blob_pyro.cli import main
from blob_pyro.errors import ConfigError, DataError
from blob_pyro.model.vocabulary import num_token_ids


def grown(folder: Path, network: Path, **added: Any) -> Path:
    """The network with a tokenizer of more tokens."""
    tokenizer = tf.AutoTokenizer.from_pretrained(network)
    tokenizer.add_special_tokens(added) if added else tokenizer.add_tokens([" NEG", " POS"])
    for file in network.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("likelihood", ["multiple_choice", "sequence_classification", "causal_lm"])
def test_a_pad_token_beyond_the_embedding(likelihood: str, tmp_path: Path, monkeypatch: Any, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net").mkdir()
    network = grown(tmp_path / "net", tiny.llama(), pad_token="[MORE]")
    data = {"labels": None} if likelihood == "causal_lm" else {}
    config = tiny.settings(tmp_path, network, model={"likelihood": likelihood}, data=data)
    if likelihood == "causal_lm":
        config["data"] |= {"completion": " {label}"}
    assert main(["fit", str(tiny.write_yaml(tmp_path / "c.yaml", config)), "--quiet"]) == 2
    told = capfd.readouterr().err
    assert "padding: expected token ids from 0 to" in told and "'[MORE]'" in told and "resize_token_embeddings(" in told
    assert not (tmp_path / "run" / "history.jsonl").exists()


def test_answer_words_beyond_the_embedding(tmp_path: Path, monkeypatch: Any, capfd: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net").mkdir()
    network = grown(tmp_path / "net", tiny.llama())
    rows = [{"text": f"Tweet {i}", "label": ("NEG", "POS")[i % 2]} for i in range(6)]
    config = tiny.settings(tmp_path, network, data={"labels": [" NEG", " POS"], "test_file": None})
    tiny.write_jsonl(tmp_path / "train.jsonl", rows)
    assert main(["fit", str(tiny.write_yaml(tmp_path / "c.yaml", config)), "--quiet"]) == 2
    assert "labels: expected token ids from 0 to" in capfd.readouterr().err


@pytest.mark.parametrize("name", ["llama", "gpt2", "bert", "llama_classifier"])
def test_the_highest_id_is_known_and_the_next_is_not(name: str) -> None:
    """In every entry that takes ids, padding included."""
    model = MODELS[name]()
    guide = bp.BLoBGuide(model)
    known = num_token_ids(model.network)
    assert known is not None
    batch = make_batch()
    batch.input_ids[1, 0] = known - 1
    bp.PosteriorPredictive(model, guide, 2)(batch)
    batch.input_ids[1, -1] = known  # a padding
    for entry in (
        lambda: bp.PosteriorPredictive(model, guide, 2)(batch),
        lambda: bp.BLoBSVI(model, guide, lr=1e-3).step(batch),
        lambda: bp.fit(model, guide, [batch], bp.TrainConfig(num_steps=1), progress=False),
    ):
        with pytest.raises(DataError, match=f"input_ids: expected token ids from 0 to {known - 1}, .*; got {known}"):
            entry()


def test_prompts_and_answers_in_python() -> None:
    model = model_for("blob")
    known = num_token_ids(model.network)
    assert known is not None
    batch = bp.Batch(torch.tensor([[5, known]]), torch.ones(1, 2, dtype=torch.long))
    with pytest.raises(DataError, match="prompts: expected token ids from 0 to"):
        bp.generate(model, bp.BLoBGuide(model), batch, max_new_tokens=2)
    for likelihood in (bp.MultipleChoice([5, known]), bp.WholeAnswer([[5], [6, known]])):
        with pytest.raises(DataError, match="labels: expected token ids from 0 to"):
            bp.BayesianLoRA(model.network, likelihood)


def batch_of(width: int, padded: int = 0) -> bp.Batch:
    """Two items, the second of them `width` tokens long, in rows that are wider by the padding."""
    ids = torch.full((2, width + padded), 5)
    mask = torch.ones_like(ids)
    mask[0, 3:] = 0
    mask[1, width:] = 0
    return bp.Batch(ids, mask, labels=torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("name", "longest"), [("gpt2", 64), ("opt", 64), ("bert", 64), ("roberta", 63), ("llama", None)]
)
def test_an_item_as_long_as_the_context_is_read_and_a_longer_one_is_a_line(name: str, longest: int | None) -> None:
    """Of embedded positions; RoBERTa's begin behind its padding token. Rotary ones have no end."""
    model = MODELS[name]()
    guide = bp.BLoBGuide(model)
    assert model.num_positions == longest
    predict = bp.PosteriorPredictive(model, guide, 2)
    assert len(predict(batch_of(longest or 70, padded=2))) == 2
    if longest is None:
        return
    for entry in (
        lambda: predict(batch_of(longest + 1)),
        lambda: bp.fit(model, guide, [batch_of(longest + 1)], bp.TrainConfig(num_steps=1), progress=False),
    ):
        with pytest.raises(DataError, match=f"at most {longest} tokens, .*; got {longest + 1} in item") as caught:
            entry()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
def test_training_without_gradients_is_a_line(around: Any) -> None:
    model = model_for("blob")
    guide = bp.BLoBGuide(model)
    entries = [
        lambda: bp.fit(model, guide, [make_batch()], bp.TrainConfig(num_steps=1), progress=False),
        lambda: bp.BLoBSVI(model, guide, lr=1e-3).step(make_batch()),
    ]
    if around is torch.inference_mode:
        entries.append(lambda: bp.guides.LaplaceGuide(model).fit([make_batch()]))
    for entry in entries:
        with around(), pytest.raises(ConfigError, match=f"gradients to be on; got torch.{around.__name__} around"):
            entry()
