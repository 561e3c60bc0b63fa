"""`export`: a run directory as a folder for others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from blob_pyro.runs.exports.card import write_card
from blob_pyro.runs.exports.draws import write_draws
from blob_pyro.runs.exports.kinds import Kind
from blob_pyro.runs.exports.manifest import write_manifest
from blob_pyro.runs.exports.mean import write_mean
from blob_pyro.runs.exports.merged import write_merged
from blob_pyro.runs.exports.subject import Subject
from blob_pyro.storage.directory import refuse_part_of_run
from blob_pyro.system.files import new_folder, refuse_used_folder
from blob_pyro.system.printing import tell_line
from blob_pyro.system.terminal import Console, Say

EXPORTS = "export"


def export(
    run_dir: str | Path, kind: str = "mean", *, output: str | Path | None = None, seed: int | None = None,
    base: str | Path | None = None, progress: bool = False, say: Say = tell_line,
) -> Path:  # fmt: skip
    """Write a run as a folder that other programs load, with a model card (README.md) and manifest.json.

    Only safetensors, JSON, Markdown and the run's calibration plot are written, without a path of this machine.

        "mean"     one ordinary PEFT adapter, and the posterior's spread in files beside it (`bp.load` has both)
        "draws:K"  draw_0 to draw_{K-1}, ordinary PEFT adapters: average their probabilities
        "merged"   the base model with the mean merged into it, which has no posterior

    Args:
        run_dir: what `fit_run` or `bp.save` wrote.
        kind: one of these.
        output: the new folder; None takes RUN/export/mean, RUN/export/draws_K or RUN/export/merged.
        seed: of the draws; None takes the run's own, whose first draws are those of its metrics.
        base: the folder, hub id or alias that the base is loaded from, where it has moved.
        progress: show progress, in draws.
        say: receives lines for the user.

    Returns:
        The folder.

    Raises:
        ConfigError: an unknown kind.
        DataError: the output is a run's own file.
        DiskFullError: there is no room for it; nothing is left behind.
        RunDirectoryError: the run cannot be read, or the folder is used; nothing is left behind.
        UnsupportedPosteriorError: the run cannot be exported as this.
        ModelLoadError: its base was not found.
    """
    asked = Kind.parse(kind)
    path = Path(run_dir) / EXPORTS / asked.folder if output is None else Path(output)
    refuse_part_of_run(path)
    refuse_used_folder(path)
    subject = Subject.read(run_dir, base)
    if seed is None:
        seed = 0 if subject.config is None else subject.config.seed
    with new_folder(path) as folder:
        _fill(subject, asked, folder, seed, Console(progress, say))
    return path


def _fill(subject: Subject, kind: Kind, folder: Path, seed: int, console: Console) -> None:
    rounding = None
    if kind.name == "mean":
        entries = write_mean(subject, folder)
        console.log(f"exported {subject.single_is} as a PEFT adapter")
    elif kind.name == "draws":
        entries = write_draws(subject, folder, kind.num_draws, seed, console.progress)
        console.log(f"exported {kind.num_draws} draws of seed {seed} as PEFT adapters; average their probabilities")
    else:
        entries, rounding = write_merged(subject, folder)
        console.log(f"merged {subject.single_is} into the base; a merged model has no posterior, and answers as N=0")
        console.log(str(rounding))
    if others := entries.get("other_tensors"):
        console.log(f"note: beside lora_A and lora_B there are {len(others)} tensors ({others[0]}), which vLLM refuses")
    write_card(subject, kind, folder, seed, rounding)
    write_manifest(folder, _told(subject, kind) | entries)


def _told(subject: Subject, kind: Kind) -> dict[str, Any]:
    likelihood = subject.run.model.likelihood
    return {
        "kind": kind.name,
        "guide": subject.guide_name,
        "base_model": subject.base,
        "likelihood": {"name": type(likelihood).__name__, "settings": likelihood.settings()},
        "labels": subject.labels,
    }
