"""What is built and published: one version, one address, no relative links in the description, pinned workflows."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

import blob_pyro as bp

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
ADDRESS = PROJECT["project"]["urls"]["Repository"]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
STEPS = [
    (file.name, step)
    for file in WORKFLOWS
    for job in yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"].values()
    for step in job["steps"]
]


def description() -> str:
    """The README as the package has it: its substitutions, made as the build backend makes them."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for change in PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]["substitutions"]:
        text = re.sub(change["pattern"], change["replacement"], text)
    return text.replace("$HFPR_VERSION", bp.__version__)


def test_the_version_is_the_installed_ones() -> None:
    assert bp.__version__ == version("blob_pyro"), "install anew: rm .venv/installed; make check"
    assert "version" in PROJECT["project"]["dynamic"]
    assert PROJECT["tool"]["hatch"]["version"] == {"path": "blob_pyro/__init__.py"}


def test_the_description_has_no_relative_link() -> None:
    """Each leads to a file of this version: what the README's own leads to, whose existence another test checks."""
    before, after = (
        re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", text)
        for text in ((ROOT / "README.md").read_text(encoding="utf-8"), description())
    )
    assert len(before) == len(after) > 40
    for (picture, own), (_, built) in zip(before, after, strict=True):
        kind = "raw" if picture else "blob"
        kept = own.startswith(("https://", "#"))
        assert built == (own if kept else f"{ADDRESS}/{kind}/v{bp.__version__}/{own}")


def test_the_address_is_in_one_place() -> None:
    """Each address in pyproject.toml begins with the repository's; no other file says where the project is."""
    told = re.findall(r"https://[^\s\"']+", (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert told and all(url.startswith(ADDRESS) for url in told)
    files = [ROOT / "README.md", ROOT / "Makefile", *(ROOT / "docs").glob("*.md"), *(ROOT / "blob_pyro").rglob("*.py")]
    owner = ADDRESS.removeprefix("https://")
    assert not [file for file in files if owner in file.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", [file.name for file in WORKFLOWS])
def test_a_workflow_may_do_nothing_but_what_a_job_asks_for(name: str) -> None:
    workflow: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text(encoding="utf-8"))
    assert workflow["permissions"] == {}
    for job, settings in workflow["jobs"].items():
        assert settings["permissions"] == ({"id-token": "write"} if job == "publish" else {"contents": "read"})
        assert settings["timeout-minutes"] <= 240


def test_every_action_is_pinned_by_its_commit() -> None:
    used = [line for file in WORKFLOWS for line in file.read_text(encoding="utf-8").splitlines() if "uses:" in line]
    assert len(used) >= 9
    assert not [line for line in used if not re.search(r"uses: [\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line)]
    for name, step in STEPS:
        if "actions/checkout" in step.get("uses", ""):
            assert step["with"] == {"persist-credentials": False}, name


def test_what_workflows_run_is_there() -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    weekly = yaml.safe_load((ROOT / ".github" / "workflows" / "weekly.yml").read_text(encoding="utf-8"))
    run = " ".join(step.get("run", "") for _, step in STEPS)
    named = {*re.findall(r"\bmake ([a-z][\w-]*)", run), *weekly["jobs"]["suite"]["strategy"]["matrix"]["target"]}
    assert named >= {"wheel", "test-floors", "test-newest"} and named <= targets, named - targets
    scripts = re.findall(r"\.ci/[\w.]+", run)
    assert scripts and all((ROOT / script).is_file() for script in scripts)


def test_ci_runs_the_pythons_that_are_promised_and_may_try_newer_ones() -> None:
    ci = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    promised = [name.rsplit(" ", 1)[1] for name in PROJECT["project"]["classifiers"] if " :: Python :: 3." in name]
    assert promised and ci["jobs"]["landing"]["strategy"]["matrix"]["python"][: len(promised)] == promised
    assert PROJECT["project"]["requires-python"] == f">={promised[0]}"


def test_a_commits_ruff_is_the_one_that_is_tested() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"]
    (rev,) = (repo["rev"] for repo in hooks if repo["repo"].endswith("/ruff-pre-commit"))
    assert f"ruff=={rev.removeprefix('v')}\n" in (ROOT / ".ci" / "constraints.txt").read_text(encoding="utf-8")


def test_what_a_checklist_is_told_to_leave_out_is_argued() -> None:
    page = (ROOT / "docs" / "contributing.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"^\| ([A-Z]+\d+), ", page, re.M)) == PROJECT["tool"]["repo-review"]["ignore"]


@pytest.mark.parametrize(
    ("tag", "address", "told"),
    [
        ("v1.2.0", "https://example.org/O/N", ""),
        ("v1.3.0", "https://example.org/o/n", "expected the tag v1.2.0, .*; got v1.3.0; change one of them"),
        ("v1.2.0", "https://example.org/me/n", "expected .* this repository, https://example.org/me/n, in .*; got "),
    ],
)
def test_a_release_from_elsewhere_is_refused(tmp_path: Path, tag: str, address: str, told: str) -> None:
    (tmp_path / "dist").mkdir()
    with zipfile.ZipFile(tmp_path / "dist" / "name-1.2.0-py3-none-any.whl", "w") as wheel:
        entry = "Metadata-Version: 2.4\nName: name\nVersion: 1.2.0\nProject-URL: Repository, https://example.org/o/n\n"
        wheel.writestr("name-1.2.0.dist-info/METADATA", entry)
    command = [sys.executable, str(ROOT / ".ci" / "release.py"), tag, address]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == bool(told)
    assert re.fullmatch(f"{told}.*\n" if told else "", result.stderr), result.stderr
