"""Whole runs on tiny models: what is in the run directory is what was learnt, and it comes back."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pyro
import pytest
import tiny
import torch
import transformers as tf
from matplotlib.image import imread
from peft import PeftModel
from safetensors.torch import load_file
from tiny_runs import BERT, adapter_bytes, make_config, run

import blob_pyro as bp
from blob_pyro.errors import ConfigError, DataError, NonFiniteLossError, RunDirectoryError
from blob_pyro.guides import GUIDES, AdapterGuide
from blob_pyro.model.loading import BaseSource, load_base
from blob_pyro.model.place import locate
from blob_pyro.report.page import cautions_of, read_run
from blob_pyro.runs import answerer as answering
from blob_pyro.runs import train as learning
from blob_pyro.runs.evaluate import evaluate_run
from blob_pyro.runs.fit import fit_run
from blob_pyro.runs.predict import predict_run
from blob_pyro.storage.directory import read_config
from blob_pyro.training.svi import BLoBSVI

pytestmark = pytest.mark.slow

FILES = {
    "about.json",
    "adapter",
    "config.yaml",
    "cost.json",
    "history.jsonl",
    "metrics.json",
    "posterior.json",
    "posterior.safetensors",
    "predictions.parquet",
    "reliability.png",
}


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A finished BLoB run: its configuration and result."""
    config = make_config(tmp_path_factory.mktemp("workflow"))
    return config, run(config)


# --- the run directory ---


def test_a_run_directory_holds_every_part(finished):
    config, result = finished
    assert {path.name for path in result.path.iterdir()} == FILES
    assert read_config(result.path) == config
    assert set(result.metrics) == set(result.predictions) == {"N=0", "N=2"}


def test_history_has_one_line_a_step(finished):
    config, result = finished
    history = tiny.read_jsonl(result.path / "history.jsonl")
    assert [line["step"] for line in history] == list(range(1, config.train.num_steps + 1))
    for line in history:
        assert set(line) == {"nll", "kl", "kl_weight", "loss", "step", "scale"}
        assert line["loss"] == pytest.approx(line["nll"] + line["kl_weight"] * line["kl"])
        assert all(math.isfinite(value) for value in line.values())


def test_the_scale_is_the_mean_over_all_entries(finished):
    _, result = finished
    guide = bp.load(result.path).guide
    scales = [guide.scale(site).detach().flatten() for site in guide.model.sites]
    assert float(guide.mean_scale()) == pytest.approx(float(torch.cat(scales).mean()))
    assert float(AdapterGuide.mean_scale(guide)) == pytest.approx(float(torch.cat(scales).mean()))
    told = json.loads((result.path / "posterior.json").read_text())["mean_scales"]
    assert told == pytest.approx({site: float(guide.scale(site).detach().mean()) for site in guide.model.sites})


def test_about_tells_versions_and_items(finished):
    _, result = finished
    told = json.loads((result.path / "about.json").read_text())
    assert told["items"] == {"train": 12, "validation": 0, "test": 6}
    assert told["versions"]["torch"].startswith(torch.__version__.split("+")[0])
    rows = tiny.read_jsonl(Path(finished[0].data.train_file))
    shares = [sum(row["label"] == name for row in rows) / 12 for name in ("negative", "positive")]
    assert told["label_entropy"] == pytest.approx(-sum(share * math.log(share) for share in shares))
    assert told["machine"]["device"] == "cpu" and any(note.startswith("train: 12 items") for note in told["notes"])


def test_a_run_ends_with_what_is_against_its_posterior(tmp_path):
    """A few steps at no rate to speak of teach nothing: said in the report's words."""
    said = []
    config = make_config(tmp_path, train={"num_steps": 3, "lr": 1e-9})
    fit_run(config, progress=False, say=said.append)
    notes = [line.removeprefix("note: ") for line in said if line.startswith("note: ")]
    assert notes[0].startswith("Underfitted: ")
    assert set(notes) <= {caution.text for caution in cautions_of(read_run(config.output))}


def test_metrics_are_those_of_the_saved_predictions(finished):
    _, result = finished
    saved = json.loads((result.path / "metrics.json").read_text())
    assert saved == {name: metrics.to_dict() for name, metrics in result.metrics.items()}
    table = pq.read_table(result.path / "predictions.parquet").to_pylist()
    names = ["negative", "positive"]
    predictions = bp.Predictions(
        probs=torch.tensor([[row["probabilities"][name] for name in names] for row in table]),
        draws=torch.tensor([row["draws"] for row in table]).transpose(0, 1),
        labels=torch.tensor([names.index(row["label"]) for row in table]),
    )
    assert torch.equal(predictions.probs, result.predictions["N=2"].probs)
    assert torch.equal(predictions.draws, result.predictions["N=2"].draws)
    assert bp.evaluate(predictions) == result.metrics["N=2"]


def test_predictions_name_items_in_the_order_of_the_file(finished):
    config, result = finished
    table = pq.read_table(result.path / "predictions.parquet").to_pylist()
    rows = tiny.read_jsonl(Path(config.data.test_file))
    assert [row["id"] for row in table] == [f"line {i + 1}" for i in range(len(rows))]
    assert [row["prompt"] for row in table] == [tiny.PROMPT.format(**row) for row in rows]
    assert [row["label"] for row in table] == [row["label"] for row in rows]
    for row in table:
        assert row["prediction"] == max(row["probabilities"], key=row["probabilities"].get)
        entropy = -sum(p * math.log(p) for p in row["probabilities"].values())
        assert row["entropy"] == pytest.approx(entropy, abs=1e-6)
        assert 0 <= row["mutual_information"] <= row["entropy"] + 1e-6


def test_the_diagram_is_an_image(finished):
    image = imread(finished[1].path / "reliability.png")
    assert image.shape[0] > 500 and image.shape[1] > 500 and image.std() > 0.05


def test_the_adapter_loads_with_plain_peft_and_answers_as_the_posterior_mean(finished):
    config, result = finished
    network = PeftModel.from_pretrained(
        tf.AutoModelForCausalLM.from_pretrained(config.model.id), result.path / "adapter"
    ).eval()
    assert all("lora_A" in name or "lora_B" in name for name in load_file(_adapter_file(result.path)))
    tokenizer = tf.AutoTokenizer.from_pretrained(config.model.id)
    answers = [tokenizer(label, add_special_tokens=False).input_ids[0] for label in tiny.LABELS]
    for row, probs in zip(tiny.read_jsonl(Path(config.data.test_file)), result.predictions["N=0"].probs, strict=True):
        ids = tokenizer(tiny.PROMPT.format(**row), return_tensors="pt").input_ids
        with torch.no_grad():
            logits = network(input_ids=ids).logits[0, -1, answers]
        torch.testing.assert_close(logits.softmax(-1), probs, atol=1e-6, rtol=1e-5)


def _adapter_file(path: Path) -> Path:
    return path / "adapter" / "adapter_model.safetensors"


def test_no_file_of_a_run_is_a_pickle(finished):
    for path in finished[1].path.rglob("*"):
        assert path.suffix in {"", ".json", ".jsonl", ".md", ".parquet", ".png", ".safetensors", ".yaml"}


# --- again, from disk ---


def test_evaluate_gives_the_numbers_of_fit_however_often(finished, tmp_path):
    path = shutil.copytree(finished[1].path, tmp_path / "copy")
    for _ in range(2):
        pyro.set_rng_seed(99)
        assert evaluate_run(path, progress=False).metrics == finished[1].metrics


def test_evaluate_takes_another_number_of_draws(finished, tmp_path):
    path = shutil.copytree(finished[1].path, tmp_path / "copy")
    again = evaluate_run(path, num_samples=3, progress=False)
    assert set(again.metrics) == {"N=0", "N=3"} and again.metrics["N=3"].num_samples == 3
    assert set(json.loads((path / "metrics.json").read_text())) == {"N=0", "N=3"}
    assert set(evaluate_run(path, num_samples=0, progress=False).metrics) == {"N=0"}


def test_predict_keeps_order_and_fields_and_answers_as_the_predictive(finished, tmp_path):
    config, result = finished
    rows = [{**row, "note": {"deep": [1, None]}} for row in reversed(tiny.items(5, seed=4))]
    answers = predict_run(result.path, tiny.write_jsonl(tmp_path / "new.jsonl", rows), progress=False)
    added = {"prediction", "probabilities", "confidence", "margin", "entropy", "mutual_information"}
    for row, answer in zip(rows, answers, strict=True):
        assert {name: answer[name] for name in row} == row
        assert set(answer) == set(row) | added
        assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    loaded = bp.load(result.path)
    examples = [bp.Example(tiny.PROMPT.format(**row), None, str(i)) for i, row in enumerate(rows)]
    items = bp.encode(examples, loaded.model.tokenizer, tiny.CONTEXT)
    pyro.set_rng_seed(config.seed)
    predictive = bp.PosteriorPredictive(loaded.model, loaded.guide, num_samples=2)
    expected = predictive(bp.predict_loader(items, 16, loaded.model.tokenizer.pad_token_id)).probs
    assert torch.equal(torch.tensor([list(answer["probabilities"].values()) for answer in answers]), expected)


def test_predict_answers_the_test_file_as_fit_did(finished):
    config, result = finished
    answers = predict_run(result.path, config.data.test_file, progress=False)
    probs = torch.tensor([list(answer["probabilities"].values()) for answer in answers])
    assert torch.equal(probs, result.predictions["N=2"].probs)


def test_predict_needs_no_label_and_does_not_care_for_one(finished, tmp_path):
    rows = tiny.items(3)
    labels = [{}, {"label": "whatever"}, {"label": None}]
    without = [{"text": row["text"], **label} for row, label in zip(rows, labels, strict=True)]
    path = finished[1].path
    given = predict_run(path, tiny.write_jsonl(tmp_path / "a.jsonl", rows), progress=False)
    other = predict_run(path, tiny.write_jsonl(tmp_path / "b.jsonl", without), progress=False)
    assert [row["probabilities"] for row in given] == [row["probabilities"] for row in other]
    assert other[1]["label"] == "whatever"


def test_a_run_loads_with_the_posterior_it_was_saved_with(finished):
    _, result = finished
    first, second = bp.load(result.path), bp.load(result.path)
    for site in first.model.sites:
        assert torch.equal(first.guide.loc(site), second.guide.loc(site))
        assert torch.equal(first.guide.scale(site), second.guide.scale(site))
    saved = load_file(result.path / "posterior.safetensors")
    assert set(saved) == set(first.guide.scale_parameters())


# --- seeds ---


def test_a_seed_decides_everything_bit_for_bit(finished, tmp_path):
    config, result = finished
    torch.manual_seed(12345)
    same = run(dataclasses.replace(config, output=str(tmp_path / "same")))
    other = run(dataclasses.replace(config, output=str(tmp_path / "other"), seed=1))
    assert adapter_bytes(same.path) == adapter_bytes(result.path) != adapter_bytes(other.path)
    assert (
        load_file(same.path / "posterior.safetensors").keys() == load_file(other.path / "posterior.safetensors").keys()
    )
    assert same.metrics == result.metrics
    assert (same.path / "history.jsonl").read_text() == (result.path / "history.jsonl").read_text()


# --- other guides, likelihoods and data ---


@pytest.mark.parametrize("guide", sorted(GUIDES))
@pytest.mark.parametrize("network", ["llama", "bert", "llama classifier"])
def test_every_guide_and_likelihood_makes_a_whole_run(tmp_path, guide, network):
    folder = tiny.bert() if network == "bert" else tiny.llama()
    model = {"llama": {}, "bert": BERT, "llama classifier": {"likelihood": "sequence_classification"}}[network]
    config = make_config(tmp_path, network=folder, guide={"name": guide}, model=model)
    result = run(config)
    assert {path.name for path in result.path.iterdir()} == FILES
    draws = 3 if guide == "ensemble" else 2 if GUIDES[guide].is_random else 0  # each member of an ensemble once
    assert set(result.metrics) == {"N=0", f"N={draws}"}
    assert evaluate_run(result.path, progress=False).metrics == result.metrics
    before = tiny.read_jsonl(result.path / "history.jsonl")
    assert before[0]["kl_weight"] >= 0 and (GUIDES[guide].is_random or guide != "mle" or before[0]["kl"] == 0)
    last = result.predictions[f"N={draws}"]
    answers = predict_run(result.path, config.data.test_file, progress=False)
    probs = torch.tensor([list(answer["probabilities"].values()) for answer in answers])
    assert torch.equal(probs, last.probs)


def test_training_learns_the_words_of_the_labels(tmp_path):
    targets = {"target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"], "r": 4, "lora_alpha": 16}
    config = make_config(
        tmp_path, model=targets, train={"num_steps": 120, "batch_size": 6, "lr": 0.02}, predict={"num_samples": 4}
    )
    config = dataclasses.replace(config, data=dataclasses.replace(config.data, test_file=config.data.train_file))
    result = run(config)
    history = tiny.read_jsonl(result.path / "history.jsonl")
    early, late = (np.mean([line["nll"] for line in part]) for part in (history[:6], history[-6:]))
    assert late < early
    assert result.metrics["N=4"].accuracy > 0.8


@pytest.mark.parametrize(("num_steps", "at_bound"), [(1, True), (8, False)])
def test_a_temperature_at_the_end_of_its_range_is_told(tmp_path, num_steps, at_bound):
    """A network that has learnt next to nothing had better answer evenly; after eight steps there is an optimum."""
    steps = {"num_steps": num_steps, "batch_size": 6, "lr": 0.02 if num_steps > 1 else 1e-6}
    targets = {"target_modules": ["q_proj", "v_proj", "up_proj", "down_proj"], "r": 4, "lora_alpha": 16}
    config = make_config(
        tmp_path, model=targets, train=steps, guide={"name": "mle"}, predict={"temperature": True},
        data={"num_validation": 6},
    )  # fmt: skip
    told = []
    result = fit_run(config, progress=False, say=told.append)
    found = bp.Temperature(json.loads((result.path / "cost.json").read_text())["temperature_N=0"])
    assert found.at_bound is at_bound
    lines = [line for line in told if line.startswith("temperature")]
    milder = "temperature of N=0: T = 100, the top of the range: the milder, the better on the held-out items"
    assert lines == ([milder] if at_bound else [])
    for again in (partial(evaluate_run, result.path), partial(predict_run, result.path, tmp_path / "test.jsonl")):
        told.clear()
        again(progress=False, say=told.append)
        assert told == lines


def test_without_test_items_a_run_says_so_and_predicts(tmp_path):
    config = make_config(tmp_path, data={"test_file": None})
    result = run(config)
    assert result.metrics == {} and result.predictions == {}
    assert {path.name for path in result.path.iterdir()} == FILES - {
        "metrics.json",
        "predictions.parquet",
        "reliability.png",
    }
    assert len(predict_run(result.path, tmp_path / "test.jsonl", progress=False)) == 6
    with pytest.raises(DataError, match="expected a run with test items; it has none; use `blob-pyro predict`"):
        evaluate_run(result.path, progress=False)


def test_no_draws_answer_with_the_posterior_mean_alone(tmp_path):
    result = run(make_config(tmp_path, predict={"num_samples": 0}))
    assert set(result.metrics) == {"N=0"} and result.metrics["N=0"].mutual_information == 0
    assert all(row["mutual_information"] == 0 for row in predict_run(result.path, tmp_path / "test.jsonl"))


def test_gradient_checkpointing_and_recipes_run(tmp_path):
    for recipe in ("decoupled", "elbo"):
        config = make_config(
            tmp_path, train={"recipe": recipe}, model={"gradient_checkpointing": True}, output=str(tmp_path / recipe)
        )
        assert run(config).metrics["N=2"].num_items == 6


def test_settings_of_the_loaders_arrive(tmp_path, monkeypatch):
    seen = {}

    def watch(module, name, wanted):
        original = getattr(module, name)

        def watched(*args, **named):
            seen[wanted] = named[wanted]
            return original(*args, **named)

        monkeypatch.setattr(module, name, watched)

    watch(learning, "train_loader", "group_by_length")
    watch(answering, "PosteriorPredictive", "max_tokens")
    for grouped, max_tokens in ((True, None), (False, 30)):
        settings = {"train": {"group_by_length": grouped}, "predict": {"num_samples": 2, "max_tokens": max_tokens}}
        run(make_config(tmp_path, **settings, output=str(tmp_path / str(grouped))))
        assert seen == {"group_by_length": grouped, "max_tokens": max_tokens}


def test_balanced_class_weights_give_every_class_the_same_weight(tmp_path):
    """9 items of one class, 3 of the other; the numbers are the run's, and come back with it."""
    rows = [row for row in tiny.items(18) if row["label"] == "negative"] + tiny.items(6)[1::2]
    tiny.write_jsonl(tmp_path / "uneven.jsonl", rows)
    options = {"class_weights": "balanced", "label_smoothing": 0.1}
    config = make_config(tmp_path, data={"train_file": str(tmp_path / "uneven.jsonl")}, model=options)
    path = run(config).path
    likelihood = bp.load(path).model.likelihood
    assert likelihood.class_weights == (12 / (2 * 9), 12 / (2 * 3)) and likelihood.label_smoothing == 0.1
    assert read_config(path).model.class_weights == "balanced"
    assert evaluate_run(path, progress=False, say=lambda line: None).metrics


def test_balanced_class_weights_need_every_class(tmp_path):
    tiny.write_jsonl(tmp_path / "one.jsonl", tiny.items(8)[::2])
    config = make_config(
        tmp_path, data={"train_file": str(tmp_path / "one.jsonl")}, model={"class_weights": "balanced"}
    )
    with pytest.raises(
        ConfigError, match="expected training items of every class for 'balanced'; got none of positive"
    ):
        run(config)
    assert not (tmp_path / "run").exists()


def test_notes_say_what_is_in_the_data(tmp_path):
    lines: list[str] = []
    config = make_config(tmp_path, data={"test_file": str(tmp_path / "train.jsonl")})
    fit_run(config, progress=False, say=lines.append)
    assert "train: 12 items (negative 6, positive 6)" in lines
    assert "test: 12 of 12 prompts also occur in training" in lines
    assert f"saved adapter and posterior in {config.output}" in lines


# --- what goes wrong ---


def test_nothing_is_written_before_training(tmp_path):
    mistakes = [
        {"model": {"target_modules": ["nope"]}},
        {"model": {"id": str(tmp_path / "none")}},
        {"data": {"labels": [" negative", " neg"]}},
        {"data": {"max_length": 3}},
    ]
    for mistake in mistakes:
        with pytest.raises(bp.BlobPyroError):
            run(make_config(tmp_path, **mistake))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("part", sorted(FILES - {"metrics.json"}))
def test_a_directory_with_any_part_of_a_run_is_not_written_to(tmp_path, part):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / part).touch()
    with pytest.raises(RunDirectoryError, match=rf"it holds a run \({part}\); choose another --output, delete it"):
        run(make_config(tmp_path))


def test_a_directory_with_other_files_is_used(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert run(make_config(tmp_path)).path == tmp_path / "run"
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def stop_before(step_to_stop_at: int, monkeypatch) -> None:
    """Let Ctrl-C come when a step is about to begin."""
    step = BLoBSVI.step

    def interrupted(self, batch):
        if self.steps_done == step_to_stop_at - 1:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(BLoBSVI, "step", interrupted)


@pytest.mark.usefixtures("validation")
@pytest.mark.parametrize("guide", sorted(GUIDES))
def test_a_loss_that_is_not_finite_saves_the_parameters_that_were_still_good(tmp_path, monkeypatch, guide):
    config = make_config(tmp_path, guide={"name": guide}, train={"lr": 1e38, "num_steps": 50})
    with pytest.raises(NonFiniteLossError, match="expected a finite") as told:
        run(config)
    steps = len(tiny.read_jsonl(tmp_path / "run" / "history.jsonl"))
    assert f"{tmp_path}/run holds the parameters before step {steps}, whose loss was finite" in str(told.value)
    answers = predict_run(tmp_path / "run", tmp_path / "test.jsonl", progress=False)
    assert all(math.isfinite(p) for answer in answers for p in answer["probabilities"].values())
    stop_before(steps, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        run(dataclasses.replace(config, output=str(tmp_path / "stopped")))
    assert adapter_bytes(tmp_path / "run") == adapter_bytes(tmp_path / "stopped")
    spread = [load_file(tmp_path / name / "posterior.safetensors") for name in ("run", "stopped")]
    assert all(torch.equal(spread[0][name], spread[1][name]) for name in spread[0] | spread[1])


def test_a_loss_that_is_not_finite_at_once_saves_the_untrained_parameters(tmp_path):
    folder = shutil.copytree(tiny.llama(), tmp_path / "broken")
    network = tf.AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        network.model.norm.weight.fill_(math.nan)
    network.save_pretrained(folder)
    with pytest.raises(NonFiniteLossError, match="step 4: .* holds the untrained parameters"):
        run(make_config(tmp_path, network=folder))
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


def test_an_interrupt_saves_and_says_after_which_step(tmp_path, monkeypatch):
    stop_before(4, monkeypatch)
    with pytest.raises(KeyboardInterrupt, match="run holds the adapter and posterior after step 3"):
        run(make_config(tmp_path))
    assert len(tiny.read_jsonl(tmp_path / "run" / "history.jsonl")) == 3
    assert len(predict_run(tmp_path / "run", tmp_path / "test.jsonl", progress=False)) == 6


def test_an_interrupt_after_training_says_what_there_is(tmp_path, monkeypatch):
    def interrupted(*args, **named):
        raise KeyboardInterrupt

    monkeypatch.setattr("blob_pyro.runs.answerer.PosteriorPredictive", interrupted)
    with pytest.raises(KeyboardInterrupt, match="run holds the adapter and posterior, but no metrics yet"):
        run(make_config(tmp_path))
    monkeypatch.undo()
    assert evaluate_run(tmp_path / "run", progress=False).metrics["N=2"].num_items == 6


# --- where models come from ---


def test_a_local_folder_never_asks_the_hub(monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *args, **named: pytest.fail("asked the hub"))
    place = locate(str(tiny.llama()))
    assert (place.path, place.local_only, place.why) == (str(tiny.llama()), True, "")


def test_a_hub_id_is_asked_for_once_and_falls_back_to_the_cache(monkeypatch):
    asked = []

    def unreachable(self, repo_id, revision, timeout):
        asked.append((repo_id, revision, timeout))
        raise ConnectionError("no\nnetwork")

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", unreachable)
    place = locate("someone/model")
    assert asked == [("someone/model", None, 10.0)]
    assert (place.local_only, place.why) == (True, "no network")
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda self, repo_id, revision, timeout: None)
    assert locate("someone/model").local_only is False
    assert locate("someone/model", "v1").settings == {"local_files_only": False, "revision": "v1"}


def test_a_causal_model_whose_files_lack_weights_is_warned_about(tmp_path):
    folder = shutil.copytree(tiny.llama(), tmp_path / "headless")
    network = tf.AutoModel.from_pretrained(folder)
    network.save_pretrained(folder)
    source = BaseSource(id=str(folder))
    with pytest.warns(UserWarning, match="its files lack lm_head.weight; random there"):
        load_base(source, bp.MultipleChoice([1, 2]))


def test_an_encoder_is_no_causal_model():
    with pytest.raises(ConfigError, match=r"got an encoder \(bert\): set model.likelihood to sequence_classification"):
        load_base(BaseSource(id=str(tiny.bert())), bp.MultipleChoice([1, 2]))


def test_the_first_member_of_an_ensemble_is_the_plain_run(tmp_path):
    """Bit for bit, on a network whose head no file holds; the heads of the others started elsewhere."""
    kind = {"likelihood": "sequence_classification"}
    paths = {}
    for guide in ("mle", "ensemble"):
        paths[guide] = run(make_config(tmp_path, guide={"name": guide}, model=kind, output=str(tmp_path / guide))).path
    assert adapter_bytes(paths["mle"]) == adapter_bytes(paths["ensemble"])
    name = "base_model.model.score.weight"
    heads = [
        load_file(paths["ensemble"] / "adapter" / member / "adapter_model.safetensors")[name]
        for member in ("", "default_member_1", "default_member_2")
    ]
    assert min(float((heads[k] - heads[k - 1]).abs().mean()) for k in range(3)) > 0.1  # training moves them by 0.04
