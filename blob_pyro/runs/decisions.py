"""What a saved run decides on the items of a file, by held-out items: whether to answer, sets of labels, p-values."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blob_pyro.config.sections import RunConfig
from blob_pyro.data.examples import Example
from blob_pyro.data.tasks.load import examples_for
from blob_pyro.data.tasks.own_rows import read_items
from blob_pyro.errors import ConfigError
from blob_pyro.evaluation import empirical_selection, fit_conformal, guaranteed_selection, ood_p_values
from blob_pyro.evaluation.abstain import check_enough
from blob_pyro.evaluation.checks import check_share
from blob_pyro.evaluation.conformal import check_set_score
from blob_pyro.evaluation.predictions import Predictions
from blob_pyro.evaluation.scores import check_score
from blob_pyro.runs.answerer import Answerer, Fields, check_draws
from blob_pyro.runs.build import encode_items
from blob_pyro.system.terminal import Say

ALARM = 0.05
"""The p-value that the summary counts items up to."""


@dataclass(frozen=True)
class Decisions:
    """What to decide on each item, by held-out items; a field that is None asks for nothing.

    Attributes:
        target_risk: adds "answered", true for items sure enough that the share of wrong ones among them is at most
            this (`guaranteed_selection`).
        delta: how often, at most, that target may be missed.
        rule: "guaranteed", or "empirical" (`empirical_selection`, which promises nothing and has no delta).
        score: the uncertainty that decides what is answered, one of `SCORES`.
        coverage: adds "set", labels that include the true one with at least this probability, the most probable
            first (`fit_conformal`).
        set_score: "lac" or "aps".
        ood: adds "ood_p_value" by this uncertainty, one of `SCORES` (`ood_p_values`).
        held_out: a file with labels to decide by; None takes the run's own validation items.

    Raises:
        ConfigError: a share is outside (0, 1), or there is no such rule or score.
    """

    target_risk: float | None = None
    delta: float = 0.05
    rule: str = "guaranteed"
    score: str = "confidence"
    coverage: float | None = None
    set_score: str = "lac"
    ood: str | None = None
    held_out: str | None = None

    def __post_init__(self) -> None:
        shares = {"target_risk": self.target_risk, "delta": self.delta, "coverage": self.coverage}
        for name, value in shares.items():
            if value is not None:
                check_share(name, value)
        if self.rule not in ("guaranteed", "empirical"):
            raise ConfigError(f"rule: expected guaranteed or empirical; got {self.rule!r}")
        check_set_score(self.set_score)
        for score in (self.score, self.ood):
            if score is not None:
                check_score(score)

    @property
    def need_labels(self) -> bool:
        return self.target_risk is not None or self.coverage is not None

    @property
    def need_held_out(self) -> bool:
        return self.need_labels or self.ood is not None


def prepare(decisions: Decisions, config: RunConfig, run_dir: str | Path) -> list[Example] | None:
    """Refuse what cannot be decided, before anything is predicted.

    Returns:
        The examples of `decisions.held_out`; None where the run's own validation items are meant.

    Raises:
        ConfigError: there are no held-out items, or a score needs draws that the run does not make.
        DataError: there are too few for the target risk, or their file cannot be read or lacks a field or label.
    """
    if not decisions.need_held_out:
        return None
    if decisions.target_risk is not None:
        check_draws(decisions.score, config)
    if decisions.ood is not None:
        check_draws(decisions.ood, config)
    if decisions.held_out is None and not config.data.num_validation:
        raise ConfigError(
            f"{run_dir}: expected held-out items to decide by; the run has none: give labelled ones that it was not "
            "trained on with --held_out FILE, or fit with data.num_validation"
        )
    examples, count = None, config.data.num_validation
    if decisions.held_out is not None:
        source = decisions.held_out
        found = read_items(config.data, source, decisions.need_labels)
        if found.left_out:
            warnings.warn(found.left_out, stacklevel=2)
        examples = examples_for(config.data, found.rows, with_labels=decisions.need_labels, source=source)
        count = len(examples)
    if decisions.target_risk is not None and decisions.rule == "guaranteed":
        check_enough(count, decisions.target_risk, decisions.delta)
    return examples


def decide(
    predictions: Predictions,
    answerer: Answerer,
    decisions: Decisions,
    examples: Sequence[Example] | None,
    labels: Sequence[str],
) -> list[Fields]:
    """The fields that `decisions` add to each answer.

    Args:
        predictions: n items.
        answerer: what predicted them; its console is told what was chosen and what came of it.
        decisions: what to decide.
        examples: what `prepare` returned.
        labels: answer words in class order.
    """
    if not decisions.need_held_out:
        return [{} for _ in range(len(predictions))]
    held_out, log = _held_out(answerer, decisions, examples), answerer.console.log
    columns: dict[str, Sequence[Any]] = {}
    if decisions.target_risk is not None:
        columns["answered"] = _answered(predictions, held_out, decisions, log)
    if decisions.coverage is not None:
        columns["set"] = _sets(predictions, held_out, decisions, labels, log)
    if decisions.ood is not None:
        columns["ood_p_value"] = _p_values(predictions, held_out, decisions.ood, log)
    return [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _held_out(answerer: Answerer, decisions: Decisions, examples: Sequence[Example] | None) -> Predictions:
    """Predictions of the items to decide by; the user is told where they have served another choice already."""
    config = answerer.config
    if examples is not None:
        return answerer(encode_items(examples, answerer.run.model, config.data, decisions.held_out))
    if used := choices_by_validation(config):
        answerer.console.log(
            f"note: the held-out items chose {' and '.join(used)} too, so that what is promised holds only roughly; "
            "--held_out FILE takes others"
        )
    return answerer.held_out()


def choices_by_validation(config: RunConfig) -> list[str]:
    """What the run's own validation items have been used for."""
    uses = {
        "the temperature": config.predict.temperature,
        "the settings (--tune)": config.tune.search,
        f"the scale of the guide {config.guide.name!r}": "held_out" in config.guide.settings.values(),
    }
    return [what for what, used in uses.items() if used]


def _answered(predictions: Predictions, held_out: Predictions, decisions: Decisions, log: Say) -> list[bool]:
    """Whether each item is answered."""
    assert decisions.target_risk is not None
    if decisions.rule == "guaranteed":
        selection = guaranteed_selection(held_out, decisions.target_risk, decisions.delta, score=decisions.score)
    else:
        selection = empirical_selection(held_out, decisions.target_risk, score=decisions.score)
    answered = selection(predictions)
    log(f"target risk: {selection}")
    log(f"target risk: {int(answered.sum())} of {len(answered)} items answered")
    return answered.tolist()


def _sets(
    predictions: Predictions, held_out: Predictions, decisions: Decisions, labels: Sequence[str], log: Say
) -> list[list[str]]:
    """The labels in each item's set, the most probable first."""
    assert decisions.coverage is not None
    conformal = fit_conformal(held_out, decisions.coverage, score=decisions.set_score)
    inside = conformal(predictions)
    sizes = inside.sum(-1)
    empty = f", {int((sizes == 0).sum())} empty" if (sizes == 0).any() else ""
    log(f"coverage: {conformal}")
    log(f"coverage: {float(sizes.double().mean()):.3g} labels in a set on average{empty}")
    ranked = predictions.probs.sort(dim=-1, descending=True, stable=True).indices.tolist()
    items = zip(ranked, inside.tolist(), strict=True)
    return [[labels[k].strip() for k in order if chosen[k]] for order, chosen in items]


def _p_values(predictions: Predictions, held_out: Predictions, score: str, log: Say) -> list[float]:
    """The p-value of each item's being of the held-out items' kind."""
    values = ood_p_values(held_out, predictions, score)
    few, expected = int((values <= ALARM).sum()), ALARM * len(values)
    told = f"{few} of {len(values)} items have a p-value of at most {ALARM} by {score}"
    log(f"ood: {told}; were all of the held-out items' kind, {expected:.3g} or fewer would on average")
    return values.tolist()
