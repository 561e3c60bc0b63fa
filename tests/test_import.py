"""Imports point one way, and importing the library changes nothing and reaches nothing."""

from __future__ import annotations

import ast
import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

import blob_pyro as bp

PACKAGE = Path(bp.__file__).parent
ROOMS = (
    "errors",
    "system",
    "config",
    "distributions",
    "data",
    "evaluation",
    "model",
    "guides",
    "training",
    "prediction",
    "storage",
    "report",
    "runs",
    "experiments",
    "cli",
)
OUTSIDE = {"__init__.py", "__main__.py"}  # the two files that stand outside the order
FILES = sorted(str(file.relative_to(PACKAGE)) for file in PACKAGE.rglob("*.py"))


def room_of(file: str) -> str:
    return Path(file).parts[0].removesuffix(".py")


def rooms_imported(source: str, file: str) -> set[str]:
    """Rooms that a file's import statements name, those inside functions and TYPE_CHECKING too."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            modules = [node.module or ""]
            if node.module == "blob_pyro":
                modules = [f"blob_pyro.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            modules = [f"{alias.name}.__init__" if alias.name == "blob_pyro" else alias.name for alias in node.names]
        else:
            continue
        found |= {module.split(".")[1] for module in modules if module.startswith("blob_pyro.")}
    return found


def test_every_file_has_a_room() -> None:
    rooms = {room_of(file) for file in FILES if file not in OUTSIDE}
    assert rooms <= set(ROOMS), f"put them into ROOMS: {sorted(rooms - set(ROOMS))}"


@pytest.mark.parametrize("file", [file for file in FILES if file not in OUTSIDE])
def test_imports_point_one_way(file: str) -> None:
    """A file imports only from rooms before its own, or from its own."""
    own = ROOMS.index(room_of(file))
    later = {room for room in rooms_imported((PACKAGE / file).read_text(), file) if room not in ROOMS[: own + 1]}
    assert not later, f"{file} imports from {sorted(later)}, which come after {room_of(file)}"


def test_the_house_is_low() -> None:
    """Fourteen rooms, errors.py and the two files outside; twelve floors, a room standing on those that it imports."""
    entries = {entry.name for entry in PACKAGE.iterdir()} - {"__pycache__", "py.typed"}
    assert len(entries) <= 17, sorted(entries)
    imported: dict[str, set[str]] = {}
    for file in FILES:
        room = room_of(file)
        imported.setdefault(room, set()).update(rooms_imported((PACKAGE / file).read_text(), file) - {room})
    floors: dict[str, int] = {}
    for room in (*ROOMS, "__init__", "__main__"):  # each after those that it may import
        floors[room] = 1 + max((floors.get(other, 0) for other in imported[room]), default=0)
    assert max(floors.values()) <= 12, floors


def test_an_import_the_wrong_way_would_be_seen() -> None:
    source = (
        "def f():\n    from blob_pyro.cli import main\n    from blob_pyro import runs\n"
        "    import blob_pyro.model.prior\n    import blob_pyro as bp"
    )
    assert rooms_imported(source, "x.py") == {"cli", "runs", "model", "__init__"}


@pytest.mark.parametrize("file", FILES)
def test_every_module_can_be_imported_alone(file: str) -> None:
    module = "blob_pyro." + file.removesuffix(".py").replace("/", ".")
    importlib.import_module(module.removesuffix(".__init__"))


def run(code: str) -> dict[str, object]:
    """The JSON object that a fresh interpreter prints last."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent, timeout=120, check=False
    )
    assert result.returncode == 0, result.stderr
    found: dict[str, object] = json.loads(result.stdout.strip().splitlines()[-1])
    return found


STATE = """
import json, random, socket, sys, time, warnings
def refuse(*args, **kwargs):
    raise AssertionError("the network was asked for")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
import numpy, pyro, torch, transformers
def state():
    return {
        "pyro settings": repr(pyro.settings.get()),
        "param store": sorted(pyro.get_param_store()),
        "default dtype": str(torch.get_default_dtype()),
        "torch rng": torch.get_rng_state().tolist(),
        "numpy rng": repr(numpy.random.get_state()),
        "python rng": repr(random.getstate()),
        "warnings": repr(warnings.filters),
        "threads": torch.get_num_threads(),
        "grad": torch.is_grad_enabled(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "verbosity": transformers.logging.get_verbosity(),
    }
before = state()
start = time.perf_counter()
import blob_pyro
seconds = time.perf_counter() - start
after = state()
"""


@pytest.mark.slow
def test_importing_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Settings, random states, warning filters, with every socket refused; heavy optional modules stay out."""
    found = run(
        STATE
        + """
heavy = [name for name in ("datasets", "torchmetrics", "matplotlib.pyplot", "pandas") if name in sys.modules]
changed = [name for name in before if before[name] != after[name]]
print(json.dumps({"heavy": heavy, "changed": changed, "seconds": seconds}))
"""
    )
    with capsys.disabled():
        print(f"\nimport blob_pyro after torch, transformers and pyro: {found['seconds']:.2f} s more")
    assert found["changed"] == []
    assert found["heavy"] == []


@pytest.mark.slow
def test_importing_leaves_matplotlibs_backend() -> None:
    found = run(
        "import json, matplotlib; before = matplotlib.rcParams['backend']; import blob_pyro, blob_pyro.report\n"
        "print(json.dumps({'before': str(before), 'after': str(matplotlib.rcParams['backend'])}))"
    )
    assert found["before"] == found["after"]


def test_public_names() -> None:
    missing = [name for name in bp.__all__ if not hasattr(bp, name)]
    assert not missing
    assert (PACKAGE / "py.typed").exists()
