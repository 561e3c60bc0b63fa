"""`bp.save` over a good run: wherever it is killed or fails, the folder loads as the old run or as the new one."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import EVERY_GUIDE, LLAMA, MODELS, causal_base, model_for, trainable
from interrupting import FAIL, KILL, interrupted
from peft import PeftModel
from processes import server

import blob_pyro as bp
from blob_pyro.errors import RunDirectoryError
from blob_pyro.storage.directory import refuse_used_directory
from blob_pyro.storage.reading import read_scales
from blob_pyro.system.files import WRITTEN, end_replacing, file_in, replace_together_by

OLD, NEW, NEWEST = 0.25, 0.5, 0.75


def posterior(guide_name: str, value: float) -> tuple[bp.BayesianLoRA, Any]:
    """A model and a guide, every number of which is `value`."""
    model = model_for(guide_name)
    guide = EVERY_GUIDE[guide_name](model)
    with torch.no_grad():
        for parameter in trainable(model.network, guide).values():
            parameter.fill_(value)
    return model, guide


def value_of(run_dir: Path) -> float:
    """That of the posterior in a folder, all of whose parts must be of one."""
    run = bp.load(run_dir, base=causal_base("LlamaForCausalLM", LLAMA))
    values = {
        float(value) for part in trainable(run.model.network, run.guide).values() for value in part.detach().unique()
    }
    assert len(values) == 1, f"{run_dir}: a mixture of {values}"
    return values.pop()


def values_of(folders: list[Path]) -> Iterator[float]:
    """Those of many folders; of those that hold the same to `load` one is loaded."""
    known: dict[object, float] = {}
    for folder in folders:
        files = [file for file in folder.rglob("*") if file.is_file() and ".saving" not in file.parts]
        key = frozenset((str(file.relative_to(folder)), file.read_bytes()) for file in files)
        if key not in known:
            known[key] = value_of(folder)
        yield known[key]


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """What would change if anything in a folder were written."""
    return {str(entry): (entry.stat().st_mtime_ns, entry.stat().st_ino) for entry in (folder, *folder.rglob("*"))}


def _interrupt_saves(guide_name: str, way: str, old: str, places: str) -> None:
    """places/k: the run of `old` after a save that ended at its k-th operation."""
    torch.set_num_threads(1)
    model, guide = posterior(guide_name, NEW)
    bp.save(Path(places) / "whole", model, guide)  # what is imported only now would count
    for number in itertools.count(1):
        place = Path(places) / str(number)
        shutil.copytree(old, place)
        if not interrupted(lambda place=place: bp.save(place, model, guide), number, way):
            return


def _interrupt_again(guide_name: str, places: str) -> None:
    """Another save of each folder, killed at another operation."""
    torch.set_num_threads(1)
    model, guide = posterior(guide_name, NEWEST)
    folders = sorted(Path(places).iterdir())
    bp.save(Path(places) / "whole", model, guide)
    for number, place in enumerate(folders):
        interrupted(lambda place=place: bp.save(place, model, guide), 1 + 7 * number % len(folders), KILL)


def in_a_process(target: Any, *arguments: object) -> None:
    process = server().Process(target=target, args=tuple(map(str, arguments)))
    process.start()
    process.join(240)
    assert process.exitcode == 0


@pytest.mark.slow
@pytest.mark.parametrize(("guide_name", "way"), [("blob", KILL), ("ensemble", KILL), ("blob", FAIL)])
def test_an_interrupted_save_leaves_the_old_run_or_the_new_one(tmp_path: Path, guide_name: str, way: str) -> None:
    old, places = tmp_path / "old", tmp_path / "places"
    bp.save(old, *posterior(guide_name, OLD))
    in_a_process(_interrupt_saves, guide_name, way, old, places)
    (places / "whole").rename(tmp_path / "whole")
    folders = sorted(places.iterdir(), key=lambda place: int(place.name))
    assert len(folders) > 20
    values = list(values_of(folders))
    assert set(values) == {OLD, NEW} and (values == sorted(values) or way == FAIL)  # some errors PEFT gets over
    if way == FAIL:
        return
    in_a_process(_interrupt_again, guide_name, places)
    again = list(values_of(folders))
    assert all(value in (before, NEWEST) for before, value in zip(values, again, strict=True)) and NEWEST in again
    for place in folders[::5]:  # a save that comes to its end leaves nothing of the others
        bp.save(place, *posterior(guide_name, NEW))
        found, whole = (sorted(file for file in root.rglob("*")) for root in (place, tmp_path / "whole"))
        assert [file.relative_to(place) for file in found] == [file.relative_to(tmp_path / "whole") for file in whole]
        assert all(
            a.read_bytes() == b.read_bytes() for a, b in zip(found, whole, strict=True) if a.is_file() and b.is_file()
        )


PARTS = ("config.yaml", "history.jsonl", "metrics.json", "adapter/tensors")


def _folder_of(place: Path, value: str) -> Path:
    (place / "adapter").mkdir(parents=True)
    for name in PARTS:
        (place / name).write_text(value)
    return place


def _interrupt_replacing(places: str) -> None:
    """places/k: a folder whose replacement by the one in it ended at its k-th operation."""
    for number in itertools.count(1):
        place = _folder_of(Path(places) / str(number), "old")
        filled = _folder_of(place / ".filled", "new")
        if not interrupted(lambda place=place, filled=filled: replace_together_by(place, filled), number, KILL):
            return


@pytest.mark.slow
def test_an_interrupted_replacement_leaves_all_old_files_or_all_new_ones(tmp_path: Path) -> None:
    in_a_process(_interrupt_replacing, tmp_path / "places")
    folders = sorted((tmp_path / "places").iterdir(), key=lambda place: int(place.name))
    found = [{file_in(place, name).read_text() for name in PARTS} for place in folders]
    assert len(folders) > 10 and all(len(values) == 1 for values in found)
    values = [values.pop() for values in found]
    assert values == sorted(values, reverse=True) and set(values) == {"old", "new"}
    for place, value in zip(folders, values, strict=True):
        end_replacing(place)
        assert [(place / name).read_text() for name in PARTS] == [value] * len(PARTS)
        assert not (place / WRITTEN).exists()


@pytest.fixture
def killed(tmp_path: Path) -> Path:
    """A run whose second save was killed when it had begun to put the files in their places."""
    run_dir, new = tmp_path / "run", tmp_path / "new"
    for folder, value in ((run_dir, OLD), (new, NEW)):
        bp.save(folder, *posterior("blob", value))
    shutil.copytree(new, run_dir / WRITTEN)
    shutil.copy(new / "posterior.safetensors", run_dir)
    return run_dir


def test_reading_it_writes_nothing(killed: Path) -> None:
    before = tree(killed)
    assert value_of(killed) == NEW
    assert read_scales(killed) == read_scales(killed.parent / "new")
    assert tree(killed) == before


def test_no_other_run_is_written_into_it(killed: Path) -> None:
    assert bp.load(killed, base=causal_base("LlamaForCausalLM", LLAMA)).path == killed
    for name in ("posterior.json", "posterior.safetensors"):
        (killed / name).unlink()
    shutil.rmtree(killed / "adapter")
    assert value_of(killed) == NEW
    with pytest.raises(RunDirectoryError, match=r"it holds a run \(.saved\)"):
        refuse_used_directory(killed)


def test_what_is_not_of_the_posterior_stays(killed: Path) -> None:
    """Other files of the run, and another adapter or a card of one's own beside its adapter; PEFT reads the new one."""
    (killed / "notes.txt").write_text("mine")
    (killed / "adapter" / "README.md").write_text("a card")
    (killed / "adapter" / "other").mkdir()
    bp.save(killed, *posterior("blob", NEWEST))
    assert value_of(killed) == NEWEST and not (killed / WRITTEN).exists()
    assert (killed / "notes.txt").read_text() == "mine" and (killed / "adapter" / "README.md").read_text() == "a card"
    assert (killed / "adapter" / "other").is_dir()
    network = PeftModel.from_pretrained(MODELS["llama"]().network.unload(), str(killed / "adapter"))
    assert {float(v) for n, p in network.named_parameters() if "lora_A" in n for v in p.detach().unique()} == {NEWEST}
