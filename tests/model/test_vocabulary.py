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
from blob_pyro.errors import DataError
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
