"""Nothing that is read is run, and nothing of the machine or its user is written into a run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from user_folder import make_user_folder

import blob_pyro as bp
from blob_pyro.model.likelihoods import SequenceClassification
from blob_pyro.system.packaged import cache_dir

PACKAGE = Path(bp.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
PICKLES = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}
ERRORS_ALONE = {"UnpicklingError", "PickleError"}
BUILTINS = {"eval", "exec", "compile", "__import__"}
YAML = {"unsafe_load", "unsafe_load_all", "full_load", "full_load_all", "load_all"}
SHELLS = {"os.system", "os.popen", "commands.getoutput", "subprocess.getoutput", "subprocess.getstatusoutput"}


def dangers(source: str) -> list[str]:
    """What a source does that could run what a file says, with the line."""
    tree = ast.parse(source)
    safe = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "yaml.SafeLoader" for base in node.bases)
    }
    return [f"line {node.lineno}: {found}" for node in ast.walk(tree) for found in _of(node, safe)]


def _of(node: ast.AST, safe_loaders: set[str]) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom) and node.module in PICKLES:
        yield from (f"{node.module}.{name.name}" for name in node.names if name.name not in ERRORS_ALONE)
    if isinstance(node, ast.Import):
        yield from (name.name for name in node.names if name.name in PICKLES - {"pickle"} or name.asname in PICKLES)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        name = ast.unparse(node)
        if (node.value.id in PICKLES and node.attr not in ERRORS_ALONE) or name in SHELLS:
            yield name
    if isinstance(node, ast.Dict):
        pairs = zip(node.keys, node.values, strict=True)
        yield from (
            "trust_remote_code" for key, value in pairs if _is(key, "trust_remote_code") and not _is(value, False)
        )
    if isinstance(node, ast.Call):
        yield from _of_call(node, safe_loaders)


def _of_call(node: ast.Call, safe_loaders: set[str]) -> Iterator[str]:
    name = ast.unparse(node.func)
    given = {keyword.arg: keyword.value for keyword in node.keywords}
    last = name.rsplit(".", 1)[-1]
    if name in BUILTINS:
        yield name
    if name == "torch.load" and not _is(given.get("weights_only"), True):
        yield "torch.load without weights_only=True"
    if name == "yaml.load" and not (given.get("Loader") and ast.unparse(given["Loader"]) in safe_loaders):
        yield "yaml.load"
    if name.startswith("yaml.") and last in YAML:
        yield name
    for argument, allowed in (("trust_remote_code", False), ("shell", False), ("allow_pickle", False)):
        if argument in given and not _is(given[argument], allowed):
            yield argument
    if last == "from_pretrained" and "Auto" in name and not ({None, "trust_remote_code"} & given.keys()):
        yield f"{name} without trust_remote_code=False"


def _is(node: ast.AST | None, value: object) -> bool:
    return (isinstance(node, ast.Constant) and node.value is value) or (
        isinstance(node, ast.Constant) and isinstance(value, str) and node.value == value
    )


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_the_source_runs_nothing_that_it_reads(file: Path) -> None:
    assert not dangers(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(f)",
        "torch.load(f, weights_only=False)",
        "torch.load(f, weights_only=flag)",
        "import pickle\npickle.loads(b)",
        "from pickle import load",
        "import dill",
        "eval(text)",
        "exec(text)",
        "__import__(name)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "yaml.unsafe_load(text)",
        "AutoModel.from_pretrained(x)",
        "transformers.AutoConfig.from_pretrained(x, trust_remote_code=True)",
        "AutoConfig.from_pretrained(x, trust_remote_code=flag)",
        "settings = {'trust_remote_code': True}",
        "subprocess.run(x, shell=True)",
        "os.system(x)",
        "np.load(f, allow_pickle=True)",
    ],
)
def test_a_danger_is_seen(source: str) -> None:
    assert dangers(source)


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(f, weights_only=True)",
        "import pickle\ntry:\n    f()\nexcept pickle.UnpicklingError:\n    pass",
        "network.eval()\nre.compile(x)\nyaml.safe_load(x)",
        "class L(yaml.SafeLoader):\n    pass\nyaml.load(x, Loader=L)",
        "AutoModel.from_pretrained(x, trust_remote_code=False)\nsubprocess.run([x])",
    ],
)
def test_what_is_safe_is_not(source: str) -> None:
    assert not dangers(source)


# --- what is written ---

TOKEN = "hf_aTokenThatNobodyMaySee0123456789"


def texts(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Every file by name, as it is and as it is read."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            yield str(file.relative_to(folder)), file.read_bytes()
            if file.suffix == ".parquet":
                yield f"{file.name} as it is read", repr(pq.read_table(file).to_pylist()).encode()


def told(folder: Path, secrets: dict[str, str]) -> list[str]:
    """Which secrets stand in which files."""
    return [
        f"{name}: {kind}" for name, raw in texts(folder) for kind, secret in secrets.items() if secret.encode() in raw
    ]


@pytest.mark.slow
def test_a_run_tells_nothing_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished run and a checkpoint, made with relative names and a token at hand: no token, no absolute path."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", TOKEN)
    user = tmp_path / "user"
    make_user_folder(user)
    secrets = {
        "the token": TOKEN,
        "the home folder": str(Path.home()),
        "the present folder": str(user),
        "the folder above": str(tmp_path),
        "the library": str(PACKAGE.parent),
    }
    for name in ("posterior.json", "adapter/adapter_config.json"):
        assert '"net"' in (user / "run" / name).read_text()
    checkpoints = list((user / "stopped" / "checkpoints").iterdir())
    assert checkpoints and len(list(texts(user / "run"))) >= 10
    assert not told(user / "run", secrets) and not told(user / "stopped", secrets)
    (user / "run" / "leak.txt").write_text(f"at {tmp_path}")
    assert told(user / "run", secrets) == ["leak.txt: the folder above"]


@pytest.mark.slow
def test_an_alias_stays_as_it_was_written(tmp_path: Path) -> None:
    """A packaged model lies in a folder of this machine; the run names the alias."""
    try:
        model = bp.BayesianLoRA.from_pretrained("minilm", SequenceClassification(2), target_modules=["query"])
    except bp.errors.MissingPackageError as error:
        pytest.skip(str(error))
    bp.save(tmp_path / "run", model, bp.BLoBGuide(model))
    secrets = {"the cache": str(cache_dir()), "packages": "site-packages", "the home folder": str(Path.home())}
    assert not told(tmp_path / "run", secrets)
    for name in ("posterior.json", "adapter/adapter_config.json"):
        assert '"minilm"' in (tmp_path / "run" / name).read_text()
    assert bp.load(tmp_path / "run").model.source.id == "minilm"
