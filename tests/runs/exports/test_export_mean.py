"""The exported mean is a plain PEFT adapter, and a posterior for `bp.load`; nothing in it tells of this machine."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from cases import EVERY_GUIDE, KINDS, base_folder, make_batch
from peft import PeftModel
from saved_runs import base_of, logits_at, logits_of, plain, saved

import blob_pyro as bp
from blob_pyro.guides import EnsembleGuide
from blob_pyro.model.loading import BaseSource
from blob_pyro.runs.exports.subject import public_name
from blob_pyro.system.files import WRITTEN


@pytest.mark.slow
@pytest.mark.parametrize("name", list(EVERY_GUIDE))
def test_plain_peft_loads_it_and_so_does_blob_pyro(name: str, tmp_path: Path) -> None:
    """The mean's logits bit for bit; the posterior's spread, too. Of an ensemble it is the first member."""
    run, told = saved(tmp_path / "run", name), []
    folder = bp.export(run.path, "mean", say=told.append)
    ensemble = isinstance(run.guide, EnsembleGuide)
    member = run.guide.member(0) if isinstance(run.guide, EnsembleGuide) else {}
    assert torch.equal(logits_of(plain(run, folder)), logits_at(run, member))
    point = "the trained adapter (a point)"
    what = "the first of the ensemble's 3 members" if ensemble else "the posterior mean"
    assert told == [f"exported {what if KINDS[name].is_random else point} as a PEFT adapter"]
    assert (folder / "posterior.safetensors").exists() is not ensemble
    if ensemble:
        return
    again = bp.load(folder, base=run.model.network.unload())
    again.model.network.eval()
    assert again.guide.settings() == run.guide.settings()
    assert all(torch.equal(again.guide.scale(site), run.guide.scale(site)) for site in run.model.sites)
    assert torch.equal(again.model.logits(make_batch()), bp.load(run.path).model.logits(make_batch()))


def test_a_run_whose_save_was_killed(tmp_path: Path) -> None:
    """What is exported is all of the new posterior, also where the files in their places are still the old ones."""
    run = saved(tmp_path / "run")
    shutil.copytree(run.path, tmp_path / "new")
    (tmp_path / "new").rename(run.path / WRITTEN)
    (run.path / "posterior.json").write_text("{}")
    (run.path / "posterior.safetensors").write_bytes(b"old")
    again = bp.load(bp.export(run.path, "mean"), base=base_of(run))
    assert all(torch.equal(again.guide.scale(site), run.guide.scale(site)) for site in run.model.sites)


def test_an_adapter_of_another_name(tmp_path: Path) -> None:
    """In the exported folder it is the only one, in PEFT's usual place."""
    run = saved(tmp_path / "first")
    bp.save(tmp_path / "named", *renamed(run))
    folder = bp.export(tmp_path / "named", "mean")
    again = bp.load(folder, base=base_of(run))
    assert json.loads((folder / "posterior.json").read_text())["adapter"] == "default"
    assert all(torch.equal(again.guide.loc(site), run.guide.loc(site)) for site in run.model.sites)


def renamed(run: bp.Run) -> tuple[bp.BayesianLoRA, bp.BLoBGuide]:
    """The run's adapter under another name, on a base of its own."""
    network = PeftModel.from_pretrained(base_of(run), str(run.path / "adapter"), adapter_name="mine")
    model = bp.BayesianLoRA(network, run.model.likelihood, num_data=run.model.num_data, source=run.model.source)
    return model, bp.BLoBGuide(model)


@pytest.mark.parametrize("kind", ["mean", "draws:2", "merged"])
def test_no_path_of_this_machine_is_told(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither in the run's own parts, but for what its user wrote, nor in what is exported."""
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    run = saved(tmp_path / "run")
    folder = bp.export(run.path, kind)
    for place, known in ((run.path / "adapter", str(base_folder())), (folder, None)):
        for file in place.rglob("*"):
            if file.is_file():
                content = file.read_bytes().decode("utf-8", errors="replace")
                for path in (str(base_folder().parent), str(tmp_path), os.path.expanduser("~"), str(Path.cwd())):
                    assert path not in (content.replace(known, "") if known else content), file
                assert "hf_secret" not in content


def test_a_packaged_base_is_called_by_its_alias(tmp_path: Path) -> None:
    """PEFT would write the folder of the user's cache."""
    model = bp.BayesianLoRA.from_pretrained(str(tiny.llama()), bp.MultipleChoice((5, 17)), r=2)
    model.source = BaseSource(id="smollm2")
    bp.save(tmp_path, model, bp.BLoBGuide(model))
    assert (
        json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"] == "smollm2"
    )
    assert not (tmp_path / "adapter" / "README.md").exists()
    (tmp_path / "adapter" / "README.md").write_text("my own words")
    bp.save(tmp_path, model, bp.BLoBGuide(model))
    assert "my own words" in (tmp_path / "adapter" / "README.md").read_text()


def test_names_without_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    assert public_name("org/name") == "org/name"
    assert public_name("models/mine") == "mine"  # a folder that is there
    assert public_name("a/b/c") == public_name("~/c") == public_name("../c") == public_name("C:\\models\\c") == "c"
    assert public_name("smollm2") == "smollm2" and public_name("gpt2") == "gpt2"
