"""The search: one setting after the other, and a change is taken only where held-out items show that it helps."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from blob_pyro.config.sections import RunConfig
from blob_pyro.runs.tuning.choices import Settings, Step, choices, settings_of, with_settings
from blob_pyro.runs.tuning.trials import Measure, Measured
from blob_pyro.system.printing import tell_line

Say = Callable[[str], None]


@dataclass(frozen=True)
class Trial:
    """One configuration that was tried.

    Attributes:
        settings: the searched settings by key.
        changed: the key in which it differs from the best trial before it; None of the configuration's own.
        measured: how it did.
        difference: its mean held-out NLL less that of the best trial before it, nats per item; NaN where one of the
            two failed, or of the configuration's own.
        difference_se: standard error of `difference` over the items, of which each is paired with itself.
        taken: whether it was better by the margin, and the search went on from it.
    """

    settings: Settings
    changed: str | None
    measured: Measured
    difference: float = math.nan
    difference_se: float = math.nan
    taken: bool = True

    @property
    def nll(self) -> float:
        """Mean held-out NLL, nats per item; infinite where training failed."""
        return math.inf if self.measured.nlls is None else statistics.fmean(self.measured.nlls)

    @property
    def nll_se(self) -> float:
        """Its standard error over the items; NaN for one item."""
        return math.nan if self.measured.nlls is None else _standard_error(self.measured.nlls)

    def to_dict(self) -> dict[str, Any]:
        """JSON types; null for what there is not."""
        numbers = {name: getattr(self, name) for name in ("nll", "nll_se", "difference", "difference_se")}
        found = {name: value if math.isfinite(value) else None for name, value in numbers.items()}
        settings = {"changed": self.changed, "settings": self.settings}
        return settings | found | {"taken": self.taken, "seconds": self.measured.seconds}


@dataclass(frozen=True)
class Tuning:
    """What the search found.

    Attributes:
        config: the configuration with the chosen settings.
        trials: in the order in which they were tried; the first has the configuration's own settings.
        margin: how many standard errors an improvement had to have.
    """

    config: RunConfig
    trials: tuple[Trial, ...]
    margin: float

    @property
    def chosen(self) -> Trial:
        """The last trial that was taken."""
        return [trial for trial in self.trials if trial.taken][-1]

    @property
    def seconds(self) -> float:
        """What the search cost: training and prediction of every trial, those of an interrupted search too."""
        return sum(trial.measured.seconds for trial in self.trials)

    @property
    def changes(self) -> Settings:
        """The chosen settings that are not the configuration's own; none where its own were not beaten."""
        asked = self.trials[0].settings
        return {key: value for key, value in self.chosen.settings.items() if value != asked[key]}

    def to_dict(self) -> dict[str, Any]:
        """JSON types: what was asked, what was chosen, every trial."""
        return {
            "asked": self.trials[0].settings,
            "chosen": self.chosen.settings,
            "margin": self.margin,
            "num_items": len(self.chosen.measured.nlls or ()),
            "trials": [trial.to_dict() for trial in self.trials],
        }

    def text(self) -> str:
        """One line: what was chosen, as options of the command line."""
        start = f"tuned in {len(self.trials)} trials"
        if not self.changes:
            return f"{start}: the configuration's own settings stay"
        options = " ".join(f"--{key} {_shown(value)}" for key, value in self.changes.items())
        return f"{start}: {options}"


def search(config: RunConfig, measure: Measure, *, num_data: int, say: Say = tell_line) -> Tuning:
    """Find better settings than the configuration's own, with at most `config.tune.num_trials` trials.

    The settings are searched one after the other, each from the best trial so far. Of a setting, the next value in
    a direction is tried; while that is taken, the one after it; where the first is not taken, the next direction.
    A trial is taken where its held-out NLL is lower than the best trial's by more than `config.tune.margin`
    standard errors of the difference, items paired.

    Args:
        config: where to start; `config.tune` bounds the search.
        measure: how a configuration does on the held-out items. It must give all of them the same items.
        num_data: training items, of which the rule makes the width of a trial that names none.
        say: receives a line for each trial, and one for what was chosen.
    """
    tried = _Trials(config, measure, say)
    for choice in choices(config, tried.best.measured.num_blocks, num_data):
        for step in choice.directions:
            if tried.follow(choice.key, step):
                break
    found = Tuning(with_settings(config, tried.best.settings), tuple(tried.trials), config.tune.margin)
    say(found.text())
    return found


def paired_difference(nlls: Sequence[float], others: Sequence[float]) -> tuple[float, float]:
    """Mean of `nlls` less `others`, item by item, and its standard error (NaN for one item).

    Example:
        >>> paired_difference([1.0, 2.0], [1.5, 3.5])
        (-1.0, 0.5)
    """
    differences = [one - other for one, other in zip(nlls, others, strict=True)]
    return statistics.fmean(differences), _standard_error(differences)


class _Trials:
    """The trials so far; made with the first one, the configuration's own settings."""

    def __init__(self, config: RunConfig, measure: Measure, say: Say) -> None:
        self.config, self.measure, self.say = config, measure, say
        self.best = Trial(settings_of(config), None, measure(config))
        self.trials: list[Trial] = []
        self._add(self.best)

    def follow(self, key: str, step: Step) -> bool:
        """Try one value after the other while it helps, and while there are trials left; whether any helped."""
        start = self.best
        while len(self.trials) < self.config.tune.num_trials:
            value = step(self.best.settings)
            if value in (None, self.best.settings[key]) or not self._try(key, value):
                break
        return self.best is not start

    def _try(self, key: str, value: Any) -> bool:
        settings = self.best.settings | {key: value}
        measured = self.measure(with_settings(self.config, settings))
        trial = _judge(settings, key, measured, self.best, self.config.tune.margin)
        self._add(trial)
        if trial.taken:
            self.best = trial
        return trial.taken

    def _add(self, trial: Trial) -> None:
        self.trials.append(trial)
        self.say(_line(trial, len(self.trials), self.config.tune.num_trials))


def _judge(settings: Settings, key: str, measured: Measured, best: Trial, margin: float) -> Trial:
    """The trial, and whether it beats the best one so far."""
    nlls, others = measured.nlls, best.measured.nlls
    if nlls is None or others is None:
        return Trial(settings, key, measured, taken=nlls is not None)
    difference, error = paired_difference(nlls, others)
    return Trial(settings, key, measured, difference, error, taken=difference < -margin * error)


def _standard_error(values: Sequence[float]) -> float:
    return statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def _shown(value: Any) -> str:
    """A value as the command line takes it.

    Example:
        >>> _shown([-2, -1]), _shown(0.03)
        ('[-2,-1]', '0.03')
    """
    return str(value).replace(" ", "")


def _line(trial: Trial, position: int, num_trials: int) -> str:
    """What is said of a trial."""
    start = f"tune {position}/{num_trials}: "
    start += "as configured" if trial.changed is None else f"{trial.changed} {_shown(trial.settings[trial.changed])}"
    if trial.measured.nlls is None:
        return f"{start}: training failed, the loss was not finite"
    start += f": held-out NLL {trial.nll:.4f} ± {trial.nll_se:.4f}"
    if trial.changed is None:
        return start
    return (
        f"{start}, {trial.difference:+.4f} ± {trial.difference_se:.4f} against the best so far, "
        f"{'taken' if trial.taken else 'not taken'}"
    )
