"""The paper's Table 2: trained on one task, tested on that and on others."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blob_pyro.config.sections import RunConfig
from blob_pyro.data.examples import Example
from blob_pyro.data.tasks.load import TaskItems, find_task, load_items
from blob_pyro.errors import BlobPyroError, ConfigError
from blob_pyro.evaluation import Metrics, auroc_out_of_distribution, evaluate, risk_coverage
from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.experiments.compare.runs import run_path
from blob_pyro.experiments.paper.order import Order, Reproduction
from blob_pyro.experiments.paper.settings import decoder_config
from blob_pyro.experiments.paper.systems import check_order, draws_of_rows, methods_of, run_systems, tasks_of
from blob_pyro.experiments.paper.writing import Section, told, write_table
from blob_pyro.report.comparison import Outcome, Rows
from blob_pyro.runs.answerer import load_run, num_draws, predict_items
from blob_pyro.runs.build import encode_items, load_data
from blob_pyro.storage.answers import read_predictions
from blob_pyro.storage.directory import PREDICTIONS, read_config, read_json, write_json
from blob_pyro.storage.saving import Run
from blob_pyro.system.hub_errors import one_line
from blob_pyro.system.terminal import Console

TASKS = ("openbookqa", "arc_challenge", "arc_easy", "mmlu/college_chemistry", "mmlu/college_physics")
ENTROPY, INFORMATION, AREA = "AUROC entropy", "AUROC MI", "AURC"
LONGEST = 4096  # tokens of a prompt of another task, or the model's own context
SHIFT = "shift.json"  # in a run directory: the answers' checksum, and task -> row -> scores beside them
HEADING = "Table 2: trained on {}, tested on other tasks"
NOTE = (
    f"{ENTROPY} and {INFORMATION}: how well predictive entropy, or mutual information of label and weights, tells the "
    "items of a task from the test items of the task that was trained on (0.5 is chance; a single draw has no mutual "
    f"information). {AREA}: area under the risk-coverage curve, the lower the better. Items that offer more answers "
    "than the task that was trained on are left out."
)

Scores = dict[str, dict[str, Any]]
Draws = Mapping[str, int | None]


def table2(order: Order) -> Reproduction:
    """Every system trained on one task, its scores there and on other tasks, and how well it detects the shift.

    Of `order.tasks` the first is trained on, and the others are only tested on. The scores of each run are kept in
    its directory.

    Raises:
        ConfigError: a task, seed or setting cannot work.
        ModelLoadError: the model was not found.
        RunDirectoryError: the directory holds runs of another configuration.
        BlobPyroError: no run ended.
    """
    inside, *outside = tasks_of(order, TASKS, TASKS) or ("",)
    if not outside:
        raise ConfigError("tasks: expected one to train on and at least one other to test on; got fewer")
    config = decoder_config(order, inside)
    check_order(order, {inside: config})
    for task in outside:
        find_task(task)
    for method in methods_of(order):
        if method.configure(config).predict.temperature:
            raise ConfigError(f"methods: expected some without a temperature; got {method.name!r}; use table1 for it")
    trained = run_systems(order, config)
    tested = {inside: trained} | {task: _items(order, config, task) for task in outside}
    items = {task: found.examples for task, found in tested.items() if isinstance(found, TaskItems)}
    sections = {task: found if isinstance(found, Section) else Section(task, {}) for task, found in tested.items()}
    if trained.has_outcomes:
        scored = _score_all(order, config, trained, items)
        sections |= {section.title: section for section in scored}
    note = f"{told(order, config)} {NOTE}"
    return write_table(order, "table2", HEADING.format(inside), note, list(sections.values()))


def _items(order: Order, config: RunConfig, task: str) -> TaskItems | Section:
    """Test items of another task under the answer words of the one trained on; a failed section where it has none."""
    labels = find_task(str(config.data.task)).labels
    try:
        found = load_items(task, None, config.data, labels=labels)
        if config.data.num_test is not None and config.data.num_test < len(found.examples):
            found = load_items(task, None, config.data, labels=labels, num_items=config.data.num_test)
    except (BlobPyroError, OSError) as error:
        order.console.log(f"{task}: {one_line(error)}")
        return Section(task, {}, (one_line(error),))
    for note in found.notes:
        order.console.log(note)
    return found


def _score_all(order: Order, config: RunConfig, trained: Section, items: Mapping[str, list[Example]]) -> list[Section]:
    """A section for the task trained on, and one for each of the others."""
    tasks = (trained.title, *items)
    rows: dict[str, Rows] = {task: {row: {} for row in trained.rows} for task in tasks}
    failures: dict[str, list[str]] = {task: [] for task in tasks}
    failures[trained.title] += trained.failures
    for seed in order.seeds:
        for method in methods_of(order):
            name, draws = method.name, draws_of_rows(method, config)
            ended = all(trained.rows[row].get(seed) for row in draws)
            found = Scored({}, {})
            try:
                found = _scores(order, run_path(config, name, seed), draws, items) if ended else found
            except (BlobPyroError, OSError) as error:
                found = Scored({}, dict.fromkeys(tasks, one_line(error)))
            for task, failure in found.failures.items():
                order.console.log(f"{name}, seed {seed}: {failure}")
                failures[task].append(f"{name}, seed {seed}: {failure}")
            for task in tasks:
                for row in draws:
                    base, score = trained.rows[row].get(seed), found.scores.get(task, {}).get(row)
                    rows[task][row][seed] = _outcome(base, score, inside=task == trained.title)
    notes = {trained.title: trained.note}
    return [Section(task, rows[task], tuple(failures[task]), notes.get(task, "")) for task in tasks]


def _outcome(base: Outcome | None, found: Mapping[str, Any] | None, *, inside: bool) -> Outcome | None:
    """An outcome with its scores. What training cost stands where the task is the one that was trained on."""
    if base is None or found is None:
        return base if inside else None
    if inside:
        return dataclasses.replace(base, further=found["further"])
    return Outcome(Metrics.from_dict(found["metrics"]), num_samples=base.num_samples, further=found["further"])


@dataclass(frozen=True)
class Scored:
    """What one run scores.

    Attributes:
        scores: task -> row -> scores.
        failures: task -> why it has none.
    """

    scores: Scores
    failures: dict[str, str]


def _scores(order: Order, path: Path, draws: Draws, items: Mapping[str, list[Example]]) -> Scored:
    """The scores of one run; those that an earlier call has found for its present answers are read."""
    config = read_config(path)
    inside_task = str(config.data.task)
    answers = hashlib.sha256((path / PREDICTIONS).read_bytes()).hexdigest()
    stored = read_json(path / SHIFT)
    scores: Scores = stored["scores"] if stored.get("answers") == answers else {}
    missing = [task for task in items if task not in scores]
    if not missing and inside_task in scores:
        return Scored(scores, {})
    order.console.log(f"{path.parent.name}, {path.name}: {', '.join(missing) or inside_task}")
    labels = find_task(inside_task).labels
    run = load_run(path, labels)
    inside = _inside(run, config, draws, order.console)
    scores[inside_task] = {row: _scored(found) for row, found in inside.items()}
    # prompts of other tasks may be longer than those that were trained on
    wide = dataclasses.replace(config, data=dataclasses.replace(config.data, max_length=LONGEST))
    failures: dict[str, str] = {}
    for task in missing:
        try:
            found = _answers(run, items[task], wide, draws, task, order.console)
        except (BlobPyroError, OSError) as error:
            failures[task] = one_line(error)
            continue
        scores[task] = {row: _scored(found[row], inside[row]) for row in draws}
        write_json(path / SHIFT, {"answers": answers, "scores": scores})
    write_json(path / SHIFT, {"answers": answers, "scores": scores})
    return Scored(scores, failures)


def _scored(predictions: Predictions, inside: Predictions | None = None) -> dict[str, Any]:
    """Metrics and further scores; the AUROCs against the items of `inside`."""
    further: dict[str, float] = {}
    if inside is not None:
        shift = auroc_out_of_distribution(inside, predictions)
        further[ENTROPY] = shift.entropy
        if predictions.draws.shape[0] > 1:
            further[INFORMATION] = shift.mutual_information
    further[AREA] = risk_coverage(predictions).area
    return {"metrics": evaluate(predictions).to_dict(), "further": further}


def _inside(run: Run, config: RunConfig, draws: Draws, console: Console) -> dict[str, Predictions]:
    """Row -> predictions of the run's own test items; only the posterior mean's were not kept."""
    stored = read_predictions(run.path / PREDICTIONS)
    found = {row: stored if count is None else stored.first_draws(count) for row, count in draws.items() if count != 0}
    means = {row: count for row, count in draws.items() if count == 0}
    if means:
        examples = load_data(config).test
        found |= _answers(run, examples, config, means, str(config.data.task), console)
    return found


def _answers(
    run: Run, examples: list[Example], config: RunConfig, draws: Draws, source: str, console: Console
) -> dict[str, Predictions]:
    """Row -> predictions under the run's seed; a row of few draws has the first of many."""
    items = encode_items(examples, run.model, config.data, source)
    many = num_draws(run.guide, config)
    counts = {many if count is None or count else 0 for count in draws.values()}
    answers = {count: predict_items(run, items, config, count, console) for count in sorted(counts)}
    return {
        row: answers[many].first_draws(count) if count else answers[many if count is None else 0]
        for row, count in draws.items()
    }
