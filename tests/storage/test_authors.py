"""Checkpoints of BLoB's public code: its noise, written out by hand, is the posterior that is loaded."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from cases import ANSWERS, base_folder, make_batch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from torch import Tensor, nn

import blob_pyro as bp
from blob_pyro.cli import main
from blob_pyro.errors import BlobPyroError, ConfigError, RunDirectoryError
from blob_pyro.model.loading import BaseSource, load_base

R, ALPHA = 4, 8


def authors_network() -> Any:
    """What the public code trains: a PEFT model with a ParameterDict lora_A_rho in each LoRA layer."""
    base = load_base(BaseSource(str(base_folder())), bp.MultipleChoice(ANSWERS))
    network = get_peft_model(base, LoraConfig(r=R, lora_alpha=ALPHA, target_modules=["q_proj", "v_proj"]))
    generator = torch.Generator().manual_seed(0)
    for module in list(network.modules()):
        if hasattr(module, "lora_A") and "default" in module.lora_A:
            shape = module.lora_A["default"].weight.shape
            rho = torch.empty(shape).uniform_(0.05 / 2**0.5, 0.05, generator=generator)
            module.lora_A_rho = nn.ParameterDict({"default": nn.Parameter(3 * rho)})
            with torch.no_grad():
                module.lora_B["default"].weight.normal_(0, 0.3, generator=generator)
    return network.eval()


def write(
    folder: Path, network: Any, *, safe: bool = True, named: bool = False, config: dict[str, Any] | None = None
) -> Path:
    """Save as the public code does: PEFT's names without the adapter's, or (named) as in the state dict."""
    folder.mkdir(parents=True)
    network.peft_config["default"].save_pretrained(str(folder))
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | (config or {})))
    tensors = {
        (key if named else key.replace(".default", "")): value.detach().clone()
        for key, value in network.state_dict().items()
        if "lora_" in key
    }
    if safe:
        save_file(tensors, folder / "adapter_model.safetensors")
    else:
        torch.save(tensors, folder / "adapter_model.bin")
    return folder


def load(folder: Path, **settings: Any) -> bp.Run:
    return bp.load_authors_checkpoint(folder, str(base_folder()), bp.MultipleChoice(ANSWERS), num_data=40, **settings)


def layers(network: Any) -> dict[str, Any]:
    return {f"{name}.lora_A": m for name, m in network.named_modules() if hasattr(m, "lora_A_rho")}


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("safe", [True, False])
def test_mean_and_spread_are_theirs(safe: bool, named: bool, tmp_path: Path) -> None:
    """Omega is rho squared; B and the scaling are PEFT's; the logits of the mean bit for bit."""
    network = authors_network()
    run = load(write(tmp_path / "theirs", network, safe=safe, named=named))
    assert run.model.sites.keys() == layers(network).keys()
    for site, layer in layers(network).items():
        assert torch.equal(run.guide.loc(site), layer.lora_A["default"].weight)
        assert torch.equal(run.guide.scale(site), layer.lora_A_rho["default"] ** 2)
    batch = make_batch()
    with torch.no_grad():
        ids = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        assert torch.equal(run.model.network(**ids).logits, network(**ids).logits)


def their_noise(layer: Any, x: Tensor, epsilon: Tensor, r: Tensor, s: Tensor) -> Tensor:
    """What their forward adds at one layer, from its formula: ((x * r) (rho^2 * eps)^T * s) B^T * scaling."""
    noise = layer.lora_A_rho["default"] ** 2 * epsilon
    return (((x * r) @ noise.T) * s) @ layer.lora_B["default"].weight.T * layer.scaling["default"]


def test_a_draw_is_their_noise(tmp_path: Path) -> None:
    """Their forward without sign flips, and the layer under the draw M + rho^2 eps, on the same input."""
    network = authors_network()
    run = load(write(tmp_path / "theirs", network))
    for site, layer in layers(network).items():
        x = torch.randn(3, 5, layer.in_features)
        epsilon = torch.randn(R, layer.in_features)
        draw = run.guide.loc(site) + run.guide.scale(site) * epsilon
        ones = torch.ones(()), torch.ones(())
        theirs = layer(x) + their_noise(layer, x, epsilon, *ones)
        ours = layer.base_layer(x) + layer.scaling["default"] * (x @ draw.T) @ layer.lora_B["default"].weight.T
        torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


def test_it_becomes_a_run_and_trains_on(tmp_path: Path) -> None:
    run = load(write(tmp_path / "theirs", authors_network()), prior_scale=0.3)
    bp.save(tmp_path / "run", run.model, run.guide)
    again = bp.load(tmp_path / "run")
    assert again.model.prior_scale == 0.3 and again.model.num_data == 40
    assert all(torch.equal(again.guide.scale(site), run.guide.scale(site)) for site in run.model.sites)
    before = {site: again.guide.scale(site).clone() for site in run.model.sites}
    bp.BLoBSVI(again.model, again.guide).step(make_batch())
    assert all(not torch.equal(again.guide.scale(site), before[site]) for site in run.model.sites)


def test_softplus_where_it_was_trained_so(tmp_path: Path) -> None:
    """bayes_eps below 0: rho starts far below 0, and the standard deviation is log(1 + e^rho)."""
    network = authors_network()
    with torch.no_grad():
        for layer in layers(network).values():
            layer.lora_A_rho["default"].sub_(5)
    folder = write(tmp_path / "theirs", network)
    with pytest.raises(ConfigError, match="expected lora_A_rho that is squared, mostly above 0; got most of it below"):
        load(folder)
    run = load(folder, scale="softplus")
    for site, layer in layers(network).items():
        assert torch.equal(run.guide.scale(site), nn.functional.softplus(layer.lora_A_rho["default"]))
    with pytest.raises(ConfigError, match="scale: expected one of square, softplus; got 'exp'"):
        load(folder, scale="exp")


def test_what_their_configuration_says_more_is_told(tmp_path: Path) -> None:
    """Another name for the kind, and keys that PEFT does not know."""
    config = {"peft_type": "BLOB", "bayes_eps": 0.05, "bayes_beta": 0.2, "unset": None}
    folder = write(tmp_path / "theirs", authors_network(), config=config)
    with pytest.warns(UserWarning, match="PEFT does not know the settings bayes_beta, bayes_eps; left out"):
        run = load(folder)
    assert len(run.model.sites) == 4


def break_shape(tensors: dict[str, Tensor]) -> None:
    key = next(key for key in tensors if key.endswith("lora_A_rho"))
    tensors[key] = tensors[key][:2].clone()


def break_nan(tensors: dict[str, Tensor]) -> None:
    next(value for key, value in tensors.items() if key.endswith("lora_A_rho"))[0, 0] = float("nan")


def lose_one(tensors: dict[str, Tensor]) -> None:
    del tensors[next(key for key in tensors if key.endswith("lora_A_rho"))]


def lose_all(tensors: dict[str, Tensor]) -> None:
    for key in [key for key in tensors if key.endswith("lora_A_rho")]:
        del tensors[key]


def lose_A(tensors: dict[str, Tensor]) -> None:
    del tensors[next(key for key in tensors if key.endswith("lora_A.weight"))]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_shape, r"expected finite lora_A_rho of shape \(4, 64\) at .*q_proj.lora_A; got \(2, 64\)"),
        (break_nan, r"got \(4, 64\) with values that are not finite"),
        (lose_one, "expected lora_A_rho for every random site; got none for base_model"),
        (lose_all, "expected lora_A_rho beside lora_A, as BLoB's public code saves it; got a plain adapter; start"),
        (lose_A, "expected an adapter for this base model; PEFT says: Found missing adapter keys"),
    ],
)
def test_a_damaged_checkpoint_is_one_line(damage: Any, message: str, tmp_path: Path) -> None:
    network = authors_network()
    folder = write(tmp_path / "theirs", network)
    tensors = {k.replace(".default", ""): v.detach().clone() for k, v in network.state_dict().items() if "lora_" in k}
    damage(tensors)
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(RunDirectoryError, match=message) as caught:
        load(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


class Bomb:
    """Writes a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("save", [torch.save, lambda value, file: file.write_bytes(pickle.dumps(value))])
def test_nothing_in_a_pickle_is_executed(save: Any, tmp_path: Path) -> None:
    folder = write(tmp_path / "theirs", authors_network(), safe=False)
    marker = tmp_path / "executed"
    save({"base_model.x.lora_A.weight": Bomb(marker)}, folder / "adapter_model.bin")
    with pytest.raises(RunDirectoryError, match="adapter_model.bin: expected the tensors of an adapter; it cannot be"):
        load(folder)
    assert not marker.exists()
    torch.save([1, 2], folder / "adapter_model.bin")
    with pytest.raises(RunDirectoryError, match="adapter_model.bin: expected tensors by name; got something else"):
        load(folder)


def fit_from(folder: Path, tmp_path: Path, *words: str) -> int:
    raw = tiny.settings(tmp_path, base_folder(), model={"adapter": str(folder)}, data={"labels": ["w5", "w7"]})
    rows = [{"text": f"w{i + 9} w{i + 11}", "label": ("w5", "w7")[i % 2]} for i in range(6)]
    for name in ("train", "test"):
        tiny.write_jsonl(tmp_path / f"{name}.jsonl", rows)
    return main(["fit", str(tiny.write_yaml(tmp_path / "c.yaml", raw)), "--quiet", *words])


def test_a_run_starts_from_their_posterior(tmp_path: Path) -> None:
    """With a learning rate of next to nothing the run ends where theirs did."""
    network = authors_network()
    folder = write(tmp_path / "theirs", network, safe=False)
    still = ("--train.lr", "1e-30", "--train.kl_lr", "0", "--train.num_steps", "1")
    assert fit_from(folder, tmp_path, *still) == 0
    run = bp.load(tmp_path / "run")
    for site, layer in layers(network).items():
        torch.testing.assert_close(run.guide.loc(site), layer.lora_A["default"].weight.detach())
        torch.testing.assert_close(run.guide.scale(site), (layer.lora_A_rho["default"] ** 2).detach())


@pytest.mark.filterwarnings("default:.*its spread")
def test_another_guide_says_that_the_spread_is_left_out(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = write(tmp_path / "theirs", authors_network())
    assert fit_from(folder, tmp_path, "--guide.name", "mle") == 0
    assert "its spread (lora_A_rho) is left out: only the guide blob starts from one" in capfd.readouterr().err


def test_the_base_named_in_a_checkpoint_is_not_read(tmp_path: Path) -> None:
    """base_model_name_or_path of a stranger's file leads nowhere."""
    folder = write(tmp_path / "theirs", authors_network(), config={"base_model_name_or_path": "/etc/passwd"})
    run = load(folder)
    bp.save(tmp_path / "run", run.model, run.guide)
    assert "/etc/passwd" not in (tmp_path / "run" / "adapter" / "adapter_config.json").read_text()
    with pytest.raises(
        BlobPyroError, match="expected adapter_config.json in the folder of an adapter; it is not there"
    ):
        load(tmp_path)
