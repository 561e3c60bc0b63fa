"""The model card: its facts are the run's, its code runs, and it holds on runs that know less."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers as tf
import yaml
from cases import base_folder, fill_B
from saved_runs import saved, saved_classifier
from tokenizers.processors import TemplateProcessing

import blob_pyro as bp
from blob_pyro.cli import main
from blob_pyro.errors import RunDirectoryError
from blob_pyro.guides import GUIDES
from blob_pyro.report.tables import annotators_table, metrics_table
from blob_pyro.runs.exports.card import GUIDE_TITLES

KIND_NAMES = ("mean", "draws:2", "merged")


def fitted(folder: Path, base: Path | None = None, /, **sections: Any) -> Path:
    raw = tiny.settings(folder, base or tiny.llama(), **sections)
    assert main(["fit", str(tiny.write_yaml(folder / "c.yaml", raw)), "--quiet"]) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(tmp_path_factory.mktemp("card"))


def card_of(run_dir: Path, kind: str, folder: Path) -> str:
    return (bp.export(run_dir, kind, output=folder) / "README.md").read_text(encoding="utf-8")


def run_code(folder: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the card's Python blocks leave behind, run in the folder, with the base beside it under its own name."""
    monkeypatch.chdir(folder)
    (folder / base.name).symlink_to(base)
    found = []
    for code in re.findall(r"^```+python\n(.*?)^```", (folder / "README.md").read_text(), re.M | re.S):
        names: dict[str, Any] = {}
        exec(compile(code, "README.md", "exec"), names)
        found.append(names)
    return found


def test_it_has_a_title_for_every_guide() -> None:
    assert GUIDE_TITLES.keys() == GUIDES.keys()


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_what_a_card_tells(kind: str, run_dir: Path, tmp_path: Path) -> None:
    card = card_of(run_dir, kind, tmp_path / "out")
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["base_model"] == tiny.llama().name and "license" not in head
    assert head["library_name"] == ("transformers" if kind == "merged" else "peft")
    metrics = json.loads((run_dir / "metrics.json").read_text())
    for name, found in metrics.items():
        row = next(line for line in card.splitlines() if line.startswith(f"| {name} "))
        assert f"{100 * found['accuracy']:.1f} ± {100 * found['accuracy_se']:.1f}" in row
        assert f"{found['nll']:.3f} ± {found['nll_se']:.3f}" in row
    assert "Own files: `train.jsonl`, `test.jsonl`" in card and "Training items: 12." in card
    assert "Test items: 6." in card and "`negative`, `positive`" in card and tiny.PROMPT in card
    assert "LoRA: r 2, lora_alpha 4, on `q_proj`, `v_proj`" in card and "prior scale 0.2" in card
    assert "(reliability.png)" in card
    assert (tmp_path / "out" / "reliability.png").read_bytes() == (run_dir / "reliability.png").read_bytes()
    assert ("It has no posterior" in card) is (kind == "merged")


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_the_code_of_a_card_runs(kind: str, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And gives the answers of the library for its prompt."""
    card_of(run_dir, kind, tmp_path / "out")
    found = run_code(tmp_path / "out", tiny.llama(), monkeypatch)
    assert len(found) == (2 if kind == "mean" else 1)
    run = bp.load(run_dir)
    ids = run.model.tokenizer(tiny.PROMPT.format(text="..."), return_tensors="pt")
    batch = bp.Batch(ids.input_ids, ids.attention_mask)
    torch.manual_seed(0)  # the run's
    expected = bp.PosteriorPredictive(run.model, run.guide, 2 if kind == "draws:2" else 0)(batch).probs
    torch.testing.assert_close(found[0]["probs"], expected, rtol=1e-4, atol=1e-4)


def classifier(folder: Path) -> bp.BayesianLoRA:
    """Whose head has the classes the other way round."""
    model = saved_classifier(folder).model
    model.likelihood = bp.SequenceClassification(2, outputs=[1, 0])
    return model


def causal(likelihood: Any, path: Path | None = None) -> bp.BayesianLoRA:
    model = bp.BayesianLoRA.from_pretrained(str(path or base_folder()), likelihood, r=2)
    fill_B(model.network)
    return model


LIKELIHOODS: dict[str, Callable[[Path], bp.BayesianLoRA]] = {
    "SequenceClassification": classifier,
    "MultipleChoice": lambda folder: causal(bp.MultipleChoice((5, 17, 40))),
    "WholeAnswer": lambda folder: causal(bp.WholeAnswer(((5,), (17, 40), (17, 9, 7), (30, 31)))),
    "CausalLM": lambda folder: causal(bp.CausalLM()),
}


def test_every_likelihood_is_in_the_table() -> None:
    assert LIKELIHOODS.keys() == bp.model.likelihoods.LIKELIHOODS.keys()


@pytest.mark.parametrize("kind", KIND_NAMES)
@pytest.mark.parametrize("name", list(LIKELIHOODS))
def test_the_code_of_every_likelihood_gives_the_librarys_answers(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LIKELIHOODS[name](tmp_path / "first")
    card, found, expected = answers(model, kind, tmp_path, monkeypatch)
    assert ("pipeline_tag: text-classification" in card) is (name == "SequenceClassification")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["MultipleChoice", "WholeAnswer"])
def test_no_answer_is_read_behind_an_end_of_text(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a tokenizer that puts one behind every text."""
    base = tmp_path / "base"
    shutil.copytree(base_folder(), base)
    tokenizer = tf.AutoTokenizer.from_pretrained(base)
    end = tokenizer.convert_ids_to_tokens(2)
    tokenizer.eos_token = end
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=f"$A {end}", special_tokens=[(end, 2)])
    tokenizer.save_pretrained(base)
    likelihood = LIKELIHOODS[name](tmp_path).likelihood
    _, found, expected = answers(causal(likelihood, base), "draws:2", tmp_path, monkeypatch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


WITH_BOS = {"prompt": "<s>{text}\nSentiment:"}
# What the tokenizer puts around a text, names of its tokens, and settings of the data.
SPELLINGS: dict[str, tuple[str, dict[str, str], dict[str, Any]]] = {
    "a prompt that begins with BOS": ("<s> $A", {}, WITH_BOS),
    "whole answers behind such": ("<s> $A", {}, WITH_BOS | {"labels": ["lovely", "dull"]}),
    "a prompt that may begin so": ("<s> $A", {}, {}),
    "two in front": ("<s> <pad> $A", {}, {"prompt": "<s><pad>{text}\nSentiment:"}),
    "two ends of text": ("<s> $A </s> </s>", {}, {}),
    "a separator that ends texts": ("<s> $A </s>", {"sep_token": "</s>"}, {}),
    "an encoder's": ("<s> $A </s>", {"sep_token": "</s>", "cls_token": "<s>"}, {}),
    "labels of two lines, and a fence": (
        "$A",
        {},
        {"labels": ["very\ngood", ' may"be\\'], "prompt": "```\n{text}\n```"},
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.filterwarnings("ignore::blob_pyro.data.batches.prompt_tokens.TokenizerWarning", "ignore:labels. ")
def test_the_code_reads_a_prompt_as_the_library_does(
    spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its prompt, and one that begins with BOS in the text of its field."""
    post, names, data = SPELLINGS[spelling]
    base = tmp_path / "base"
    shutil.copytree(tiny.llama(), base)
    tokenizer = tf.AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens(names)
    special = [(name, tokenizer.convert_tokens_to_ids(name)) for name in ("<s>", "</s>", "<pad>")]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=post, special_tokens=special)
    tokenizer.save_pretrained(base)
    raw = tiny.settings(tmp_path, base, data=data)
    labels = [label.strip() for label in raw["data"]["labels"]]
    for name in ("train", "test"):
        rows = [{"text": f"a {number}", "label": labels[number % 2]} for number in range(6)]
        tiny.write_jsonl(tmp_path / f"{name}.jsonl", rows)
    assert main(["fit", str(tiny.write_yaml(tmp_path / "c.yaml", raw)), "--quiet"]) == 0
    bp.export(tmp_path / "run", "mean", output=tmp_path / "out")
    card = tmp_path / "out" / "README.md"
    for field in ("...", "<s>a day"):
        card.write_text(card.read_text().replace("...", field))
        (tmp_path / "out" / base.name).unlink(missing_ok=True)
        found = run_code(tmp_path / "out", base, monkeypatch)[0]
        run = bp.load(tmp_path / "run")
        assert field in found["prompts"][0]
        items = bp.encode([bp.Example(found["prompts"][0], None, "")], run.model.tokenizer, 48, closing=False)
        expected = bp.PosteriorPredictive(run.model, run.guide, 0)(bp.predict_loader(items, 1, 0)).probs
        torch.testing.assert_close(found["probs"], expected, rtol=1e-5, atol=1e-5)


def answers(
    model: bp.BayesianLoRA, kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, torch.Tensor, torch.Tensor]:
    """The card, what its first code finds for its prompt, and the library's answers to that."""
    bp.save(folder / "run", model, bp.BLoBGuide(model))
    card = card_of(folder / "run", kind, folder / "out")
    found = run_code(folder / "out", Path(model.source.id), monkeypatch)
    assert len(found) == (2 if kind == "mean" else 1)
    run = bp.load(folder / "run")
    ids = [token for token in run.model.tokenizer("...")["input_ids"] if token != run.model.tokenizer.eos_token_id]
    batch = bp.Batch(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.long))
    torch.manual_seed(0)  # the export's
    draws = bp.PosteriorPredictive(run.model, run.guide, 2 if kind == "draws:2" else 0).sample_draws()
    with torch.no_grad(), run.model.evaluating():
        logits = [run.model.logits(batch, draw) for draw in draws]
        if isinstance(run.model.likelihood, bp.CausalLM):  # of the token behind the prompt, which has no place there
            longer = bp.Batch(torch.tensor([[*ids, 5]]), torch.ones(1, len(ids) + 1, dtype=torch.long))
            logits = [run.model.logits(longer, draw)[:, -1] for draw in draws]
    return card, found[0]["probs"], torch.stack(logits).softmax(-1).mean(0)


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_the_code_beside_a_quantised_base_runs(
    quantization: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved(tmp_path / "run", quantization=quantization)
    card = card_of(tmp_path / "run", "draws:2", tmp_path / "out")
    assert f"load_in_{quantization}=True" in card
    run_code(tmp_path / "out", base_folder(), monkeypatch)


def test_a_run_without_configuration_or_metrics_says_so(tmp_path: Path) -> None:
    """What `bp.save` alone wrote."""
    saved(tmp_path / "run")
    card = card_of(tmp_path / "run", "mean", tmp_path / "out")
    assert "None: the run has no test items, or was not evaluated." in card
    assert "The run does not say what they are." in card and "reliability.png" not in card


def test_a_run_without_test_items_says_so(tmp_path: Path) -> None:
    card = card_of(fitted(tmp_path, data={"test_file": None}), "mean", tmp_path / "out")
    assert "None: the run has no test items, or was not evaluated." in card and "Test items" not in card


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_run_that_learnt_texts(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny.llama()
    data = {"labels": None, "completion": " {label}"}
    run = fitted(tmp_path, base, data=data, model={"likelihood": "causal_lm"})
    card = card_of(run, kind, tmp_path / "out")
    assert "The prompt, and behind it ` {label}`:" in card and "Labels:" not in card
    scores = read_metrics(run, lambda values: bp.TokenMetrics(**values))
    assert metrics_table(scores) in card and "± the standard error over the test texts." in card
    assert run_code(tmp_path / "out", base, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_a_run_whose_items_have_the_shares_of_annotators(kind: str, tmp_path: Path) -> None:
    raw = tiny.settings(tmp_path, tiny.llama())
    for name in ("train", "test"):
        rows = [row | {"label": {row["label"]: 0.75, "positive": 0.25}} for row in tiny.items(8)[::2]]
        tiny.write_jsonl(tmp_path / f"{name}.jsonl", rows)
    assert main(["fit", str(tiny.write_yaml(tmp_path / "c.yaml", raw)), "--quiet"]) == 0
    card = card_of(tmp_path / "run", kind, tmp_path / "out")
    scores = read_metrics(tmp_path / "run", bp.Metrics.from_dict)
    assert metrics_table(scores) in card and annotators_table(scores) in card and annotators_table(scores)


def read_metrics(run: Path, read: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    return {name: read(values) for name, values in json.loads((run / "metrics.json").read_text()).items()}


def test_a_temperature_is_told(tmp_path: Path) -> None:
    """Exported weights do not have it."""
    run = fitted(tmp_path, data={"num_validation": 4}, predict={"temperature": True})
    cost = json.loads((run / "cost.json").read_text())
    card = card_of(run, "draws:2", tmp_path / "out")
    assert f"{cost['temperature_N=2']:.4g} for N=2.** Do the same." in card and "Held-out items: 4." in card


def test_a_linearised_predictive_is_told(tmp_path: Path) -> None:
    run = fitted(tmp_path, guide={"name": "laplace"}, model={"target_modules": ["q_proj"]})
    assert "are those of the linearised network" in card_of(run, "draws:2", tmp_path / "out")


def test_an_ensemble_says_what_its_mean_is(tmp_path: Path) -> None:
    run = fitted(tmp_path, guide={"name": "ensemble", "num_members": 2})
    card = card_of(run, "mean", tmp_path / "out")
    assert "the first of the ensemble's 2 members" in card and "is not exported" in card
    assert "bp.load" not in card


def test_a_prompt_with_fences_stays_in_its_block(tmp_path: Path) -> None:
    prompt = "```\n{text}\n```\nSentiment:"
    card = card_of(fitted(tmp_path, data={"prompt": prompt}), "mean", tmp_path / "out")
    assert f"````text\n{prompt}\n````" in card


def test_altered_metrics_are_one_line(tmp_path: Path) -> None:
    run = fitted(tmp_path)
    (run / "metrics.json").write_text('{"N=0": {"accuracy": 1}}')
    with pytest.raises(RunDirectoryError, match="metrics.json: expected the scores of a run; it was altered"):
        bp.export(run)
