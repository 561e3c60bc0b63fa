"""Hundreds of damaged files and settings: each is one clear error or harmless; none hangs or leads outside."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
from bounds import bounded
from checkpoint_mutations import CHECKPOINTS
from config_mutations import BASES, CONFIGS
from malformed import Bad, malformed
from mutations import CANARY_MODULE, Mutation, Place, evil_code, mutations
from run_mutations import RUNS
from setting_mutations import settings
from user_folder import STEPS, command, make_user_folder

from blob_pyro.config.data import DataConfig
from blob_pyro.data import load_task
from blob_pyro.errors import BlobPyroError

pytestmark = pytest.mark.slow

TIME_LIMIT = 20  # seconds a case
MEMORY = 3 * 2**30  # bytes that a case may ask for
SEED = 5

OF_RUNS = mutations(RUNS, SEED)
OF_CHECKPOINTS = mutations(CHECKPOINTS, SEED + 1000)
OF_CONFIGS = mutations(CONFIGS, SEED + 2000)
OF_BASES = mutations(BASES, SEED + 3000)
OF_STARTS = [one for one in OF_RUNS if not one.kind.startswith("configuration")][::2]
OF_EXTENSIONS = OF_RUNS[1::4]
OF_SETTINGS = mutations(settings(SEED), SEED + 4000)
OF_DATA = malformed(220, seed=SEED)[::5]

FORBIDDEN = {"os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "pickle.find_class"}


class Watch:
    """What the interpreter tells of while a case runs: programs started, pickles opened, files opened outside."""

    def __init__(self) -> None:
        self.outside: Path | None = None
        self.forbidden: list[str] = []
        self.opened: list[str] = []
        sys.addaudithook(self._see)

    def _see(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.outside is None:
            return
        if event in FORBIDDEN or (event == "import" and arguments[0] == CANARY_MODULE):
            self.forbidden.append(f"{event} {arguments}")
        elif event == "open" and str(arguments[0]).startswith(str(self.outside)):
            self.opened.append(str(arguments[0]))


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


@contextlib.contextmanager
def guarded(watch: Watch, place: Place) -> Iterator[None]:
    """No hang, no more memory than there should be, nothing started, nothing opened outside."""
    with bounded(TIME_LIMIT, MEMORY):
        watch.outside, watch.forbidden, watch.opened = place.outside, [], []
        try:
            yield
        finally:
            watch.outside = None


# --- what is damaged ---


def answers(place: Place) -> list[Any]:
    """What the run in it says of the test items."""
    output = place.folder / "answers.jsonl"
    assert command("predict", "run", "test.jsonl", "--output", output.name) == 0
    return tiny.read_jsonl(output)


COMPARED = ("history.jsonl", "metrics.json", "adapter/adapter_model.safetensors", "posterior.safetensors")


def contents(run: Path) -> dict[str, bytes]:
    return {name: (run / name).read_bytes() for name in COMPARED}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A user's folder with a base model, a configuration, a finished run and one that was stopped, all names relative;
    beside it a folder that is none of the run's business."""
    case = tmp_path_factory.mktemp("made")
    user, outside = case / "user", case / "outside"
    make_user_folder(user)
    shutil.rmtree(min((user / "stopped" / "checkpoints").iterdir()))
    config = user / "stopped" / "config.yaml"
    config.write_text(config.read_text().replace("output: stopped", "output: run"))
    shutil.copytree(user / "run" / "adapter", outside / "evil")
    (outside / "secret.txt").write_text("secret")
    tiny.write_yaml(outside / "other.yaml", {"task": "tweets"})
    (outside / "scripted").mkdir()
    (outside / f"{CANARY_MODULE}.py").write_text("raise SystemExit")
    yield case


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A copy to be damaged, as the present folder. The module that code would come from can be imported."""
    case = tmp_path / "case"
    shutil.copytree(made, case, symlinks=True)
    found = Place(case / "user", case / "user" / "run", case / "outside", case / "canary")
    for file in (found.outside / f"{CANARY_MODULE}.py", found.outside / "scripted" / "scripted.py"):
        file.write_text(evil_code(found))
    monkeypatch.chdir(found.folder)
    monkeypatch.syspath_prepend(found.outside)
    return found


def snapshot(place: Place, *but: str) -> dict[str, tuple[int, int]]:
    """Size and time of every file beside the run."""
    mine = [place.folder / name for name in but]
    found = {}
    for file in place.folder.parent.rglob("*"):
        if not any(file == own or own in file.parents for own in mine) and "__pycache__" not in file.parts:
            state = file.lstat()
            found[str(file)] = (state.st_size if file.is_file() else 0, state.st_mtime_ns if file.is_file() else 0)
    return found


# --- what must be so ---

COUNTS: dict[tuple[str, str], int] = {}


def outcome(
    family: str,
    mutation: Mutation,
    place: Place,
    watch: Watch,
    capfd: pytest.CaptureFixture[str],
    steps: list[Callable[[], int]],
) -> str:
    """Damage, then run the commands: "refused" with one line, or "harmless"; nothing else may come of it."""
    mutation.apply(place)
    mine = ("run", "new", "answers.jsonl")
    before = snapshot(place, *mine)
    capfd.readouterr()
    found = "harmless"
    for step in steps:
        with guarded(watch, place):
            code = step()
        out, err = capfd.readouterr()
        if code:
            assert code == 2, (code, err)
            assert err.startswith("blob-pyro: error: ") and err.count("\n") == 1 and "Traceback" not in out, err
            assert len(err) < 1500, err
            found = "refused"
            break
    assert not place.canary.exists()
    assert not watch.forbidden
    assert snapshot(place, *mine) == before
    COUNTS[family, found] = COUNTS.get((family, found), 0) + 1
    return found


@pytest.fixture(scope="module")
def reference(made: Path) -> dict[str, Any]:
    """Of the sound files: the answers, and what a run that was not interrupted leaves."""
    place = Place(made / "user", made / "user" / "run", made / "outside", made / "canary")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place.folder)
        found = {"answers": answers(place), "contents": contents(place.run)}
        (place.folder / "answers.jsonl").unlink()
    return found


START = ("--model.adapter", "run", "--output", "new", "--train.num_steps", 1, "--train.kl_lr", 0)
EXTENSION = ("--resume", "--train.num_steps", STEPS + 2)


def of_copy(made: Path, folder: Path, *words: object) -> dict[str, bytes]:
    """What a command makes of sound files."""
    shutil.copytree(made / "user", folder / "user")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "user")
        assert command("fit", "own.yaml", *words) == 0
        return contents(Path("new" if words == START else "run"))


@pytest.fixture(scope="module")
def started(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A run that starts from the sound one."""
    return of_copy(made, tmp_path_factory.mktemp("started"), *START)


@pytest.fixture(scope="module")
def extended(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The sound run with more steps."""
    return of_copy(made, tmp_path_factory.mktemp("extended"), *EXTENSION)


def ids(mutations: Sequence[Mutation]) -> list[str]:
    """A name for each: its place, and what is done."""
    return [f"{place} {one.kind.encode('ascii', 'replace').decode()[:60]}" for place, one in enumerate(mutations)]


@pytest.mark.parametrize("mutation", OF_RUNS, ids=ids(OF_RUNS))
def test_run_directories(
    mutation: Mutation, place: Place, watch: Watch, capfd: pytest.CaptureFixture[str], reference: dict[str, Any]
) -> None:
    def predict() -> int:
        return command("predict", "run", "test.jsonl", "--output", "answers.jsonl")

    found = outcome("run", mutation, place, watch, capfd, [predict, lambda: command("evaluate", "run")])
    if found == "harmless":
        assert tiny.read_jsonl(place.folder / "answers.jsonl") == reference["answers"]
        metrics = json.loads((place.run / "metrics.json").read_text())
        assert metrics == json.loads(reference["contents"]["metrics.json"])
    if "a base outside" not in mutation.kind:
        assert not watch.opened


@pytest.mark.filterwarnings("default:resumed under other versions")  # where the versions are what was altered
@pytest.mark.parametrize("mutation", OF_CHECKPOINTS, ids=ids(OF_CHECKPOINTS))
def test_checkpoints(
    mutation: Mutation, place: Place, watch: Watch, capfd: pytest.CaptureFixture[str], reference: dict[str, Any]
) -> None:
    shutil.rmtree(place.run)
    (place.folder / "stopped").rename(place.run)
    found = outcome("checkpoint", mutation, place, watch, capfd, [lambda: command("fit", "own.yaml", "--resume")])
    if found == "harmless":
        assert contents(place.run) == reference["contents"]
    assert not watch.opened


@pytest.mark.parametrize("mutation", OF_CONFIGS, ids=ids(OF_CONFIGS))
def test_configurations(
    mutation: Mutation, place: Place, watch: Watch, capfd: pytest.CaptureFixture[str], reference: dict[str, Any]
) -> None:
    shutil.rmtree(place.run)
    found = outcome("configuration", mutation, place, watch, capfd, [lambda: command("fit", "own.yaml")])
    if found == "harmless":
        assert contents(place.run) == reference["contents"]


@pytest.mark.parametrize("mutation", OF_SETTINGS, ids=ids(OF_SETTINGS))
def test_every_setting(
    mutation: Mutation, place: Place, watch: Watch, capfd: pytest.CaptureFixture[str], reference: dict[str, Any]
) -> None:
    shutil.rmtree(place.run)
    found = outcome("setting", mutation, place, watch, capfd, [lambda: command("fit", "own.yaml")])
    if found == "harmless":
        assert contents(place.run) == reference["contents"]


@pytest.mark.filterwarnings("default:.*posterior is left out", "default:.*PEFT does not know", "default:.*no place in")
@pytest.mark.parametrize("mutation", OF_STARTS, ids=ids(OF_STARTS))
def test_starts_from_a_run(
    mutation: Mutation, place: Place, watch: Watch, capfd: pytest.CaptureFixture[str], started: dict[str, bytes]
) -> None:
    """What is not refused starts where the sound run does, or at a fresh spread, as a warning then says."""
    found = outcome("start", mutation, place, watch, capfd, [lambda: command("fit", "own.yaml", *START)])
    if found == "harmless" and contents(place.folder / "new") != started:
        assert json.loads((place.folder / "new" / "posterior.json").read_text())["width"] < 0.02
    assert not watch.opened


@pytest.mark.parametrize("mutation", OF_EXTENSIONS, ids=ids(OF_EXTENSIONS))
def test_extensions(
    mutation: Mutation, place: Place, watch: Watch, capfd: pytest.CaptureFixture[str], extended: dict[str, bytes]
) -> None:
    found = outcome("extension", mutation, place, watch, capfd, [lambda: command("fit", "own.yaml", *EXTENSION)])
    if found == "harmless":
        assert contents(place.run) == extended
    if "a base outside" not in mutation.kind:
        assert not watch.opened


@pytest.mark.parametrize("mutation", OF_BASES, ids=ids(OF_BASES))
def test_base_models(
    mutation: Mutation, place: Place, watch: Watch, capfd: pytest.CaptureFixture[str], reference: dict[str, Any]
) -> None:
    def predict() -> int:
        return command("predict", "run", "test.jsonl", "--output", "answers.jsonl")

    found = outcome("base", mutation, place, watch, capfd, [predict])
    if found == "harmless":
        assert tiny.read_jsonl(place.folder / "answers.jsonl") == reference["answers"]


@pytest.mark.parametrize("bad", OF_DATA, ids=[f"{place} {bad.kind}, {bad.name}" for place, bad in enumerate(OF_DATA)])
def test_data_files(bad: Bad, place: Place, watch: Watch) -> None:
    path = bad.write(place.folder)
    settings = {"train_file": str(path), "prompt": "{text} is", "labels": [" bad", " good"], **bad.settings}
    with guarded(watch, place), pytest.raises(BlobPyroError) as told:
        load_task(DataConfig(**settings), seed=0)
    assert "\n" not in str(told.value) and path.name in str(told.value)
    assert not watch.forbidden and not place.canary.exists()
    COUNTS["data", "refused"] = COUNTS.get(("data", "refused"), 0) + 1


def test_most_are_refused() -> None:
    """What is not refused gave the same result, as its test has seen; it is a small part."""
    cases = [*OF_RUNS, *OF_CHECKPOINTS, *OF_CONFIGS, *OF_BASES, *OF_DATA, *OF_STARTS, *OF_EXTENSIONS, *OF_SETTINGS]
    print(", ".join(f"{family} {found} {count}" for (family, found), count in sorted(COUNTS.items())))
    if sum(COUNTS.values()) < len(cases):
        pytest.skip(f"{sum(COUNTS.values())} of {len(cases)} cases were run")
    refused = sum(count for (_, found), count in COUNTS.items() if found == "refused")
    assert refused >= 700 and len(cases) - refused < 120
