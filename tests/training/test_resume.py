"""Training that goes on from a checkpoint is bit by bit training without a break."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cases import KINDS, TRAINED, make_batch, model_for
from processes import server
from torch import Tensor
from torch.utils.data import DataLoader

import blob_pyro as bp
from blob_pyro.config.sections import TrainConfig
from blob_pyro.errors import CheckpointError, Stopped
from blob_pyro.system.processes import Ranks
from blob_pyro.training.checkpoints import Checkpoints
from blob_pyro.training.recipes import RECIPES
from blob_pyro.training.svi import StepResult

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:the posterior is where it began"),  # under "elbo", in so few steps
]

STEPS = 7
CONFIG = TrainConfig(num_steps=STEPS, batch_size=3, lr=1e-2, save_steps=3)


def loader(seed: int = 11) -> DataLoader[Any]:
    """Shuffled batches of three of eight items, in passes of three batches."""
    whole = make_batch((7, 4, 6, 3, 5, 5, 2, 7))
    generator = torch.Generator().manual_seed(seed)
    return DataLoader(
        range(8), batch_size=3, shuffle=True, generator=generator, collate_fn=lambda rows: whole.select(rows)
    )


def start(name: str = "blob", network: str = "llama", **settings: Any) -> tuple[bp.BayesianLoRA, Any]:
    """A model and a guide at their start, the global generators too."""
    model = model_for(name, network)
    for module in model.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.2  # noise beside the posterior's
    torch.manual_seed(1)
    random.seed(2)
    np.random.seed(3)
    return model, KINDS[name](model, **settings)


def state_of(model: bp.BayesianLoRA, guide: Any) -> dict[str, Tensor]:
    trained = {name: p.detach().clone() for name, p in model.network.named_parameters() if p.requires_grad}
    own = {f"guide.{name}": value.detach().clone() for name, value in guide.tensors().items()}
    generators = {
        "torch": torch.get_rng_state(),
        "numpy": torch.tensor(np.random.rand(3)),
        "python": torch.tensor(random.random()),
    }
    return trained | own | generators


def straight(config: TrainConfig, name: str, **settings: Any) -> tuple[list[StepResult], dict[str, Tensor]]:
    validate = settings.pop("validate", None)
    model, guide = start(name, **settings)
    history = bp.fit(model, guide, loader(), config, progress=False, validate=validate and validate(model, guide))
    return history, state_of(model, guide)


class Killed(Exception):
    """Stands in for the end of a process: nothing of it is used again but its files."""


def killed_at(step: int) -> Any:
    def callback(result: StepResult) -> None:
        if result.step == step:
            raise Killed

    return callback


def broken(
    config: TrainConfig, name: str, folder: Path, kill: int, **settings: Any
) -> tuple[list[StepResult], dict[str, Tensor]]:
    """Training whose process ends in step `kill`, and that a new one goes on with."""
    validate = settings.pop("validate", None)
    model, guide = start(name, **settings)
    with pytest.raises(Killed):
        bp.fit(
            model,
            guide,
            loader(),
            config,
            progress=False,
            callbacks=[killed_at(kill)],
            checkpoints=Checkpoints(folder),
            validate=validate and validate(model, guide),
        )
    model, guide = start(name, **settings)
    torch.manual_seed(99)  # a new process starts anywhere
    history = bp.fit(
        model, guide, loader(seed=77), config, progress=False, validate=validate and validate(model, guide),
        checkpoints=Checkpoints(folder), resume=True,
    )  # fmt: skip
    return history, state_of(model, guide)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_going_on_under_other_versions_is_told_in_one_line(tmp_path: Path) -> None:
    """The same versions are not spoken of: here as everywhere a warning is an error."""
    broken(CONFIG, "blob", tmp_path, 4)
    file = Checkpoints(tmp_path).path(Checkpoints(tmp_path).last_step) / "training.json"
    content = json.loads(file.read_text())["content"]
    now = content["versions"]
    content["versions"] = now | {"torch": "2.1.0", "peft": "9" * 1000}
    signed = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    file.write_text(json.dumps({"content": content, "sha256": signed}))
    told = f"torch 2.1.0, now {now['torch']}; peft {'9' * 39}…, now {now['peft']}"
    with pytest.warns(UserWarning, match=re.escape(f"than the checkpoint's ({told}): training goes on")) as caught:
        bp.fit(*start(), loader(), CONFIG, progress=False, checkpoints=Checkpoints(tmp_path), resume=True)
    (warning,) = [str(entry.message) for entry in caught if entry.category is UserWarning]
    assert "\n" not in warning


@pytest.mark.parametrize("recipe", list(RECIPES))
@pytest.mark.parametrize("name", TRAINED)
def test_going_on_from_a_checkpoint_is_training_without_a_break(name: str, recipe: str, tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, recipe=recipe)
    expected, end = straight(config, name)
    for kill in (4, 6, 7):  # behind the first checkpoint, at the second, and at the last step
        found, own_end = broken(config, name, tmp_path / f"at {kill}", kill)
        assert found == expected[3 if kill < 7 else 6 :][: len(found)] and found[-1] == expected[-1]
        assert same(end, own_end)


@pytest.mark.parametrize("network", ["bert", "llama_bfloat16", "gpt2", "llama_classifier", "llama_both"])
def test_so_it_is_on_other_networks(network: str, tmp_path: Path) -> None:
    expected, end = straight(CONFIG, "blob", network=network)
    found, own_end = broken(CONFIG, "blob", tmp_path, 5, network=network)
    assert found == expected[3:] and same(end, own_end)


@pytest.mark.parametrize(
    "settings",
    [
        {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1},
        {"mixed_precision": "bf16"},
        {"mixed_precision": "fp16"},
        {"flipout": False, "kl_schedule": "warmup", "warmup_ratio": 0.5},
    ],
)
def test_so_it_is_under_other_settings(settings: dict[str, Any], tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, **settings)
    expected, end = straight(config, "blob")
    found, own_end = broken(config, "blob", tmp_path, 5)
    assert found == expected[3:] and same(end, own_end)


def held_out(model: bp.BayesianLoRA, guide: Any) -> Any:
    """The NLL of other items under three draws, which it takes from the global generator."""
    batch = make_batch((5, 4, 6), seed=8)

    def validate() -> float:
        return bp.evaluate(bp.PosteriorPredictive(model, guide, 3)(batch)).nll

    return validate


def test_evaluation_changes_nothing_and_the_best_parameters_are_kept(tmp_path: Path) -> None:
    # so high a rate, from the first step on, that later steps are worse
    config = dataclasses.replace(CONFIG, lr=0.5, kl_lr=1e-3, warmup_ratio=0.0, eval_steps=2)
    plain, _ = straight(dataclasses.replace(config, eval_steps=None), "blob")
    expected, end = straight(config, "blob", validate=held_out)
    assert [result.nll for result in expected] == [result.nll for result in plain]
    measured = {result.step: result.held_out_nll for result in expected if result.held_out_nll is not None}
    assert list(measured) == [2, 4, 6, 7]
    best = min(measured, key=lambda step: measured[step])
    assert best < STEPS, "the case needs an end that is not the best"
    _, at_best = straight(dataclasses.replace(config, num_steps=STEPS), "blob", validate=held_out)
    assert same(end, at_best)
    model, guide = start()
    seen: dict[int, dict[str, Tensor]] = {}
    bp.fit(
        model, guide, loader(), config, progress=False, validate=held_out(model, guide),
        callbacks=[lambda result: seen.update({result.step: state_of_parameters(model, guide)})],
    )  # fmt: skip
    assert same(state_of_parameters(model, guide), seen[best])
    for kill in (5, 7):
        found, own_end = broken(config, "blob", tmp_path / str(kill), kill, validate=held_out)
        assert found == expected[-len(found) :] and same(end, own_end)


def state_of_parameters(model: bp.BayesianLoRA, guide: Any) -> dict[str, Tensor]:
    trained = {name: p.detach().clone() for name, p in model.network.named_parameters() if p.requires_grad}
    return trained | {f"guide.{name}": value.detach().clone() for name, value in guide.tensors().items()}


@pytest.mark.filterwarnings("ignore:the posterior is at")  # before the KL acts
def test_training_stops_early_and_stays_stopped(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, eval_steps=1, patience=2, num_steps=40, save_steps=None)
    nlls = iter([3.0, 2.0, 2.5, 2.1, 9.0])
    model, guide = start()
    checkpoints = Checkpoints(tmp_path)
    history = bp.fit(
        model, guide, loader(), config, progress=False, validate=lambda: next(nlls), checkpoints=checkpoints
    )
    assert [result.held_out_nll for result in history] == [3.0, 2.0, 2.5, 2.1]
    assert checkpoints.steps() == [4]
    assert go_on(checkpoints, eval_steps=1, patience=2, num_steps=40, save_steps=None, validate=lambda: 0.0) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_stops_behind_the_step(number: int, tmp_path: Path) -> None:
    expected, end = straight(CONFIG, "blob")
    model, guide = start()
    before = signal.getsignal(number)
    if before is signal.SIG_IGN:
        pytest.skip("the tests were started under nohup")

    def send(result: StepResult) -> None:
        if result.step == 5:
            os.kill(os.getpid(), number)

    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(Stopped, match="stopped behind step 5") as caught:
        bp.fit(model, guide, loader(), CONFIG, progress=False, callbacks=[send], checkpoints=checkpoints)
    assert caught.value.signal == number and isinstance(caught.value, KeyboardInterrupt)
    assert checkpoints.steps() == [3, 5] and signal.getsignal(number) is before
    model, guide = start()
    found = bp.fit(model, guide, loader(), CONFIG, progress=False, checkpoints=checkpoints, resume=True)
    assert found == expected[5:] and same(state_of(model, guide), end)


def test_a_second_signal_stops_at_once() -> None:
    model, guide = start()

    def send(result: StepResult) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt) as caught:
        bp.fit(model, guide, loader(), CONFIG, progress=False, callbacks=[send])
    assert not isinstance(caught.value, Stopped)


# --- the files ---


def written(tmp_path: Path, name: str = "blob", **settings: Any) -> Checkpoints:
    """Two checkpoints, of steps 3 and 6."""
    model, guide = start(name)
    checkpoints = Checkpoints(tmp_path, **settings)
    with pytest.raises(Killed):
        bp.fit(model, guide, loader(), CONFIG, progress=False, callbacks=[killed_at(7)], checkpoints=checkpoints)
    assert checkpoints.steps() == [3, 6]
    return checkpoints


def go_on(checkpoints: Checkpoints, name: str = "blob", network: str = "llama", **changes: Any) -> list[StepResult]:
    model, guide = start(name, network)
    validate = changes.pop("validate", None)
    config = dataclasses.replace(CONFIG, **changes)
    return bp.fit(
        model, guide, loader(), config, progress=False, validate=validate, checkpoints=checkpoints, resume=True
    )


def test_the_newest_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    model, guide = start()
    bp.fit(model, guide, loader(), dataclasses.replace(CONFIG, save_steps=1), progress=False, checkpoints=checkpoints)
    assert checkpoints.steps() == [5, 6, 7]
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [f"step-{step:08d}" for step in (5, 6, 7)]
    assert sorted(file.name for file in checkpoints.path(7).iterdir()) == ["training.json", "training.safetensors"]


def test_one_with_the_generator_of_a_gpu_goes_on_without_it(tmp_path: Path) -> None:
    """As every checkpoint of a machine with a GPU had one, also where the model was on the CPU."""
    checkpoints = written(tmp_path / "ours")
    state = checkpoints.load(Ranks(), 3)
    assert state is not None and not [name for name in state.tensors if name.endswith(".cuda")]
    theirs = dataclasses.replace(state, tensors=state.tensors | {"random.0.cuda": torch.zeros(16, dtype=torch.uint8)})
    Checkpoints(tmp_path / "theirs").save(theirs, Ranks())
    found = go_on(Checkpoints(tmp_path / "theirs"))
    assert len(found) == STEPS - 3 and found == straight(CONFIG, "blob")[0][3:]


@pytest.mark.parametrize("file", ["training.safetensors", "training.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip", "remove", "empty"])
def test_a_damaged_checkpoint_is_one_clear_error_and_the_older_one_serves(
    file: str, damage: str, tmp_path: Path
) -> None:
    checkpoints = written(tmp_path)
    path = checkpoints.path(6) / file
    content = path.read_bytes()
    middle = len(content) // 2
    if damage == "remove":
        path.unlink()
    else:
        flipped = content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
        path.write_bytes({"truncate": content[:middle], "flip": flipped, "empty": b""}[damage])
    with pytest.raises(
        CheckpointError, match=r"step-00000006: expected [^\n]*; delete this folder to go on from"
    ) as caught:
        go_on(checkpoints)
    assert "\n" not in str(caught.value)
    shutil.rmtree(checkpoints.path(6))
    expected, _ = straight(CONFIG, "blob")
    assert go_on(checkpoints) == expected[3:]


def test_an_added_file_is_seen(tmp_path: Path) -> None:
    checkpoints = written(tmp_path)
    (checkpoints.path(6) / "extra.py").write_text("raise SystemExit")
    with pytest.raises(CheckpointError, match="extra.py was added"):
        go_on(checkpoints)


def test_another_version_is_refused(tmp_path: Path) -> None:
    checkpoints = written(tmp_path)
    path = checkpoints.path(6) / "training.json"
    described = json.loads(path.read_text())
    described["content"]["version"] = 99
    path.write_text(json.dumps(described))
    with pytest.raises(
        CheckpointError, match="expected blob_pyro.training version 1; got .* version 99; go on with the"
    ):
        go_on(checkpoints)


def test_what_belongs_to_something_else_is_refused(tmp_path: Path) -> None:
    written(tmp_path, belongs_to={"base_model": "smollm2", "r": 8})
    with pytest.raises(CheckpointError, match='its base model is "smollm2", here it is "minilm"'):
        go_on(Checkpoints(tmp_path, belongs_to={"base_model": "minilm", "r": 8}))
    with pytest.raises(CheckpointError, match="its r is 8, here it is null"):
        go_on(Checkpoints(tmp_path, belongs_to={"base_model": "smollm2"}))


@pytest.mark.parametrize(("name", "network"), [("mle", "llama"), ("blob", "gpt2"), ("low_rank", "llama")])
def test_the_state_of_another_model_or_guide_is_refused(name: str, network: str, tmp_path: Path) -> None:
    """Also where nobody said what the checkpoint belongs to."""
    checkpoints = written(tmp_path, "mean_field" if name == "mle" else "blob")
    with pytest.raises(CheckpointError, match="expected the training state of this model, guide and recipe; it is of"):
        go_on(checkpoints, name, network)


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    checkpoints = written(tmp_path)
    for name in (".writing-step-00000007", ".removing-step-00000001"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "training.json").write_text("{")
    assert go_on(checkpoints)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["step-00000006", "step-00000007"]


def killed_while_writing(folder: str, kill: int) -> None:
    """Training whose process is killed, for real, in the middle of a checkpoint."""
    model, guide = start()
    writes = []

    def also(temporary: Path) -> None:
        writes.append(temporary)
        (temporary / "half").write_text("written")
        if len(writes) == kill:
            os.kill(os.getpid(), signal.SIGKILL)

    bp.fit(model, guide, loader(), CONFIG, progress=False, checkpoints=Checkpoints(folder, also=also))


@pytest.mark.parametrize("kill", [1, 2, 3])
def test_a_kill_in_the_middle_of_a_checkpoint_leaves_the_older_ones(kill: int, tmp_path: Path) -> None:
    process: Any = server().Process(target=killed_while_writing, args=(str(tmp_path), kill))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert any(entry.name.startswith(".writing-") for entry in tmp_path.iterdir())
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.steps() == [3, 6][: kill - 1]
    expected, end = straight(CONFIG, "blob")
    model, guide = start()
    found = bp.fit(model, guide, loader(), CONFIG, progress=False, checkpoints=checkpoints, resume=True)
    assert found == expected[checkpoints_before(kill) :] and same(state_of(model, guide), end)
    assert not any(entry.name.startswith(".") for entry in tmp_path.iterdir())


def checkpoints_before(kill: int) -> int:
    """The step of the newest whole checkpoint."""
    return [0, 3, 6][kill - 1]


def test_without_checkpoints_there_is_nothing_to_go_on_from(tmp_path: Path) -> None:
    model, guide = start()
    with pytest.raises(bp.errors.ConfigError, match="resume: expected checkpoints to go on from; got None"):
        bp.fit(model, guide, loader(), CONFIG, progress=False, resume=True)
    with pytest.raises(bp.errors.ConfigError, match="eval_steps: expected held-out items"):
        bp.fit(model, guide, loader(), dataclasses.replace(CONFIG, eval_steps=2), progress=False)
    expected, _ = straight(CONFIG, "blob")
    assert go_on(Checkpoints(tmp_path / "none")) == expected  # none yet: from the start


def test_a_hangup_that_is_ignored_stays_so(tmp_path: Path) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        model, guide = start()
        hang_up = lambda result: os.kill(os.getpid(), signal.SIGHUP)  # noqa: E731
        history = bp.fit(model, guide, loader(), CONFIG, progress=False, callbacks=[hang_up])
        assert len(history) == CONFIG.num_steps
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
