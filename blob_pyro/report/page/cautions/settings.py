"""Do the settings change what the numbers mean?"""

from __future__ import annotations

from collections.abc import Iterator

from blob_pyro.report.page.cautions.caution import Caution
from blob_pyro.storage.run_files import RunFiles

WITH_KL = ("blob", "low_rank", "mean_field", "scalabl")


def not_the_paper(run: RunFiles) -> Iterator[Caution]:
    """A recipe, or a weight of the KL, with which the posterior is not that of the paper."""
    train = run.config.train
    if run.config.guide.name not in WITH_KL:
        return
    if train.recipe != "blob":
        yield Caution(f"Trained by the recipe {train.recipe}, not by that of the paper's code (blob).")
    if train.kl_weight == 0 or (train.kl_lr == 0 and train.recipe != "elbo"):
        yield Caution("The KL has no weight: nothing pulls the posterior towards the prior.", serious=True)
    elif train.kl_weight != 1:
        yield Caution(f"The KL counts {train.kl_weight:g} times: this is a tempered posterior.")
    if train.kl_schedule in ("constant", "warmup") and train.recipe != "elbo":
        yield Caution(
            f"KL schedule {train.kl_schedule}: the whole KL counts at every step, not once in a cycle of steps."
        )


def shifted_probabilities(run: RunFiles) -> Iterator[Caution]:
    """Settings by which the answers are not meant to be the data's frequencies."""
    model = run.config.model
    if model.class_weights is not None:
        yield Caution("Class weights shift the probabilities away from the data's frequencies: ECE and NLL show it.")
    if model.label_smoothing:
        yield Caution(f"Label smoothing of {model.label_smoothing:g} makes the answers less sure than the data.")


def held_out(run: RunFiles) -> Iterator[Caution]:
    """Held-out items had a say, which other systems may not have had."""
    config, count = run.config, run.config.data.num_validation
    ways = {
        "a temperature": config.predict.temperature,
        "the settings (tune)": config.tune.search,
        "the steps (eval_steps)": config.train.eval_steps is not None,
        "the prior precision": config.guide.settings.get("prior_precision") == "held_out",
        "the noise": config.guide.settings.get("anchor") == "held_out",
    }
    chosen = [name for name, used in ways.items() if used]
    if chosen:
        yield Caution(
            f"{count:,} held-out items chose {', '.join(chosen)}: a system without them has seen fewer labels."
        )
