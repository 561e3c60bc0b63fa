"""What a report says: scores, items and warnings, against naive twins; what it refuses; of every kind of run."""

from __future__ import annotations

import dataclasses
import html
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from report_runs import NAMES, answers, steps, write_history, write_run
from tiny_runs import BERT, make_config, run

import blob_pyro as bp
from blob_pyro.cli import main
from blob_pyro.errors import ConfigError, DataError, RunDirectoryError
from blob_pyro.report.page import cautions_of, read_run, write_report
from blob_pyro.report.page.cautions import OF_THE_POSTERIOR, cautions_of_several
from blob_pyro.report.page.cautions.draws import ece_difference, nll_difference
from blob_pyro.report.page.extremes import confident_mistakes, uncertain_items
from blob_pyro.report.page.facts import changed_settings, facts_of
from blob_pyro.report.page.naming import systems_of

pytestmark = pytest.mark.slow


def text_of(file: Path) -> str:
    """What a reader sees: tags taken out, entities read."""
    body = file.read_text(encoding="utf-8").partition("<main>")[2]
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


def warned(path: Path) -> str:
    return "\n".join(caution.text for caution in cautions_of(read_run(path)))


def test_a_run_is_told_whole(tmp_path: Path) -> None:
    told = text_of(write_report([write_run(tmp_path / "run")], tmp_path / "report.html"))
    scores = bp.evaluate(answers())
    for words in (
        "Warnings", "What was run", "BLoB (guide blob)", "60 steps of 4 items", "torch 2", "12 s training", "9 train",
        f"{100 * scores.accuracy:.1f} ± {100 * scores.accuracy_se:.1f}", f"{scores.nll:.3f} ± {scores.nll_se:.3f}",
        "Most confident mistakes", "Least certain items", "Reliability", "Risk and coverage", "ECE against N",
        "Weight of the KL", "Mean posterior standard deviation", "Spread by layer", "The whole configuration",
    ):  # fmt: skip
        assert words in told, words


def test_several_runs_stand_in_one_table(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / f"b{seed}", answers(sharp=1 + seed), seed=seed) for seed in (0, 1)]
    runs += [write_run(tmp_path / "m", answers(num_draws=1, sharp=3), steps(scale=None), guide={"name": "mle"})]
    runs += [write_run(tmp_path / "w", answers(sharp=0.5), train={"kl_weight": 2.0})]
    names = [system.name for system in systems_of([read_run(path) for path in runs])]
    assert names == ["BLoB (kl_weight 1.0)", "MLE (plain LoRA)", "BLoB (kl_weight 2.0)"]
    told = text_of(write_report(runs, tmp_path / "report.html"))
    nlls = [bp.evaluate(answers(sharp=1 + seed)).nll for seed in (0, 1)]
    mean, spread = sum(nlls) / 2, abs(nlls[0] - nlls[1]) / math.sqrt(2)
    assert f"{mean:.3f} ± {spread:.3f}" in told
    assert "BLoB (kl_weight 1.0) N=10" in told and "MLE (plain LoRA), seed" not in told
    assert "different numbers of seeds (1 to 2)" in told


def test_runs_of_other_items_cannot_be_compared(tmp_path: Path) -> None:
    runs = [read_run(write_run(tmp_path / "a")), read_run(write_run(tmp_path / "b", answers(n=250), seed=1))]
    found = cautions_of_several(systems_of(runs))
    assert [one.text for one in found if one.serious] == [
        "The runs have 2 different sets of test items: their scores cannot be compared."
    ]


def test_the_items_are_those_of_a_loop(tmp_path: Path) -> None:
    saved = read_run(write_run(tmp_path / "run")).answers
    assert saved is not None and saved.predictions.labels is not None
    probs, labels = saved.predictions.probs.tolist(), saved.predictions.labels.tolist()
    wrong = [(max(p), i) for i, (p, label) in enumerate(zip(probs, labels, strict=True)) if p.index(max(p)) != label]
    expected = [f"line {i}" for _, i in sorted(wrong, key=lambda pair: (-pair[0], pair[1]))]
    assert [item.name for item in confident_mistakes(saved, 7)] == expected[:7]
    entropy = [-sum(p * math.log(p) for p in row) for row in probs]
    order = sorted(range(len(probs)), key=lambda i: -entropy[i])
    assert [item.name for item in uncertain_items(saved, 7)] == [f"line {i}" for i in order[:7]]
    first = confident_mistakes(saved, 1)[0]
    assert first.verdict == "wrong" and first.text == f"prompt {first.name.removeprefix('line ')}"


def naive_ece(probs: torch.Tensor, labels: torch.Tensor) -> float:
    total, bins = 0.0, {}
    for row, label in zip(probs.tolist(), labels.tolist(), strict=True):
        confidence = max(row)
        bins.setdefault(min(int(confidence * 15), 14), []).append((row.index(confidence) == label) - confidence)
    for gaps in bins.values():
        total += abs(sum(gaps))
    return total / len(labels)


def test_the_change_with_the_draws_is_that_of_a_loop() -> None:
    predictions = answers(spread=2.0)
    before, after, error = ece_difference(predictions, 5)
    half = predictions.draws[:5].mean(0)
    assert before == pytest.approx(naive_ece(half, predictions.labels), abs=1e-6)
    assert after == pytest.approx(naive_ece(predictions.probs, predictions.labels), abs=1e-6)
    generator = torch.Generator().manual_seed(5)
    moved = []
    for _ in range(300):
        items = torch.randint(300, (300,), generator=generator)
        labels = predictions.labels[items]
        moved.append(naive_ece(predictions.probs[items], labels) - naive_ece(half[items], labels))
    # two bootstraps of 200 and 300 resamples: each standard deviation is known to 5 and 4 %; four of both
    assert error == pytest.approx(float(torch.tensor(moved).std()), rel=0.26)
    nll_before, nll_after, nll_error = nll_difference(predictions, 5)
    rows = [
        -math.log(predictions.probs[i, k]) + math.log(half[i, k]) for i, k in enumerate(predictions.labels.tolist())
    ]
    assert nll_after - nll_before == pytest.approx(sum(rows) / 300, abs=1e-6)
    assert nll_error == pytest.approx(float(torch.tensor(rows).std()) / math.sqrt(300), rel=1e-4)


CASES: dict[str, tuple[dict[str, Any], str]] = {
    "few draws": ({"predictions": answers(spread=3.0)}, "N too small: NLL changes by"),
    "few items": ({"predictions": answers(n=50)}, "Only 50 test items"),
    "calibrated": ({}, "cannot be told from perfect calibration"),
    "one class": (
        {"predictions": bp.Predictions(*(lambda p: (p, p[None]))(torch.tensor([[0.9, 0.05, 0.05]]).repeat(300, 1)),
                                       torch.tensor([0, 0, 1] * 100))},
        "No better than one class: always answering “negative” would be right on 66.7 %",
    ),
    "skipped": (
        {"history": [dataclasses.replace(step, skipped=step.step in (3, 9), nll=math.nan if step.step == 3 else 1.0)
                     for step in steps()]},
        "2 of 60 steps were skipped (step 3, 9)",
    ),
    "stopped": ({"history": steps(30)}, "Training ended after 30 of 60 steps"),
    "falling": ({"history": steps(fall=2.0)}, "The training NLL was still falling"),
    "not trained": ({"history": steps(scale=(0.002, 0.0021))}, "The posterior's spread is about where it began"),
    "collapsed": ({"history": steps(scale=(0.002, 0.2))}, "The KL outweighs the data: a smaller train.kl_width"),
    "wide start": ({"history": steps(scale=(0.15, 0.15))}, "where it began: 75 % of the prior's standard deviation"),
    "wide stays": ({"history": steps(scale=(0.15, 0.15))}, "does not narrow it: for less, a smaller eps"),
    "beyond": ({"history": steps(scale=(0.4, 0.4))}, "It began so (200 %): a smaller eps"),
    "learned prior": (
        {"model": {"prior_scale_spread": 0.5}, "history": steps(scale=(0.002, 0.1)), "width": 0.99},
        "The learned prior scale has come down to it",
    ),
    "best before the KL": (
        {"train": {"num_steps": 60, "eval_steps": 5}, "width": 0.0182}, "may be from before the KL acts"
    ),
    "shared": ({"notes": ("test: 5 of 300 items share their 'user' with items of training",)}, "share their 'user'"),
    "recipe": ({"train": {"num_steps": 60, "recipe": "elbo"}}, "Trained by the recipe elbo"),
    "tempered": ({"train": {"num_steps": 60, "kl_weight": 0.1}}, "The KL counts 0.1 times"),
    "no KL": ({"train": {"num_steps": 60, "kl_weight": 0.0}}, "The KL has no weight"),
    "smoothed": ({"model": {"label_smoothing": 0.1}}, "Label smoothing of 0.1"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_warning_comes_where_it_should(tmp_path: Path, name: str) -> None:
    given, words = CASES[name]
    assert words in warned(write_run(tmp_path / "run", **given))


@pytest.mark.parametrize(("share", "underfitted"), [(0.95, True), (0.85, False), (None, False)])
def test_a_training_near_the_label_frequencies_is_underfitted(tmp_path: Path, share: float, underfitted: bool) -> None:
    """What it costs over the last fifth of the steps is a share of what the frequencies alone would."""
    path, last = write_run(tmp_path / "run", history=steps()), steps()[-12:]
    entropy = share and sum(step.nll for step in last) / 12 / share
    about = json.loads((path / "about.json").read_text()) | {"label_entropy": entropy}
    (path / "about.json").write_text(json.dumps(about))
    found = [one for one in cautions_of(read_run(path), OF_THE_POSTERIOR) if one.text.startswith("Underfitted")]
    assert len(found) == underfitted and all(one.serious and f"cost {entropy:.3f}" in one.text for one in found)


@pytest.mark.parametrize("name", ["not trained", "collapsed", "wide start", "beyond", "learned prior"])
def test_one_warning_of_the_spread_and_no_other_that_contradicts_it(tmp_path: Path, name: str) -> None:
    found = cautions_of(read_run(write_run(tmp_path / "run", **CASES[name][0])))
    assert sum(one.text.startswith(("The posterior's spread", "The posterior is as wide")) for one in found) == 1


def test_a_spread_that_moved_in_the_last_step_alone_was_trained(tmp_path: Path) -> None:
    """A line of the history has the spread before its step."""
    good, notes = answers(n=2000, spread=0.01, sharp=1.6), ("train: 9 items (negative 4, positive 5)",)
    assert warned(write_run(tmp_path / "run", good, steps(scale=(0.01, 0.01)), width=0.3, notes=notes)) == ""


@pytest.mark.parametrize(
    "guide", [{"name": "blob", "eps": 0.5}, {"name": "low_rank", "rank": 2}, {"name": "ensemble", "num_members": 2}]
)
def test_settings_of_the_guide_are_among_the_changed(tmp_path: Path, guide: dict[str, Any]) -> None:
    path = write_run(
        tmp_path / "run", guide={"name": guide["name"], "settings": {k: v for k, v in guide.items() if k != "name"}}
    )
    name, value = list(guide.items())[-1]
    assert (f"guide.{name}", f"{value} (default of the guide)") in changed_settings(read_run(path).config)
    assert f"guide.{name}" in text_of(write_report([path], tmp_path / "report.html"))


def test_no_warning_comes_where_there_is_nothing(tmp_path: Path) -> None:
    """Sharpened answers of many items, that agree, after a training whose NLL stays: no rule has anything to say."""
    path = write_run(
        tmp_path / "run", answers(n=2000, spread=0.01, sharp=1.6), notes=("train: 9 items (negative 4, positive 5)",)
    )
    assert warned(path) == ""


@pytest.mark.parametrize(("more", "words"), [(0.3, "serious"), (0.02, "told"), (0.005, ""), (-0.3, "")])
def test_draws_that_answer_worse_than_the_mean_are_noticed(tmp_path: Path, more: float, words: str) -> None:
    path = write_run(tmp_path / "run", answers(n=300))
    found = json.loads((path / "metrics.json").read_text())
    found["N=0"]["nll"] = found["N=10"]["nll"] - more
    (path / "metrics.json").write_text(json.dumps(found))
    cautions = [one for one in cautions_of(read_run(path)) if one.text.startswith("Averaging does not help here")]
    assert ["serious" if one.serious else "told" for one in cautions] == ([words] if words else [])
    assert all(f"{found['N=10']['nll']:.3f} ± {found['N=10']['nll_se']:.3f} with N=10" in one.text for one in cautions)


@pytest.mark.parametrize(("guide", "advised"), [("blob", True), ("low_rank", True), ("laplace", False), ("tfb", False)])
def test_a_kl_rate_is_advised_where_there_is_one(tmp_path: Path, guide: str, advised: bool) -> None:
    path = write_run(tmp_path / "run", guide={"name": guide})
    found = json.loads((path / "metrics.json").read_text())
    found["N=0"]["nll"] -= 0.3
    (path / "metrics.json").write_text(json.dumps(found))
    (caution,) = [one.text for one in cautions_of(read_run(path)) if one.text.startswith("Averaging does not help")]
    assert ("train.kl_width" in caution) is advised


@pytest.mark.parametrize(
    ("train", "words"),
    [
        ({}, "KL width by rule, schedule late, weight 1"),
        ({"kl_width": 0.4, "kl_schedule": "uniform"}, "KL width 0.4, schedule uniform, weight 1"),
        ({"kl_lr": 0.03}, "KL lr 0.03, schedule reweighted, weight 1"),
        ({"kl_step": "explicit"}, "KL lr 0.01, schedule reweighted, weight 1"),
        ({"recipe": "elbo", "kl_weight": 0.1}, "KL in the loss, schedule constant, weight 0.1"),
    ],
)
def test_the_facts_say_how_the_kl_acts(tmp_path: Path, train: dict[str, Any], words: str) -> None:
    assert words in dict(facts_of(read_run(write_run(tmp_path / "run", train=train))))["training"]


def test_scores_of_other_predictions_are_noticed(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    found = json.loads((path / "metrics.json").read_text())
    found["N=10"]["nll"] += 0.1
    (path / "metrics.json").write_text(json.dumps(found))
    assert "metrics.json and predictions.parquet do not belong together" in warned(path)


def quiet_report(paths: list[Path], folder: Path) -> str:
    return text_of(write_report(paths, folder / "report.html"))


@pytest.mark.parametrize("guide", ["blob", "mle", "ensemble", "laplace", "dropout"])
def test_a_real_run_of_every_kind_of_posterior(tmp_path: Path, guide: str) -> None:
    path = run(make_config(tmp_path, guide={"name": guide})).path
    told = quiet_report([path], tmp_path)
    assert "12 train" in told and "Only 6 test items" in told and "What a" in told
    assert ("Mean posterior standard deviation." in told) == (guide == "blob")
    assert ("Spread by layer" in told) == (guide != "mle")


def test_an_encoder_and_texts(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    encoder = run(make_config(tmp_path / "a", network=tiny.bert(), model=BERT)).path
    assert "sequence_classification" in quiet_report([encoder], tmp_path)
    texts = run(make_config(
        tmp_path / "b", model={"likelihood": "causal_lm"},
        data={"labels": None, "truncate_field": None, "completion": " {label}"},
    )).path  # fmt: skip
    told = quiet_report([texts], tmp_path)
    assert "Most surprising texts" in told and "perplexity" in told and "NLL / token" in told
    both = quiet_report([encoder, texts], tmp_path)
    assert "scores are of different kinds" in both


def test_annotators_are_told(tmp_path: Path) -> None:
    shares = torch.tensor([[0.5, 0.25, 0.25]]).repeat(300, 1)
    predictions = dataclasses.replace(answers(), labels=None, shares=shares)
    told = quiet_report([write_run(tmp_path / "run", predictions)], tmp_path)
    assert "Against the annotators" in told and "annotators negative 0.50, neutral 0.25" in told


def test_a_run_that_was_killed_or_is_old_is_told_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    for name in ("about.json", "metrics.json", "predictions.parquet", "posterior.json"):
        (path / name).unlink()
    (path / "checkpoints").mkdir()
    said: list[str] = []
    told = text_of(write_report([path], tmp_path / "report.html", say=said.append))
    assert "The run has not ended" in told and len(said) == 4 and "no predictions" in told


def test_the_same_runs_give_the_same_file(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    first = write_report([path], tmp_path / "a.html").read_bytes()
    assert write_report([path], tmp_path / "b.html").read_bytes() == first
    assert write_report([path], tmp_path / "a.html").read_bytes() == first, "a former report is replaced"


def test_what_cannot_be_reported_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_run(tmp_path / "run")
    mine = tmp_path / "mine.html"
    mine.write_text("my own page")
    with pytest.raises(DataError, match="expected a new file, or a former report to replace"):
        write_report([path], mine)
    assert mine.read_text() == "my own page"
    with pytest.raises(ConfigError, match="expected each run once"):
        write_report([path, path / ".." / "run"], tmp_path / "r.html")
    with pytest.raises(RunDirectoryError, match="expected a run directory; it is not there"):
        write_report([tmp_path / "nowhere"], tmp_path / "r.html")
    with pytest.raises(DataError, match="expected a file in a folder that exists"):
        write_report([path], tmp_path / "no" / "r.html")
    for words, code in ((["report"], 2), (["report", str(path), "--outputs", "x"], 2), (["report", str(tmp_path)], 2)):
        assert main(words) == code
        error = capsys.readouterr().err
        assert error.startswith("blob-pyro: error: ") and error.count("\n") == 1
    assert main(["report", str(path), "--out", str(tmp_path / "r.html"), "--num_items", "0"]) == 0
    assert capsys.readouterr().out == f"wrote {tmp_path / 'r.html'}\n"


ALTERED = {
    "about.json": "[1]", "cost.json": '{"train_seconds": "<b>"}', "metrics.json": '{"N=10": {"nll": "x"}}',
    "history.jsonl": "{}\n", "predictions.parquet": "no parquet", "posterior.json": '{"mean_scales": {"a": "b"}}',
    "config.yaml": "seed: [1]",
}  # fmt: skip


@pytest.mark.parametrize("name", ALTERED)
def test_an_altered_part_is_one_line(tmp_path: Path, name: str) -> None:
    path = write_run(tmp_path / "run")
    (path / name).write_text(ALTERED[name])
    with pytest.raises(RunDirectoryError) as caught:
        write_report([path], tmp_path / "r.html")
    assert "\n" not in str(caught.value) and "expected" in str(caught.value)
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize("name", ALTERED)
def test_a_link_out_of_the_run_is_not_followed(tmp_path: Path, name: str) -> None:
    path, outside = write_run(tmp_path / "run"), tmp_path / "secret"
    os.replace(path / name, outside)
    (path / name).symlink_to(outside)
    with pytest.raises(RunDirectoryError, match="is a link out of it"):
        write_report([path], tmp_path / "r.html")


def test_the_history_of_a_killed_run_ends_at_its_last_whole_line(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run")
    write_history(path, steps(60))
    with (path / "history.jsonl").open("a") as file:
        file.write('{"nll": 0.')
    assert [step.step for step in read_run(path).steps] == list(range(1, 61))


def test_the_names_of_classes_are_in_the_report(tmp_path: Path) -> None:
    told = quiet_report([write_run(tmp_path / "run")], tmp_path)
    assert all(name in told for name in NAMES)
