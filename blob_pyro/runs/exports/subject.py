"""What is exported: a loaded run, and what its directory says of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import Tensor

from blob_pyro.config.sections import RunConfig
from blob_pyro.data.tasks.load import find_task
from blob_pyro.evaluation.metrics import Scores
from blob_pyro.guides import GUIDES, AdapterGuide, EnsembleGuide
from blob_pyro.storage.directory import CONFIG, read_config
from blob_pyro.storage.reading import read_metrics
from blob_pyro.storage.saving import Run, load
from blob_pyro.system.packaged import ALIASES


@dataclass(frozen=True)
class Subject:
    """A run to be exported.

    Attributes:
        run: model and guide.
        config: how the run was made; None for one that `bp.save` alone wrote.
        metrics: of its test items, by number of draws ("N=0", "N=10"); empty without any.
    """

    run: Run
    config: RunConfig | None
    metrics: dict[str, Scores]

    @classmethod
    def read(cls, run_dir: str | Path, base: str | Path | None = None) -> Subject:
        """Load a run directory, with its base from where it came or from another place.

        Raises:
            RunDirectoryError: it is no run, or a part of it was altered.
            ModelLoadError: its base was not found.
        """
        path = Path(run_dir)
        config = read_config(path) if (path / CONFIG).is_file() else None
        metrics = {} if config is None else read_metrics(path, config)
        run = load(path, base=base)
        run.model.network.eval()
        return cls(run, config, metrics)

    @property
    def guide(self) -> AdapterGuide:
        return self.run.guide

    @property
    def guide_name(self) -> str:
        return next(name for name, kind in GUIDES.items() if type(self.guide) is kind)

    @property
    def base(self) -> str:
        """The base model's name, without a path."""
        return public_name(self.run.model.source.id)

    @cached_property
    def labels(self) -> list[str] | None:
        """The answer words in class order; None where the run does not say, or has no classes."""
        if self.config is None or self.config.learns_tokens:
            return None
        data = self.config.data
        return list(find_task(data.task).labels) if data.task is not None else data.labels

    @property
    def single(self) -> dict[str, Tensor] | None:
        """The one adapter that stands for the posterior, as `model.logits` takes it: the mean, of an ensemble a member.

        None stands for the adapter's own weights.
        """
        return self.guide.member(0) if isinstance(self.guide, EnsembleGuide) else self.guide.mean()

    @property
    def single_is(self) -> str:
        """What `single` is, in words."""
        if isinstance(self.guide, EnsembleGuide):
            return f"the first of the ensemble's {self.guide.num_members} members"
        return "the posterior mean" if self.guide.is_random else "the trained adapter (a point)"


def public_name(id_or_path: str) -> str:
    """A hub id or an alias as it is; of a local folder its last name alone.

    Example:
        >>> public_name("smollm2"), public_name("meta-llama/Llama-2-7b-hf"), public_name("/home/me/models/llama/")
        ('smollm2', 'meta-llama/Llama-2-7b-hf', 'llama')
    """
    path = id_or_path.replace("\\", "/").rstrip("/")
    if id_or_path in ALIASES or not (path.startswith((".", "/", "~")) or path.count("/") != 1 or Path(path).exists()):
        return id_or_path
    return path.rpartition("/")[2]
