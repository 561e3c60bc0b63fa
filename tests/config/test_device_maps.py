"""Where a base goes: what is refused in one line, and that a run comes back without the device it was trained on."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers as tf
import yaml
from cases import base_folder, make_batch, pretrained

import blob_pyro as bp
from blob_pyro.cli import main
from blob_pyro.config.device_maps import check_device_map, missing_device, refuse_offloaded
from blob_pyro.errors import ConfigError
from blob_pyro.runs.build import own_device
from blob_pyro.storage.directory import read_config

MAPS: list[Any] = ["cpu", {"": "cpu"}, {"model": "cpu", "lm_head": "cpu"}, torch.device("cpu"), "auto", "sequential"]
BASES = {
    "float32": {},
    "bfloat16": {"dtype": "bfloat16"},
    "8bit": {"quantization": "8bit", "llm_int8_threshold": 0.0},
    "4bit": {"quantization": "4bit"},
}


@pytest.mark.slow
@pytest.mark.parametrize(("base", "device_map"), list(itertools.product(BASES, MAPS)), ids=repr)
def test_a_base_on_the_cpu_is_the_same_however_it_got_there(base: str, device_map: Any, tmp_path: Path) -> None:
    """Logits, a step and what is saved are bit-equal to those of a base that was loaded without a map."""
    batch, found = make_batch(), []
    for place in (None, device_map):
        torch.manual_seed(0)
        model = pretrained(device_map=place, **BASES[base])
        guide = bp.BLoBGuide(model)
        result = bp.BLoBSVI(model, guide, lr=1e-2).step(batch)
        model.network.eval()
        bp.save(tmp_path / str(place), model, guide)
        run = bp.load(tmp_path / str(place), device_map=device_map)
        run.model.network.eval()
        assert torch.equal(run.model.logits(batch), model.logits(batch))
        found.append((result.loss, model.logits(batch), (tmp_path / str(place) / "posterior.safetensors").read_bytes()))
        assert "device" not in (tmp_path / str(place) / "posterior.json").read_text()
    (loss, logits, posterior), (other_loss, other_logits, other_posterior) = found
    assert loss == other_loss and torch.equal(logits, other_logits) and posterior == other_posterior


@pytest.mark.parametrize("value", [None, *MAPS, "balanced", "balanced_low_0", "cuda", "cuda:3", "mps", 0, {"a": 1}])
def test_what_may_be_a_device_map(value: Any) -> None:
    """Whether its devices are here is asked when a base is loaded, not when a configuration is read."""
    check_device_map(value)
    if not isinstance(value, torch.device):
        assert bp.ModelConfig(device_map=value).device_map == value


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("gpu", "expected a device (cpu, cuda, cuda:0), auto, balanced, .*, or devices by name of a module; got 'gpu'"),
        ("", "got ''"),
        (-1, "got -1"),
        (True, "got True"),
        (1.5, "got 1.5"),
        ({}, "got {}"),
        ({"model": "auto"}, "got {'model': 'auto'}"),
        ({"": None, "a": "x"}, "got {'': None, 'a': 'x'}"),
        (
            "disk",
            "expected devices that hold the weights; got 'disk': training cannot work with weights that are not in",
        ),
        ({"model": "cpu", "lm_head": "disk"}, "got 'disk'"),
        ("meta", "got 'meta'"),
    ],
)
def test_what_may_not(value: Any, message: str) -> None:
    pattern = message.replace("(", r"\(").replace(")", r"\)").replace("{", r"\{")
    for attempt in (
        lambda: bp.ModelConfig(device_map=value),
        lambda: pretrained(device_map=value),
    ):
        with pytest.raises(ConfigError, match=rf"^(model\.)?device_map: .*{pattern}") as told:
            attempt()
        assert "\n" not in str(told.value)


def test_a_device_that_is_not_here_is_named_with_those_that_are(tmp_path: Path) -> None:
    for value, missing in (("cuda:99", "cuda:99"), (99, "cuda:99"), ({"": "cpu", "lm_head": "cuda:99"}, "cuda:99")):
        assert missing_device(value) == missing
        with pytest.raises(
            ConfigError, match=rf"device_map: expected devices of this machine \(cpu.*\); got {missing}$"
        ):
            pretrained(device_map=value)
    model = pretrained()
    bp.save(tmp_path, model, bp.BLoBGuide(model))
    with pytest.raises(ConfigError, match="expected devices of this machine"):
        bp.load(tmp_path, device_map="cuda:99")
    with pytest.raises(ConfigError, match="device_map: expected none beside a base"):
        bp.load(tmp_path, base=model.network.get_base_model(), device_map="cpu")


def test_weights_that_accelerate_offloads_are_refused(tmp_path: Path) -> None:
    """As a strategy leaves them where memory is short."""
    network = tf.AutoModelForCausalLM.from_pretrained(
        base_folder(), device_map={"model": "cpu", "lm_head": "disk"}, offload_folder=str(tmp_path)
    )
    with pytest.raises(
        ConfigError, match=r"got \d+ of its tensors offloaded \(\S+\): training cannot work with"
    ) as told:
        refuse_offloaded(network)
    assert "\n" not in str(told.value)
    refuse_offloaded(tf.AutoModelForCausalLM.from_pretrained(base_folder(), device_map="auto"))


def test_a_name_that_is_no_module_is_refused() -> None:
    """transformers would pass over it, and put that part wherever."""
    with pytest.raises(ConfigError, match=r"^device_map: expected names of modules \(.*\); got 'modell'$") as told:
        pretrained(device_map={"modell": "cpu", "lm_head": "cpu"})
    assert "(model, lm_head, or parts of these)" in str(told.value)
    pretrained(device_map={"model.embed_tokens": "cpu", "model.layers.0.mlp": "cpu", "": "cpu"})


@pytest.mark.parametrize(
    ("gpu", "environment", "shard_base", "expected"),
    [
        (False, {}, False, None),
        (True, {}, False, {"": "cuda:0"}),
        (True, {"LOCAL_RANK": "3"}, False, {"": "cuda:3"}),
        (True, {"ACCELERATE_USE_CPU": "true"}, False, None),
        (True, {}, True, None),
    ],
)
def test_without_a_map_a_command_takes_its_gpu(
    gpu: bool, environment: dict[str, str], shard_base: bool, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What would be chosen on such a machine; no GPU is asked for anything."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    for name in ("LOCAL_RANK", "ACCELERATE_USE_CPU"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert own_device(bp.ModelConfig(shard_base=shard_base)) == expected


@pytest.mark.slow
@pytest.mark.filterwarnings("default:.*which is not here")
def test_a_run_is_answered_where_its_device_is_not_there(tmp_path: Path, monkeypatch, capfd) -> None:
    """A map in the configuration reaches the base; evaluate, predict and generate fall back, and say so."""
    monkeypatch.chdir(tmp_path)
    raw = tiny.settings(tmp_path, tiny.llama(), model={"device_map": {"": "cpu"}})
    assert main(["fit", str(tiny.write_yaml(tmp_path / "a.yaml", raw)), "--quiet"]) == 0
    scores = [line for line in capfd.readouterr().out.splitlines() if line.startswith("| N=")]
    assert read_config("run").model.device_map == {"": "cpu"}
    assert main(["evaluate", "run", "--quiet"]) == 0
    out, err = capfd.readouterr()
    assert [line for line in out.splitlines() if line.startswith("| N=")] == scores and "not here" not in err
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    config["model"]["device_map"] = "cuda:99"
    tiny.write_yaml(Path("run/config.yaml"), config)
    told = "warning: run: the run was trained on cuda:99 (model.device_map), which is not here: loaded as without it\n"
    assert main(["evaluate", "run", "--quiet"]) == 0
    out, err = capfd.readouterr()
    assert [line for line in out.splitlines() if line.startswith("| N=")] == scores and told in err
    for words in (["predict", "run", "test.jsonl", "--quiet"], ["generate", "run", "Tweet:", "--max_new_tokens", "2"]):
        assert main(words) == 0
        assert told in capfd.readouterr().err
    raw |= {"output": "new"}
    file = str(tiny.write_yaml(tmp_path / "a.yaml", raw))
    assert main(["fit", file, "--quiet", "--model.device_map", "cuda:99"]) == 2
    assert capfd.readouterr().err.endswith("device_map: expected devices of this machine (cpu); got cuda:99\n")
    assert main(["fit", file, "--quiet", "--model.device_map", "gpu"]) == 2
    assert capfd.readouterr().err.startswith(
        "blob-pyro: error: model.device_map: expected a device (cpu, cuda, cuda:0)"
    )
    assert not Path("new").exists()


@pytest.mark.slow
def test_a_trained_adapter_starts_on_a_map_too(tmp_path: Path) -> None:
    """`model.adapter` has a road of its own through the loading."""
    raw = tiny.settings(tmp_path, tiny.llama())
    assert main(["fit", str(tiny.write_yaml(tmp_path / "a.yaml", raw)), "--quiet"]) == 0
    raw |= {"model": raw["model"] | {"adapter": str(tmp_path / "run" / "adapter"), "device_map": "cuda:99"}}
    raw["output"] = str(tmp_path / "again")
    assert main(["fit", str(tiny.write_yaml(tmp_path / "b.yaml", raw)), "--quiet"]) == 2
    assert main(["fit", str(tmp_path / "b.yaml"), "--quiet", "--model.device_map", "cpu"]) == 0
