"""The posterior that lies beside an adapter: a run that starts from the adapter goes on from it."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

from blob_pyro.errors import RunDirectoryError
from blob_pyro.guides import GUIDES, AdapterGuide, PostHocGuide
from blob_pyro.storage.authors import start_spread
from blob_pyro.storage.foreign import ForeignAdapter, read_adapter
from blob_pyro.storage.posterior_files import (
    DESCRIPTION,
    adapter_folder,
    check_digests,
    odd_tensor,
    read_description,
    read_tensors,
    refuse_altered,
    restore,
)
from blob_pyro.system.files import together_in

OF_THE_START = ("eps", "init_scale")  # settings of guides that say where a spread begins, and nothing of it later


def adapter_at(folder: str | Path) -> ForeignAdapter:
    """The adapter of a folder: one of PEFT's, a run directory, a checkpoint of a run, or an exported mean.

    Raises:
        RunDirectoryError: as `read_adapter`, or a run's description cannot be read; or its adapter or posterior was
            altered.
    """
    saved = _posterior_of(Path(folder))
    if saved is None:
        return read_adapter(folder)
    described = read_description(saved)
    with refuse_altered(saved / DESCRIPTION):
        check_digests(saved, [described["adapter"]], described.get("sha256", {}))
    return read_adapter(adapter_folder(saved, described["adapter"]))


def take_up(guide: AdapterGuide, folder: str | Path) -> str | None:
    """Put a guide where the posterior beside an adapter is, in place of a fresh spread.

    It must be of the same guide, over the same matrices; where it is not, the guide stays as it is, and a warning says
    why. A guide that is fitted to the adapter (`PostHocGuide`) finds its own.

    Args:
        guide: of a model with the adapter of `folder`.
        folder: as in `adapter_at`; with lora_A_rho of BLoB's public code a `BLoBGuide` starts there.

    Returns:
        What was taken up, in words; None where there is no posterior, or none is wanted.

    Raises:
        RunDirectoryError: the posterior was altered.
        ConfigError: as `start_spread`.
    """
    saved = _posterior_of(Path(folder))
    if saved is None:
        start_spread(guide, read_adapter(folder))
        return None
    described = read_description(saved)
    with refuse_altered(saved / DESCRIPTION):
        of_guide = dict(described["guide"])
        kind = None if of_guide.get("own") is True else GUIDES[of_guide["name"]]
        settings = dict(of_guide["settings"])
    tensors = read_tensors(saved)
    if not tensors or isinstance(guide, PostHocGuide):
        return None
    if odd := _difference(guide, of_guide["name"], kind, settings) or odd_tensor(tensors, guide.tensors()):
        warnings.warn(f"{folder}: its posterior is left out, and the spread begins anew: {odd} differs", stacklevel=2)
        return None
    restore(guide.tensors(), tensors, saved)
    at = f"{100 * guide.width():.3g} % of the prior's standard deviation"
    return f"goes on from the posterior in {folder}: {described['guide']['name']}, at {at}"


def _difference(
    guide: AdapterGuide, name: str, kind: type[AdapterGuide] | None, settings: dict[str, Any]
) -> str | None:
    """Which guide or setting is another than that of a saved posterior."""
    if type(guide) is not kind:
        names = {own: name for name, own in GUIDES.items()}
        return f"guide.name ({str(name)[:40]} there, {names.get(type(guide), type(guide).__name__)} here)"
    for name, value in guide.settings().items():
        if name not in OF_THE_START and settings.get(name, value) != value:
            return f"guide.{name} ({str(settings[name])[:40]} there, {value} here)"
    return None


def _posterior_of(folder: Path) -> Path | None:
    """Where the posterior is whose adapter lies in a folder, or that the folder is of; None for an adapter alone."""
    folder = Path(os.path.abspath(folder))
    for place in (folder, *list(folder.parents)[:2]):
        path = together_in(place)
        if not (path / DESCRIPTION).is_file():
            continue
        if place == folder:
            return path
        try:
            adapter = adapter_folder(path, read_description(path)["adapter"])
        except RunDirectoryError:  # of something that happens to lie above
            continue
        if place / adapter.relative_to(path) == folder:
            return path
    return None
