"""Heads that were trained before: of which order, and of which size."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers as tf
from cases import make_batch

import blob_pyro as bp
from blob_pyro.cli.dispatch import main
from blob_pyro.config.sections import ModelConfig
from blob_pyro.errors import ConfigError, ModelLoadError
from blob_pyro.model.heads import matched_outputs
from blob_pyro.runs.build import build_likelihood

NAMES = ("positive", "neutral", "negative")


def trained(folder: Path, *names: str) -> Path:
    """A classifier that calls its outputs so; the bias says which is which."""
    config = tf.AutoConfig.from_pretrained(tiny.bert())
    config.id2label, config.label2id = dict(enumerate(names)), {name: k for k, name in enumerate(names)}
    torch.manual_seed(0)
    network = tf.BertForSequenceClassification(config)
    network.classifier.bias.data = torch.arange(len(names), dtype=torch.float32)
    network.save_pretrained(folder)
    tf.AutoTokenizer.from_pretrained(tiny.bert()).save_pretrained(folder)
    return folder


def model_config(folder: Path | str, **more: Any) -> ModelConfig:
    return ModelConfig(id=str(folder), likelihood="sequence_classification", r=2, **more)


def logits(folder: Path, likelihood: Any) -> torch.Tensor:
    model = bp.BayesianLoRA.from_pretrained(str(folder), likelihood, r=2)
    return model.logits(make_batch()).detach()


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (["a", "b", "c"], ["c", "a", "b"], (2, 0, 1)),
        (["Positive", "NEGATIVE "], [" negative", "positive"], (1, 0)),
        (["a", "b"], ["a", "c"], None),
        (["a", "A"], ["a", "A"], None),
        (["a", "b", "c"], ["a", "b"], None),
        (["LABEL_0", "LABEL_1"], [" LABEL_1", "label_0"], (1, 0)),
        ([f"LABEL_{k}" for k in range(12)], sorted(f"LABEL_{k}" for k in range(12)), (0, 1, 10, 11, *range(2, 10))),
        (["LABEL_0", "LABEL_1", "LABEL_2"], ["2", " 0", "1"], (2, 0, 1)),
        ([f"LABEL_{k}" for k in range(12)], sorted(map(str, range(12))), (0, 1, 10, 11, *range(2, 10))),
        (["LABEL_0", "LABEL_1"], ["1", "2"], None),
        (["zero", "one"], ["0", "1"], None),
    ],
)
def test_names_are_matched(names: list[str], labels: list[str], expected: Any) -> None:
    assert matched_outputs(names, labels) == expected


def test_an_output_has_the_label_that_the_head_calls_it(tmp_path: Path) -> None:
    folder = trained(tmp_path / "base", *NAMES)
    plain = tf.AutoModelForSequenceClassification.from_pretrained(folder)(**vars_of(make_batch())).logits
    with pytest.warns(
        UserWarning, match="head has the labels in the order positive, neutral, negative; they are matched"
    ):
        likelihood = build_likelihood(model_config(folder), [" Negative", " positive", " neutral"])
    assert likelihood.settings()["outputs"] == [2, 0, 1]
    torch.testing.assert_close(logits(folder, likelihood), plain[:, [2, 0, 1]])
    again = bp.SequenceClassification(**json.loads(json.dumps(likelihood.settings())))
    assert torch.equal(logits(folder, again), logits(folder, likelihood))


def vars_of(batch: bp.Batch) -> dict[str, torch.Tensor]:
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}


def test_the_same_order_and_names_by_default_say_nothing(tmp_path: Path) -> None:
    for folder in (trained(tmp_path / "a", *NAMES), trained(tmp_path / "b", "LABEL_0", "LABEL_1", "LABEL_2")):
        assert build_likelihood(model_config(folder), NAMES).settings() == {"num_labels": 3}


def test_heads_that_number_their_outputs(tmp_path: Path) -> None:
    """By name, or by number; told where neither will do, and not of a base without a head, which has such names too."""
    folder = trained(tmp_path / "base", "LABEL_0", "LABEL_1", "LABEL_2")
    for labels in (["LABEL_2", "LABEL_0", "LABEL_1"], [" 2", " 0", " 1"]):
        with pytest.warns(UserWarning, match="in the order LABEL_0, LABEL_1, LABEL_2; they are matched by name"):
            assert build_likelihood(model_config(folder), labels).settings()["outputs"] == [2, 0, 1]
    with pytest.warns(
        UserWarning, match="the labels LABEL_0, LABEL_1, LABEL_2; data.labels are 1, 2, 3, and are taken"
    ):
        assert build_likelihood(model_config(folder), ["1", "2", "3"]).settings() == {"num_labels": 3}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"architectures": ["BertForMaskedLM"]}))
    for labels in (["2", "0", "1"], ["1", "2", "3"]):
        assert build_likelihood(model_config(folder), labels).settings() == {"num_labels": 3}


def test_other_names_are_told(tmp_path: Path) -> None:
    folder = trained(tmp_path / "base", "yes", "no")
    with pytest.warns(UserWarning, match="the labels yes, no; data.labels are good, bad, and are taken in that order"):
        assert build_likelihood(model_config(folder), [" good", " bad"]).settings() == {"num_labels": 2}


def test_outputs_are_an_order() -> None:
    with pytest.raises(ConfigError, match="outputs: expected 0 to 1 in some order; got \\[1, 1\\]"):
        bp.SequenceClassification(2, outputs=[1, 1])


def test_a_head_of_another_size(tmp_path: Path) -> None:
    folder = trained(tmp_path / "base", *NAMES)
    message = (
        "a trained head of 2 classes, as many as labels; got one of 3 .positive, neutral, negative.: take its labels"
    )
    with pytest.raises(ModelLoadError, match=message) as caught:
        bp.BayesianLoRA.from_pretrained(str(folder), bp.SequenceClassification(2), r=2)
    assert "\n" not in str(caught.value)
    with pytest.warns(UserWarning, match="its head of 3 classes is left out; a fresh one has 2"):
        model = bp.BayesianLoRA.from_pretrained(
            str(folder), bp.SequenceClassification(2), r=2, ignore_mismatched_sizes=True
        )
    before = model.logits(make_batch())
    assert before.shape == (4, 2)
    bp.save(tmp_path / "run", model, bp.BLoBGuide(model))
    with pytest.warns(UserWarning, match="left out"):
        again = bp.load(tmp_path / "run").model
    assert torch.equal(again.logits(make_batch()), before)


def test_files_of_two_models_are_no_head_of_another_size(tmp_path: Path) -> None:
    folder = trained(tmp_path / "base", *NAMES)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + 1}))
    with pytest.raises(
        ModelLoadError, match="have bert.embeddings.word_embeddings.weight of shape .* not of one model"
    ):
        bp.BayesianLoRA.from_pretrained(str(folder), bp.SequenceClassification(3), r=2, ignore_mismatched_sizes=True)


def classifying(tmp_path: Path, base: Path, labels: list[str], **model: Any) -> dict[str, Any]:
    model = {"likelihood": "sequence_classification", "target_modules": None} | model
    return tiny.settings(
        tmp_path, base, model=model, data={"labels": labels}, guide={"name": "mle"}, output=str(tmp_path / "run")
    )


def scores(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "metrics.json").read_text())["N=0"]
    return found


@pytest.mark.slow
@pytest.mark.filterwarnings("default:.*matched by name")
def test_a_classifier_scores_the_same_whatever_the_order_of_the_labels(tmp_path: Path) -> None:
    """Trained, merged, and taken as the base of a run whose labels stand the other way round; and so its adapter."""
    first = classifying(tmp_path, tiny.bert(), [" positive", " negative"])
    first["train"] |= {"num_steps": 12, "lr": 0.02}
    assert main(["fit", str(tiny.write_yaml(tmp_path / "a.yaml", first)), "--quiet"]) == 0
    assert (
        main(["export", str(tmp_path / "run"), "--as", "merged", "--output", str(tmp_path / "merged"), "--quiet"]) == 0
    )
    expected = scores(tmp_path / "run")
    still = {"num_steps": 1, "lr": 1e-12, "kl_lr": 0.0}
    starts = {
        "merged": {"id": str(tmp_path / "merged")},
        "adapter": {"id": str(tiny.bert()), "adapter": str(tmp_path / "run" / "adapter")},
    }
    for name, start in starts.items():
        other = classifying(tmp_path, tiny.bert(), [" negative", " positive"], **start)
        other |= {"output": str(tmp_path / name / "run")}
        other["train"] |= still
        assert main(["fit", str(tiny.write_yaml(tmp_path / "b.yaml", other)), "--quiet"]) == 0
        assert scores(tmp_path / name / "run")["nll"] == pytest.approx(expected["nll"], abs=1e-4)
    again = tmp_path / "again"
    shutil.rmtree(tmp_path / "merged" / "README.md", ignore_errors=True)
    run = str(tmp_path / "merged" / "run")
    assert main(["export", run, "--as", "merged", "--output", str(again), "--quiet"]) == 0
    config = json.loads((again / "config.json").read_text())
    assert config["id2label"] == {"0": "positive", "1": "negative"}
