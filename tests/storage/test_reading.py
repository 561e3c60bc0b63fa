"""metrics.json has one reader: what one command refuses, all refuse, in one line that names the file."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_runs import make_config
from tiny_runs import run as run_of

import blob_pyro as bp
from blob_pyro.errors import BlobPyroError, ConfigError, RunDirectoryError
from blob_pyro.experiments.compare import compare
from blob_pyro.report.comparison import Outcome, comparison_markdown
from blob_pyro.report.page import read_run, write_report
from blob_pyro.report.page.naming import systems_of
from blob_pyro.report.page.tables import system_rows
from blob_pyro.report.plots import methods_plot
from blob_pyro.runs.fit import fit_run
from blob_pyro.storage.directory import read_config
from blob_pyro.storage.reading import read_cost, read_metrics, read_scales


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> bp.RunConfig:
    """The configuration of a comparison that has been made: plain LoRA, one seed."""
    folder = tmp_path_factory.mktemp("compared")
    config: bp.RunConfig = make_config(folder, output=str(folder / "all"))
    compare(config, ["mle"], (0,), progress=False, say=lambda line: None)
    return config


@pytest.fixture
def run(compared: bp.RunConfig) -> Any:
    """Its run, whose files are put back."""
    path = Path(compared.output) / "mle" / "seed0"
    before = {name: (path / name).read_text() for name in ("metrics.json", "cost.json")}
    yield path
    for name, text in before.items():
        (path / name).write_text(text)


COMMANDS: dict[str, Callable[[bp.RunConfig, Path, Path], object]] = {
    "fit": lambda config, run, out: fit_run(read_config(run), resume=True, progress=False, say=lambda line: None),
    "compare": lambda config, run, out: compare(config, ["mle"], (0,), progress=False, say=lambda line: None),
    "report": lambda config, run, out: write_report([run], out / "report.html"),
    "export": lambda config, run, out: bp.export(run, output=out / "exported"),
    "picture": lambda config, run, out: methods_plot({"a run": run}),
}


def changed(**scores: Any) -> Callable[[dict[str, Any]], Any]:
    """The file with these scores of N=0."""
    return lambda found: found | {"N=0": found["N=0"] | scores}


ALTERED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "true": (changed(nll=True), "nll is no number"),
    "true as an error": (changed(nll_se=True), "nll_se is no number"),
    "text": (changed(accuracy="0.5"), "accuracy is no number"),
    "null": (changed(ece=None), "ece is no number"),
    "too large": (changed(nll=10**400), "too large"),
    "missing": (lambda found: {"N=0": {k: v for k, v in found["N=0"].items() if k != "brier"}}, "'brier'"),
    "extra": (changed(f1=0.5), "'f1'"),
    "of tokens": (lambda found: {"N=0": dict.fromkeys(token_scores(), 1)}, "'perplexity'"),
    "no draws": (lambda found: {"mean": found["N=0"]}, "expected N=<draws>; got 'mean'"),
    "a list": (lambda found: {"N=0": [1]}, "no attribute"),
    "nothing": (lambda found: {}, "it has none"),
}


def token_scores() -> list[str]:
    return [field.name for field in dataclasses.fields(bp.TokenMetrics)]


CASES = [(kind, command) for kind in ALTERED for command in COMMANDS]
CASES.remove(("of tokens", "picture"))  # which takes scores of either kind: it reads no configuration


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "command"), CASES)
def test_altered_scores_are_refused_by_every_command(
    kind: str, command: str, run: Path, compared: bp.RunConfig, tmp_path: Path
) -> None:
    change, why = ALTERED[kind]
    (run / "metrics.json").write_text(json.dumps(change(json.loads((run / "metrics.json").read_text()))))
    with pytest.raises(BlobPyroError) as caught:
        COMMANDS[command](compared, run, tmp_path)
    message = str(caught.value)
    assert f"{run / 'metrics.json'}: expected the scores of a run; it was altered (" in message
    assert why in message and "\n" not in message


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_a_score_may_be_nan(command: str, run: Path, compared: bp.RunConfig, tmp_path: Path) -> None:
    """As the standard errors of a single item are."""
    errors = dict.fromkeys(("accuracy_se", "nll_se", "brier_se", "ece_se"), float("nan"))
    scores = {name: found | errors for name, found in json.loads((run / "metrics.json").read_text()).items()}
    (run / "metrics.json").write_text(json.dumps(scores))
    assert "NaN" in (run / "metrics.json").read_text()
    COMMANDS[command](compared, run, tmp_path)


@pytest.mark.slow
def test_scores_of_one_item_are_strict_json_and_read_again(tmp_path: Path) -> None:
    """One test item has no standard errors; whole numbers and shares stay as they are."""

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    result = run_of(make_config(tmp_path, data={"num_test": 1}))
    found = json.loads((result.path / "metrics.json").read_text(), parse_constant=refuse)
    for name, scores in read_metrics(result.path, read_config(result.path)).items():
        assert found[name]["nll_se"] is None and found[name]["accuracy_se"] is None and math.isnan(scores.nll_se)
        assert found[name]["nll"] == scores.nll == result.metrics[name].nll and scores.num_items == 1
    assert "±" not in comparison_markdown({"a": {0: Outcome(scores)}}).splitlines()[2]
    assert b"NaN" not in write_report([result.path], tmp_path / "report.html").read_bytes()


def test_what_is_read_is_what_was_written(run: Path) -> None:
    found = read_metrics(run, read_config(run))
    assert {name: scores.to_dict() for name, scores in found.items()} == json.loads((run / "metrics.json").read_text())
    assert read_metrics(run) == found and read_cost(run) == json.loads((run / "cost.json").read_text())


def test_a_run_without_scores_has_none(tmp_path: Path) -> None:
    assert read_metrics(tmp_path) == {} and read_cost(tmp_path) == {}
    with pytest.raises(RunDirectoryError, match="expected a run with metrics.json; it has none"):
        methods_plot({"a run": tmp_path})


@pytest.mark.parametrize("command", ["compare", "report"])
@pytest.mark.parametrize("value", [True, "1", None, 10**400, float("nan"), float("inf")])
def test_altered_costs_are_refused(value: Any, command: str, run: Path, compared: bp.RunConfig, tmp_path: Path) -> None:
    cost = json.loads((run / "cost.json").read_text())
    (run / "cost.json").write_text(json.dumps(cost | {"train_seconds": value}))
    with pytest.raises(BlobPyroError) as caught:
        COMMANDS[command](compared, run, tmp_path)
    assert f"{run / 'cost.json'}: expected numbers; train_seconds has none; it was altered" in str(caught.value)


@pytest.mark.parametrize("name", ["cost.json", "train_seconds", "adapter_parameters", "guide_parameters"])
def test_a_comparison_misses_what_a_run_costs(name: str, run: Path, compared: bp.RunConfig) -> None:
    cost = json.loads((run / "cost.json").read_text())
    (run / "cost.json").unlink()
    if name != "cost.json":
        (run / "cost.json").write_text(json.dumps({key: value for key, value in cost.items() if key != name}))
    with pytest.raises(ConfigError, match="expected metrics.json and cost.json as a run writes them; one was altered"):
        compare(compared, ["mle"], (0,), progress=False, say=lambda line: None)


def test_a_row_of_a_comparison_and_of_a_report_are_one_outcome(run: Path, compared: bp.RunConfig) -> None:
    """Scores, seconds and parameters of a run, whoever reads it."""
    rows = compare(compared, ["mle"], (0,), progress=False, say=lambda line: None).rows
    (outcome,) = rows["MLE (plain LoRA)"].values()
    assert system_rows(systems_of([read_run(run)])) == {"MLE (plain LoRA)": {0: outcome}}
    assert outcome is not None and outcome.seconds and outcome.num_parameters and outcome.num_samples == 0


@pytest.mark.parametrize("value", [10**400, True, "1"])
def test_spreads_that_are_no_numbers_are_refused(value: Any, tmp_path: Path) -> None:
    (tmp_path / "posterior.json").write_text(json.dumps({"mean_scales": {"a": value}}))
    with pytest.raises(RunDirectoryError, match="expected mean_scales, a number for each site"):
        read_scales(tmp_path)
