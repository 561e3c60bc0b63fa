"""Any PEFT LoRA adapter is a start (`model.adapter`); one that cannot be Bayesian is refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers as tf
from peft import IA3Config, LoHaConfig, LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

import blob_pyro as bp
from blob_pyro.cli import main
from blob_pyro.errors import RunDirectoryError, UnsupportedPosteriorError
from blob_pyro.storage import put_on, read_adapter

STILL = ("--train.lr", "1e-30", "--train.kl_lr", "0", "--train.num_steps", "1")


def base() -> Any:
    return tf.AutoModelForCausalLM.from_pretrained(tiny.llama())


def adapter(folder: Path, config: Any) -> Path:
    """A trained adapter (none of its tensors is zero), saved by PEFT."""
    network = get_peft_model(base(), config)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.requires_grad and "lora_B" in name:
                parameter.normal_(0, 0.2)
    network.save_pretrained(str(folder), save_embedding_layers=False)
    return folder


def fit(tmp_path: Path, folder: Path, *words: str) -> int:
    raw = tiny.settings(tmp_path, tiny.llama(), model={"adapter": str(folder)})
    return main(["fit", str(tiny.write_yaml(tmp_path / "c.yaml", raw)), "--quiet", *words])


def logits(network: Any) -> torch.Tensor:
    with torch.no_grad():
        return network.eval()(input_ids=torch.arange(5, 25)[None]).logits


SERVED: dict[str, dict[str, Any]] = {
    "other rank and layers": {"r": 3, "lora_alpha": 7, "target_modules": ["k_proj", "o_proj", "up_proj"]},
    "all linear": {"r": 2, "target_modules": "all-linear"},
    "a pattern": {"r": 2, "target_modules": r".*\.1\.self_attn\.(q|v)_proj"},
    "rslora": {"r": 4, "lora_alpha": 4, "use_rslora": True, "target_modules": ["q_proj"]},
    "ranks by layer": {
        "r": 2, "rank_pattern": {"layers.0.*": 4}, "alpha_pattern": {"layers.0.*": 16}, "target_modules": ["q_proj"],
    },
    "some blocks": {"r": 2, "layers_to_transform": [1], "target_modules": ["q_proj", "v_proj"]},
    "biases of B": {"r": 2, "lora_bias": True, "target_modules": ["q_proj"]},
    "output layer": {"r": 2, "target_modules": ["q_proj", "lm_head"]},
    "dropout": {"r": 2, "lora_dropout": 0.1, "target_modules": ["q_proj"]},
    "a trained head": {"r": 2, "target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed", "ignore:Adapter 'default'. 2 LoRA tensor")  # PEFT
@pytest.mark.parametrize("name", list(SERVED))
def test_a_run_starts_from_it_and_exports_it(name: str, tmp_path: Path) -> None:
    """The run's adapter gives the logits of the one it started from, and so does its export."""
    folder = adapter(tmp_path / "theirs", LoraConfig(task_type="CAUSAL_LM", **SERVED[name]))
    assert fit(tmp_path, folder, *STILL) == 0
    expected = logits(PeftModel.from_pretrained(base(), str(folder)))
    assert not torch.allclose(expected, logits(base()), atol=1e-3)
    for place in (tmp_path / "run" / "adapter", bp.export(tmp_path / "run", "mean")):
        torch.testing.assert_close(logits(PeftModel.from_pretrained(base(), str(place))), expected, rtol=0, atol=1e-5)


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "dora": (
        lambda: LoraConfig(use_dora=True, target_modules=["q_proj"]),
        "expected plain LoRA; got the variant DoraLinearVariant; turn it off in LoraConfig",
    ),
    "embedding": (
        lambda: LoraConfig(target_modules=["embed_tokens"]),
        "expected a LoRA layer that calls lora_A (Linear, Conv1D, bitsandbytes 8-bit or 4-bit); got layer.Embedding",
    ),
    "ia3": (
        lambda: IA3Config(target_modules=["k_proj"], feedforward_modules=[]),
        "expected a LoRA adapter (peft_type LORA); got 'IA3'; take a LoRA adapter",
    ),
    "loha": (
        lambda: LoHaConfig(target_modules=["k_proj"]),
        "expected a LoRA adapter (peft_type LORA); got 'LOHA'",
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_what_cannot_be_bayesian_is_refused(name: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    make, message = REFUSED[name]
    folder = adapter(tmp_path / "theirs", make())
    capfd.readouterr()
    assert fit(tmp_path, folder) == 2
    out, err = capfd.readouterr()
    assert message in err and err.count("\n") == 1 and "Traceback" not in out + err
    assert not (tmp_path / "run").exists()


def test_a_pickled_adapter_is_read_as_tensors(tmp_path: Path) -> None:
    """adapter_model.bin, as older versions of PEFT wrote it."""
    folder = adapter(tmp_path / "theirs", LoraConfig(target_modules=["q_proj"]))
    expected = logits(PeftModel.from_pretrained(base(), str(folder)))
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    assert torch.equal(logits(put_on(read_adapter(folder), base())), expected)


def test_tensors_without_a_place_are_told(tmp_path: Path) -> None:
    """PEFT drops them without a word."""
    folder = adapter(tmp_path / "theirs", LoraConfig(target_modules=["q_proj"]))
    tensors = load_file(folder / "adapter_model.safetensors")
    key = next(iter(tensors))
    more = {key.replace("layers.0", "layers.7"): tensors[key].clone()}
    save_file(tensors | more, folder / "adapter_model.safetensors")
    with pytest.warns(UserWarning, match=r"1 of 5 tensors have no place in the network and are left out \(.*layers.7"):
        put_on(read_adapter(folder), base())


def test_a_module_to_import_is_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """PEFT imports what megatron_core names."""
    folder = adapter(tmp_path / "theirs", LoraConfig(target_modules=["q_proj"]))
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"megatron_config": {}, "megatron_core": "this"}))
    assert fit(tmp_path, folder) == 2
    assert "expected an adapter that imports nothing; got megatron_config" in capfd.readouterr().err
    with pytest.raises(
        RunDirectoryError, match="expected adapter_model.safetensors or adapter_model.bin in the folder"
    ):
        (folder / "adapter_model.safetensors").unlink()
        file.write_text(json.dumps({"peft_type": "LORA"}))
        read_adapter(folder)


def test_the_code_of_a_base_is_not_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A model folder with code of its own is refused, without a question at the terminal."""
    folder = tmp_path / "coded"
    base().save_pretrained(folder)
    tf.AutoTokenizer.from_pretrained(tiny.llama()).save_pretrained(folder)
    marker = tmp_path / "executed"
    (folder / "code.py").write_text(f"open({str(marker)!r}, 'w').close()\nclass Config: pass\nclass Model: pass\n")
    config = json.loads((folder / "config.json").read_text())
    capfd.readouterr()
    names = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "coded", "auto_map": names}))
    raw = tiny.settings(tmp_path, folder)
    assert main(["fit", str(tiny.write_yaml(tmp_path / "c.yaml", raw)), "--quiet"]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1 and "has code of its own, which is never run; take another" in err, err
    assert not marker.exists()


@pytest.mark.filterwarnings("ignore:`lora_bias=True` was passed", "ignore:Adapter 'default'. 2 LoRA tensor")  # PEFT
def test_what_peft_cannot_merge_is_one_line(tmp_path: Path) -> None:
    folder = adapter(tmp_path / "theirs", LoraConfig(task_type="CAUSAL_LM", **SERVED["biases of B"]))
    assert fit(tmp_path, folder, *STILL) == 0
    with pytest.raises(UnsupportedPosteriorError, match="expected an adapter that PEFT can merge; it says: ") as caught:
        bp.export(tmp_path / "run", "merged")
    assert "\n" not in str(caught.value) and not (tmp_path / "run" / "export").exists()
