"""An adapter where a base model is expected: its folder, a run, a folder of several; in one line with the settings."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import tiny
from cases import LLAMA, adapt, causal_base, make_batch, pretrained
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import blob_pyro as bp
from blob_pyro.cli.dispatch import main
from blob_pyro.errors import ModelLoadError, UnsupportedLayerError

LIKELIHOOD = bp.MultipleChoice((5, 17, 40))


def adapter_folder(folder: Path, *, tokenizer: bool = True) -> Path:
    """What Trainer.save_model writes."""
    model = pretrained()
    model.network.save_pretrained(str(folder))
    if tokenizer:
        model.tokenizer.save_pretrained(folder)
    return folder


def refused(id_or_path: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        bp.BayesianLoRA.from_pretrained(str(id_or_path), LIKELIHOOD, target_modules=["k_proj"])
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("tokenizer", [True, False])
def test_an_adapters_folder_names_the_settings(tmp_path: Path, tokenizer: bool) -> None:
    folder = adapter_folder(tmp_path / "lora", tokenizer=tokenizer)
    base = json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"]
    expected = (
        f"expected a base model; got the folder of an adapter: set model.id to {base} and model.adapter to {folder}"
    )
    assert expected in refused(folder)


def test_its_settings_need_not_be_readable(tmp_path: Path) -> None:
    folder = adapter_folder(tmp_path / "lora")
    (folder / "adapter_config.json").write_text("[")
    assert f"set model.id to its base and model.adapter to {folder}" in refused(folder)


def test_a_run_an_export_and_a_trainers_folder(tmp_path: Path) -> None:
    model = pretrained()
    bp.save(tmp_path / "run", model, bp.BLoBGuide(model))
    assert f"set model.id to {model.source.id} and model.adapter to {tmp_path / 'run' / 'adapter'} " in refused(
        tmp_path / "run"
    )
    for step in ("checkpoint-9", "checkpoint-10", "checkpoint-100"):
        shutil.copytree(tmp_path / "run" / "adapter", tmp_path / "trained" / step)
    found = refused(tmp_path / "trained")
    assert f"a folder of 3 adapters: set model.id to {model.source.id} and model.adapter to " in found
    assert f"model.adapter to {tmp_path / 'trained' / 'checkpoint-100'} " in found
    (tmp_path / "export").mkdir()
    shutil.copytree(tmp_path / "run" / "adapter", tmp_path / "export", dirs_exist_ok=True)
    shutil.copy(tmp_path / "run" / "posterior.safetensors", tmp_path / "export")
    assert f"model.adapter to {tmp_path / 'export'} " in refused(tmp_path / "export")


def test_an_exports_name_of_its_base_is_no_path(tmp_path: Path) -> None:
    model = pretrained()
    bp.save(tmp_path / "run", model, bp.BLoBGuide(model))
    bp.export(tmp_path / "run", output=tmp_path / "mean")
    name = Path(model.source.id).name
    assert f"set model.id to {name} (or the folder that holds that) and model.adapter to " in refused(tmp_path / "mean")


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_of_a_model_names_its_folder(tmp_path: Path, name: str) -> None:
    file = Path(pretrained().source.id) / name
    assert refused(file).endswith(f"; this is a file: name its folder, {file.parent}")
    with pytest.raises(ModelLoadError, match="this is a file"):
        bp.load_tokenizer(str(file))


def test_an_adapter_beside_its_base(tmp_path: Path) -> None:
    """transformers would load both."""
    model = pretrained()
    shutil.copytree(model.source.id, tmp_path / "both")
    model.network.save_pretrained(str(tmp_path / "both"))
    assert re.search(
        "got one with the files of an adapter beside it: move adapter_config.json", refused(tmp_path / "both")
    )
    (tmp_path / "both" / "adapter_config.json").unlink()
    bp.BayesianLoRA.from_pretrained(str(tmp_path / "both"), LIKELIHOOD)


def test_a_base_that_transformers_loaded_with_its_adapter(tmp_path: Path) -> None:
    """PEFT would put the new matrices in the place of the trained ones, or beside them."""
    base = AutoModelForCausalLM.from_pretrained(adapter_folder(tmp_path / "lora"))
    with pytest.warns(UserWarning, match="second time|peft_config"):
        network = get_peft_model(base, LoraConfig(target_modules=["k_proj"], task_type="CAUSAL_LM"))
    with pytest.raises(
        UnsupportedLayerError, match="expected a base without an adapter of its own.*load its base alone"
    ):
        bp.BayesianLoRA(network, LIKELIHOOD)


def test_what_the_message_says_in_python_gives_the_trained_adapter(tmp_path: Path) -> None:
    from peft import PeftModel

    base = causal_base("LlamaForCausalLM", LLAMA)
    trained = adapt(base, ("q_proj", "v_proj"), LIKELIHOOD)
    before = bp.BayesianLoRA(trained, LIKELIHOOD).logits(make_batch())
    trained.save_pretrained(str(tmp_path))
    network = PeftModel.from_pretrained(causal_base("LlamaForCausalLM", LLAMA), str(tmp_path), is_trainable=True)
    assert before.equal(bp.BayesianLoRA(network, LIKELIHOOD).logits(make_batch()))


def test_a_command_ends_before_a_run_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = adapter_folder(tmp_path / "lora", tokenizer=False)
    AutoTokenizer.from_pretrained(tiny.llama()).save_pretrained(folder)
    settings = tiny.settings(tmp_path, folder)
    assert main(["fit", str(tiny.write_yaml(tmp_path / "c.yaml", settings))]) == 2
    assert f"model.adapter to {folder}" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
