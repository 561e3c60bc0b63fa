"""The model card of an exported folder: README.md with the hub's metadata, and the calibration plot beside it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import yaml

from blob_pyro.config.data import files_of
from blob_pyro.config.sections import DataConfig
from blob_pyro.data.tasks.load import find_task
from blob_pyro.evaluation import Metrics
from blob_pyro.guides import EnsembleGuide, LaplaceGuide, PostHocGuide
from blob_pyro.model.likelihoods import SequenceClassification
from blob_pyro.report.tables import annotators_table, metrics_table
from blob_pyro.runs.exports.kinds import Kind
from blob_pyro.runs.exports.merged import Rounding
from blob_pyro.runs.exports.subject import Subject, public_name
from blob_pyro.runs.exports.usage import own_code, plain_code, prompt_of
from blob_pyro.storage.directory import COST, RELIABILITY, read_json
from blob_pyro.system.files import write_whole
from blob_pyro.system.packaged import ORIGINS

CARD = "README.md"
GUIDE_TITLES = {
    "blob": "BLoB ([arXiv 2406.11675](https://arxiv.org/abs/2406.11675)): a Gaussian over the LoRA matrices, learnt "
    "while fine-tuning",
    "dropout": "Monte Carlo dropout on the LoRA matrices' inputs",
    "ensemble": "a deep ensemble of LoRA adapters",
    "laplace": "Laplace-LoRA ([arXiv 2308.13111](https://arxiv.org/abs/2308.13111)): a Gaussian from the curvature "
    "about a trained adapter",
    "low_rank": "a Gaussian over the LoRA matrices with a low-rank covariance",
    "map": "a maximum a posteriori point (plain LoRA with a Gaussian prior)",
    "mean_field": "Bayes by Backprop on the LoRA matrices",
    "mle": "a maximum likelihood point (plain LoRA)",
    "scalabl": "ScalaBL ([arXiv 2506.21408](https://arxiv.org/abs/2506.21408)): a Gaussian over a few numbers a layer",
    "tfb": "training-free Bayesianisation ([arXiv 2412.05723](https://arxiv.org/abs/2412.05723)) of a trained adapter",
}
_IS = {
    "mean": "One LoRA adapter for plain PEFT: {single}.",
    "draws": "{count} LoRA adapters, each a draw from the posterior (seed {seed}). Their averaged probabilities are "
    "the answer: Bayesian model averaging.",
    "merged": "The base model with a LoRA adapter merged into its weights: {single}. **It has no posterior**: it "
    "answers as N=0 below, and cannot tell how uncertain it is about its own weights.",
}


def write_card(subject: Subject, kind: Kind, folder: Path, seed: int, rounding: Rounding | None = None) -> None:
    """README.md, and reliability.png where the run has one."""
    diagram = subject.run.path / RELIABILITY
    if diagram.is_file():
        shutil.copyfile(diagram, folder / RELIABILITY)
    is_what = _IS[kind.name].format(single=subject.single_is, count=kind.num_draws, seed=seed)
    parts = [
        f"# {subject.base.rpartition('/')[2]}, {subject.guide_name}",
        is_what,
        "## How to use it",
        _use(subject, kind),
        "## Method",
        _method(subject),
        "## Data",
        _data(subject),
        "## Metrics",
        _metrics(subject, diagram.is_file()),
        "## What the uncertainty means, and what it does not",
        _limits(subject, kind, rounding),
    ]
    head = yaml.safe_dump(metadata(subject, kind), sort_keys=False, allow_unicode=True)
    write_whole(folder / CARD, f"---\n{head}---\n\n" + "\n\n".join(parts) + "\n")


def metadata(subject: Subject, kind: Kind) -> dict[str, object]:
    """What the hub reads of a card. The licence is the owner's to choose, and left out."""
    classifier = isinstance(subject.run.model.likelihood, SequenceClassification)
    return {
        "base_model": ORIGINS.get(subject.base, subject.base),
        "library_name": "transformers" if kind.name == "merged" else "peft",
        "pipeline_tag": "text-classification" if classifier else "text-generation",
        "tags": ["lora", "bayesian", "uncertainty", "calibration", "blob_pyro"],
    }


def _use(subject: Subject, kind: Kind) -> str:
    plain = "transformers alone" if kind.name == "merged" else "plain PEFT"
    parts = [f"With {plain}:", _fenced(plain_code(subject, kind), "python")]
    own = own_code(subject) if kind.name == "mean" else None
    if own is not None:
        parts += ["With blob_pyro, which has the posterior too:", _fenced(own, "python")]
    origin = ORIGINS.get(subject.base)
    if origin is not None:
        parts += [
            f"`{subject.base}` is blob_pyro's packaged copy of {origin}; its weights may differ from those on the hub."
        ]
    return "\n\n".join(parts)


def _method(subject: Subject) -> str:
    model, config = subject.run.model, subject.config
    lora = model.network.peft_config[model.adapter]
    targets = [lora.target_modules] if isinstance(lora.target_modules, str) else sorted(lora.target_modules or [])
    revision = f", revision `{model.source.revision}`" if model.source.revision else ""
    lines = [
        f"- Posterior: {GUIDE_TITLES[subject.guide_name]}.",
        f"- Base: `{subject.base}`{revision}{f', {model.source.quantization}' if model.source.quantization else ''}.",
        f"- LoRA: r {lora.r}, lora_alpha {lora.lora_alpha:g}, on {', '.join(f'`{name}`' for name in targets)}.",
    ]
    if not isinstance(subject.guide, EnsembleGuide):
        layers = "" if model.bayesian_layers is None else f" of blocks {model.bayesian_layers}"
        random = {"A": "A", "B": "B", "both": "A and B"}[model.bayesian]
        lines += [f"- Random: {random} in {len(model.sites)} matrices{layers}; prior scale {model.prior_scale:g}."]
    if config is not None:
        train = config.train
        searched = "; a search changed some of these (`tune`)" if config.tune.search else ""
        lines += [
            f"- Training: {train.num_steps} steps of {train.batch_size}, lr {train.lr:g}, seed {config.seed}{searched}."
        ]
    return "\n".join([*lines, "- Made with blob_pyro."])


def _data(subject: Subject) -> str:
    model, config = subject.run.model, subject.config
    trained = "not known" if model.num_data is None else f"{model.num_data:,}"
    lines = [f"- Training items: {trained}."]
    if config is None:
        return "\n".join([*lines, "- The run does not say what they are."])
    lines = [f"- {_source(config.data)}.", *lines]
    if config.data.num_validation:
        lines += [f"- Held-out items: {config.data.num_validation:,}."]
    if subject.metrics:
        lines += [f"- Test items: {next(iter(subject.metrics.values())).num_items:,}."]
    if subject.labels:
        lines += [f"- Labels: {', '.join(f'`{label.strip()}`' for label in subject.labels)}."]
    template = prompt_of(subject)
    if template is None:
        return "\n".join(lines)
    behind = "" if config.data.completion is None else f", and behind it `{config.data.completion}`"
    return "\n".join(lines) + f"\n\nThe prompt{behind}:\n\n" + _fenced(template, "text")


def _source(data: DataConfig) -> str:
    """Where the items are from, without a path."""
    if data.task is not None:
        return f"The task `{data.task}`: {find_task(data.task).description.rstrip('.')}"
    names = [data.dataset] if data.dataset is not None else [*files_of(data.train_file), *files_of(data.test_file)]
    kind = "The data set" if data.dataset is not None else "Own files:"
    return f"{kind} {', '.join(f'`{_last_name(name)}`' for name in names)}"


def _last_name(name: str) -> str:
    """A hub id as it is; of a file its name alone."""
    return re.split(r"[\\/]", name)[-1] if Path(name).suffix else public_name(name)


def _metrics(subject: Subject, has_diagram: bool) -> str:
    if not subject.metrics:
        return "None: the run has no test items, or was not evaluated."
    last = list(subject.metrics)[-1]
    means = "one member" if isinstance(subject.guide, EnsembleGuide) else "the posterior mean"
    of_classes = isinstance(subject.metrics[last], Metrics)
    errors = "test items (of the ECE over bootstrap resamples); NLL in nats per item" if of_classes else "test texts"
    parts = [
        metrics_table(subject.metrics),
        f"± the standard error over the {errors}. N is the number of draws that are averaged; N=0 is {means}.",
    ]
    if against_annotators := annotators_table(subject.metrics):
        parts.insert(1, against_annotators)
    if isinstance(subject.guide, EnsembleGuide):
        parts[-1] = parts[-1].replace("N=0 is one member", "N=0 is the mean over members, which is not exported")
    parts += _caveats(subject)
    if has_diagram:
        parts += [f"![Accuracy against confidence on the test items, {last}]({RELIABILITY})"]
    return "\n\n".join(parts)


def _caveats(subject: Subject) -> list[str]:
    """Where the metrics are those of another computation than the exported weights'."""
    parts = []
    cost = read_json(subject.run.path / COST)
    found = {name.partition("_")[2]: value for name, value in cost.items() if name.startswith("temperature_")}
    if found:
        told = ", ".join(f"{value:.4g} for {name}" for name, value in found.items())
        parts += [
            f"**These metrics divide the logits by a temperature fitted on held-out items: {told}.** Do the same."
        ]
    linearised = subject.config is not None and subject.config.predict.sampling != "weights"
    if isinstance(subject.guide, LaplaceGuide) and linearised:
        parts += [
            "**The metrics with draws are those of the linearised network**, which no exported weights can give: draws "
            "of the weights answer worse."
        ]
    return parts


def _limits(subject: Subject, kind: Kind, rounding: Rounding | None) -> str:
    lines: list[str] = []
    if kind.name == "draws":
        lines += ["- How much the draws disagree tells what the training data left open about the adapter's weights."]
    if kind.name == "merged" and rounding is not None:
        lines += [f"- {str(rounding)[0].upper()}{str(rounding)[1:]}, against the unmerged adapter."]
    if isinstance(subject.guide, PostHocGuide):
        lines += ["- The spread was fitted to an adapter that was trained as a point."]
    return "\n".join(
        [
            *lines,
            "- The posterior is over the LoRA matrices alone, and an approximation: the base model's own mistakes, and "
            "what it has never seen, are not in it.",
            "- Calibration was measured on test items like the training items. On other texts, languages or prompts "
            "the probabilities may be wrong, and sure of it.",
            "- A probability is about the label; it says nothing about whether a text is harmful or true.",
        ]
    )


def _fenced(code: str, language: str) -> str:
    """A fenced block whose fence is longer than any in it."""
    longest = max((len(found) for found in re.findall(r"`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{code}\n{fence}"
