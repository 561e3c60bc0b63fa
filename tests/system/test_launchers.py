"""What a launcher was told is done, or refused in one line before anything is loaded or written."""

from __future__ import annotations

import warnings
from pathlib import Path

import accelerate
import pytest
import tiny
from accelerate.state import AcceleratorState, GradientState
from cases import make_batch, model_for

import blob_pyro as bp
from blob_pyro.cli import main
from blob_pyro.config.sections import ModelConfig
from blob_pyro.errors import ConfigError
from blob_pyro.runs.answerer import device_map_of
from blob_pyro.runs.build import own_device
from blob_pyro.system.launchers import num_launched, refuse_device_map

REFUSED = {
    "ACCELERATE_USE_FSDP=true": "no FSDP of accelerate's; got ACCELERATE_USE_FSDP=true: .*model.shard_base: true",
    "ACCELERATE_USE_DEEPSPEED=true": "no DeepSpeed; .*model.shard_base: true",
    "ACCELERATE_USE_MEGATRON_LM=true": "no Megatron-LM; .*model.shard_base: true",
    "ACCELERATE_USE_PARALLELISM_CONFIG=true": "no parallelism_config; .*model.shard_base: true",
    "ACCELERATE_DYNAMO_BACKEND=INDUCTOR": "no compilation; got .*=INDUCTOR: .*--dynamo_backend no",
    "ACCELERATE_SAGEMAKER_DISTRIBUTED_TYPE=DATA_PARALLEL": "SageMaker's distributed_type 'NO'; got .*=DATA_PARALLEL: ",
    "ACCELERATE_IN_TPU_POD=1": "GPUs or CPUs; got ACCELERATE_IN_TPU_POD=1: ",
    "ACCELERATE_MIXED_PRECISION=fp8": "mixed_precision no, bf16 or fp16; got ACCELERATE_MIXED_PRECISION=fp8: ",
    "ACCELERATE_CPU_AFFINITY=1": "several processes for enable_cpu_affinity; got one, .*numactl",
    "ACCELERATE_MIXED_PRECISION=no MASTER_ADDR=127.0.0.1": "the processes that it was told of .*; got this one alone",
}
NOTHING = "ACCELERATE_MIXED_PRECISION=no ACCELERATE_DYNAMO_BACKEND=NO ACCELERATE_USE_CPU=False"


@pytest.fixture
def tell(monkeypatch):
    """Put what a launcher hands over into the environment: NAME=VALUE NAME=VALUE."""

    def put(words: str) -> None:
        for word in words.split():
            monkeypatch.setenv(*word.split("=", 1))

    return put


def fit_words(folder: Path, **sections) -> list[str]:
    """A run of a base that is not there, which nobody notices yet."""
    config = tiny.write_yaml(folder / "own.yaml", tiny.settings(folder, folder / "absent", **sections))
    return ["fit", str(config), "--quiet"]


@pytest.mark.slow
@pytest.mark.parametrize("words", REFUSED)
@pytest.mark.parametrize("command", ["fit", "predict"])
def test_what_is_not_done_here_is_refused_before_anything_is_written(words, command, tell, tmp_path, capfd):
    tell(words)
    started = fit_words(tmp_path) if command == "fit" else ["predict", str(tmp_path / "absent"), "items.jsonl"]
    assert main(started) == 2
    with pytest.raises(ConfigError, match=f"^accelerate: expected {REFUSED[words]}"):
        raise ConfigError(capfd.readouterr().err.removeprefix("blob-pyro: error: "))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", REFUSED)
def test_it_is_refused_to_a_script_too(words, tell):
    tell(words)
    model = model_for("mle")
    with pytest.raises(ConfigError, match=REFUSED[words]):
        bp.fit(model, bp.guides.MLEGuide(model), [make_batch()], bp.TrainConfig(num_steps=1), progress=False)


DIFFERENT = [
    ("ACCELERATE_MIXED_PRECISION=bf16", {}, "mixed_precision: expected bf16, .* got no: .*--mixed_precision no"),
    ("ACCELERATE_MIXED_PRECISION=bf16", {"mixed_precision": "fp16"}, "mixed_precision: expected bf16, .* got fp16: "),
    (
        "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4", {"gradient_accumulation_steps": 2},
        "gradient_accumulation_steps: expected 4, .* got 2: .*--gradient_accumulation_steps 1",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("words", "train", "told"), DIFFERENT)
def test_settings_that_differ_are_refused(words, train, told, tell, tmp_path, capfd):
    tell(words)
    assert main(fit_words(tmp_path, train=train)) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match=f"^train.{told}"):
        raise ConfigError(err.removeprefix("blob-pyro: error: "))
    model = model_for("mle")
    with pytest.raises(ConfigError, match=f"^train.{told}"):
        bp.fit(model, bp.guides.MLEGuide(model), [make_batch()], bp.TrainConfig(num_steps=1, **train), progress=False)


@pytest.mark.parametrize(
    ("words", "train"),
    [
        (NOTHING, {}),
        (NOTHING, {"mixed_precision": "bf16", "gradient_accumulation_steps": 2}),
        ("ACCELERATE_MIXED_PRECISION=bf16", {"mixed_precision": "bf16"}),
        ("ACCELERATE_GRADIENT_ACCUMULATION_STEPS=2", {"gradient_accumulation_steps": 2}),
    ],
)
def test_settings_that_agree_or_are_not_given_train_as_without_a_launcher(words, train, tell):
    def nlls():
        model = model_for("mle")
        config = bp.TrainConfig(num_steps=2, kl_cycle=2, **train)
        history = bp.fit(model, bp.guides.MLEGuide(model), [make_batch()], config, progress=False)
        return [result.nll for result in history]

    alone = nlls()
    tell(words)
    assert nlls() == alone


def test_a_command_that_is_not_shared_is_refused_to_several_processes(tell, tmp_path, capfd):
    tell("WORLD_SIZE=2 RANK=1 LOCAL_RANK=1")
    assert main(["predict", str(tmp_path / "absent"), "items.jsonl"]) == 2
    told = "expected one process, for predict is not shared by several; got 2 of a launcher: start it alone"
    assert capfd.readouterr().err == f"blob-pyro: error: {told}\n"


def test_processes_of_mpirun_count_where_accelerate_started_them_on_cpus(tell):
    tell("PMI_SIZE=2 OMPI_COMM_WORLD_SIZE=3")  # srun's, of processes that may know nothing of each other
    assert num_launched() == 1
    tell("ACCELERATE_MIXED_PRECISION=no ACCELERATE_USE_CPU=True")
    assert num_launched() == 3


def test_the_cpu_is_taken_where_accelerate_was_told_to(tell, tmp_path):
    assert own_device(ModelConfig(quantization="4bit")) is None
    refuse_device_map("cuda")
    run = tmp_path / "run"
    run.mkdir()
    tiny.write_yaml(run / "config.yaml", {"model": {"device_map": "cpu"}, "data": {"task": "tweets"}})
    assert device_map_of(run) == "cpu"
    tell("ACCELERATE_USE_CPU=True")
    assert device_map_of(run) is None
    assert own_device(ModelConfig(quantization="4bit")) == {"": "cpu"}  # which goes to a GPU by itself
    for own in (None, "cpu", {"": "cpu"}):
        refuse_device_map(own)
    with pytest.raises(ConfigError, match=r"model.device_map: expected cpu, or null, .*; got auto: leave one of them"):
        refuse_device_map("auto")


def test_processes_that_nothing_has_connected_are_told(tell):
    tell("WORLD_SIZE=2 RANK=0 LOCAL_RANK=0")
    model = model_for("mle")
    with pytest.warns(UserWarning, match="has started 2 processes that nothing has connected: each trains alone"):
        bp.fit(model, bp.guides.MLEGuide(model), [make_batch()], bp.TrainConfig(num_steps=1), progress=False)


def test_an_accelerator_with_other_settings_is_told():
    accelerate.Accelerator(cpu=True, mixed_precision="bf16", gradient_accumulation_steps=4)
    try:
        model = model_for("mle")
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            bp.fit(model, bp.guides.MLEGuide(model), [make_batch()], bp.TrainConfig(num_steps=1), progress=False)
        assert [str(warning.message).partition(" has ")[2] for warning in told] == [
            f"{name}, which acts on what it prepares alone; this training has {own}"
            for name, own in (
                ("mixed_precision=bf16", "mixed_precision=no"),
                ("gradient_accumulation_steps=4", "gradient_accumulation_steps=1"),
            )
        ]
        same = bp.TrainConfig(num_steps=4, batch_size=4, mixed_precision="bf16", gradient_accumulation_steps=4)
        bp.fit(model, bp.guides.MLEGuide(model), [make_batch()], same, progress=False)
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
