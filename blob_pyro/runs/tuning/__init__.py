"""`--tune`: a short search for BLoB's settings on held-out items, before the run itself.

choices     the settings that are searched, and which values come next
trials      what a trial found, and the file that keeps it
search      the search: which trial is tried, which is taken
"""

from blob_pyro.evaluation.metrics import label_nlls
from blob_pyro.runs.tuning.choices import (
    Choice,
    check_tuning,
    choices,
    describe_guides,
    settings_of,
    tunes,
    with_settings,
)
from blob_pyro.runs.tuning.search import Trial, Tuning, paired_difference, search
from blob_pyro.runs.tuning.trials import (
    TRIALS,
    TUNING,
    Measure,
    Measured,
    TrialLog,
    TrialPlace,
    is_unfinished_search,
    remove_trial_checkpoints,
)

__all__ = [
    "TRIALS",
    "TUNING",
    "Choice",
    "Measure",
    "Measured",
    "Trial",
    "TrialLog",
    "TrialPlace",
    "Tuning",
    "check_tuning",
    "choices",
    "describe_guides",
    "is_unfinished_search",
    "label_nlls",
    "paired_difference",
    "remove_trial_checkpoints",
    "search",
    "settings_of",
    "tunes",
    "with_settings",
]
