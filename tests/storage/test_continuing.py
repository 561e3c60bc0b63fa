"""`model.adapter` goes on from the posterior that lies beside an adapter, or says why it does not."""

from __future__ import annotations

import json
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import tiny_runs
import torch

import blob_pyro as bp
from blob_pyro.errors import ConfigError, RunDirectoryError
from blob_pyro.runs.build import build_parts, load_data
from blob_pyro.runs.fit import fit_run
from blob_pyro.storage.posterior_files import read_tensors

STILL = {"num_steps": 1, "lr": 1e-30, "kl_lr": 0.0}
WIDE = {"num_steps": 4, "kl_width": 0.6}


def fitted(folder: Path, guide: str = "blob", **sections: Any) -> Path:
    """A run whose spread is far from where it begins."""
    folder.mkdir(exist_ok=True)
    config = tiny_runs.make_config(folder, guide={"name": guide}, **{"train": WIDE} | sections)
    tiny_runs.run(config)
    return Path(config.output)


@pytest.fixture(scope="module")
def blob(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fitted(tmp_path_factory.mktemp("blob"), train=WIDE | {"save_steps": 2})


def started(tmp_path: Path, adapter: Path, **sections: Any) -> tuple[Any, list[str]]:
    """A run's guide before its first step, and the warnings that came."""
    model = {"adapter": str(adapter)} | sections.get("model", {})
    config = tiny_runs.make_config(tmp_path, **sections | {"model": model})
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        parts = build_parts(config, load_data(config))
    return parts, [str(note.message) for note in notes if "posterior" in str(note.message)]


def places(run: Path) -> dict[str, Path]:
    """Where a run's posterior can be told from."""
    step = run / "checkpoints" / "step-00000002"
    bp.save(step, *(lambda saved: (saved.model, saved.guide))(bp.load(run)))
    return {"adapter": run / "adapter", "run": run, "checkpoint": step, "its adapter": step / "adapter"}


@pytest.mark.slow
def test_the_spread_is_where_it_was_from_every_place(blob: Path, tmp_path: Path) -> None:
    expected = read_tensors(blob)
    where = places(blob) | {"mean": bp.export(blob, "mean", output=tmp_path / "mean")}
    for name, place in where.items():
        parts, said = started(tmp_path, place)
        own = parts.guide.tensors()
        assert not said and own.keys() == expected.keys(), name
        assert all(torch.equal(own[key], value) for key, value in expected.items()), name
        assert parts.notes == (
            f"goes on from the posterior in {place}: blob, at {100 * parts.guide.width():.3g} % of the prior's "
            "standard deviation",
        )
        assert parts.guide.width() > 0.3  # and not 0.009, where a spread begins


@pytest.mark.slow
@pytest.mark.parametrize("guide", ["low_rank", "scalabl", "mean_field"])
def test_every_guide_with_a_spread_goes_on_and_a_run_that_moves_nothing_keeps_it(guide: str, tmp_path: Path) -> None:
    run = fitted(tmp_path, guide)
    lines: list[str] = []
    config = tiny_runs.make_config(
        tmp_path, guide={"name": guide}, model={"adapter": str(run)}, train=STILL, output=str(tmp_path / "again")
    )
    fit_run(config, progress=False, say=lines.append)
    assert any(line.startswith(f"goes on from the posterior in {run}: {guide}, at ") for line in lines)
    before, after = read_tensors(run), read_tensors(tmp_path / "again")
    assert all(torch.allclose(after[name], value, atol=1e-7) for name, value in before.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sections", "odd"),
    [
        ({"guide": {"name": "low_rank"}}, r"guide.name \(blob there, low_rank here\) differs"),
        ({"guide": {"name": "mle"}}, r"guide.name \(blob there, mle here\) differs"),
        ({"guide": {"name": "blob", "scale": "softplus"}}, r"guide.scale \(square there, softplus here\) differs"),
        ({"model": {"bayesian_layers": [-1]}}, r"layers.0\S* differs"),
        ({"model": {"prior_scale_spread": 0.5}}, "log_prior_scale differs"),
    ],
)
def test_another_guide_or_other_matrices_begin_anew_and_say_so(
    sections: dict[str, Any], odd: str, blob: Path, tmp_path: Path
) -> None:
    parts, said = started(tmp_path, blob / "adapter", **sections)
    assert len(said) == 1 and not parts.notes
    assert said[0].startswith(f"{blob / 'adapter'}: its posterior is left out, and the spread begins anew: ")
    assert re.search(odd, said[0]), said[0]
    assert parts.guide.width() < 0.02


def test_a_start_of_ones_own_is_no_difference(blob: Path, tmp_path: Path) -> None:
    parts, said = started(tmp_path, blob)
    other, _ = started(tmp_path, blob, guide={"name": "blob", "eps": 0.3})
    assert not said and other.guide.width() == parts.guide.width()


def test_nothing_is_said_where_there_is_no_posterior_to_go_on_from(blob: Path, tmp_path: Path) -> None:
    """A plain copy of the adapter; a guide that finds its own spread."""
    shutil.copytree(blob / "adapter", tmp_path / "plain")
    for adapter, guide in ((tmp_path / "plain", "blob"), (blob, "tfb")):
        parts, said = started(tmp_path, adapter, guide={"name": guide})
        assert not said and not parts.notes


def test_what_was_altered_is_refused(blob: Path, tmp_path: Path) -> None:
    run = tmp_path / "altered"
    shutil.copytree(blob, run)
    described = json.loads((run / "posterior.json").read_text())
    (run / "posterior.json").write_text(json.dumps(described | {"sha256": {"posterior.safetensors": "0"}}))
    for adapter in (run, run / "adapter"):
        with pytest.raises(RunDirectoryError, match=r"posterior.safetensors: expected the file as it was saved"):
            started(tmp_path, adapter)


def test_an_ensemble_takes_no_adapter(blob: Path, tmp_path: Path) -> None:
    config = tiny_runs.make_config(tmp_path, guide={"name": "ensemble"}, model={"adapter": str(blob)})
    with pytest.raises(ConfigError, match=r"model.adapter: expected none with the guide ensemble"):
        tiny_runs.run(config)
