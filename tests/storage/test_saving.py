"""The adapter on disk is PEFT's own and holds the posterior mean; a saved run comes back bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import (
    EVERY_GUIDE,
    GUIDES,
    KINDS,
    LLAMA,
    MODELS,
    NUM_DATA,
    QUANTISED,
    WITH_HEAD,
    adapt,
    causal_base,
    fill_B,
    make_batch,
    pretrained,
    trainable,
)
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor

import blob_pyro as bp
from blob_pyro.errors import RunDirectoryError
from blob_pyro.model.layers.inject import find_lora_layers
from blob_pyro.model.likelihoods import MultipleChoice


def trained(name: str, guide_name: str = "blob") -> tuple[bp.BayesianLoRA, Any]:
    """A few noisy steps away from the start, so that nothing is at its initial value."""
    model = (MODELS | QUANTISED)[name]()
    guide = GUIDES[guide_name](model)
    svi = bp.BLoBSVI(model, guide, lr=1e-2)
    for _ in range(2):
        if guide.is_random:
            with bp.flipout():
                svi.step(make_batch())
        else:
            svi.step(make_batch())
    model.network.eval()
    return model, guide


def logits_of(network: Any) -> Tensor:
    """The network's own logits at every position, no library in between."""
    batch = make_batch()
    with torch.no_grad():
        found: Tensor = network(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
    return found


def base_of(name: str) -> Any:
    """The same base network without an adapter."""
    return MODELS[name]().network.unload().eval()


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_plain_peft_loads_the_mean(name: str, tmp_path: Path) -> None:
    """Bit-equal logits at all positions, on a fresh base."""
    model, guide = trained(name)
    bp.save(tmp_path, model, guide)
    plain = PeftModel.from_pretrained(base_of(name), str(tmp_path / "adapter")).eval()
    assert type(next(m for n, m in plain.named_modules() if n.endswith("lora_A.default"))) is torch.nn.Linear
    assert torch.equal(logits_of(plain), logits_of(model.network))
    assert not torch.equal(logits_of(plain), logits_of(base_of(name)))
    with torch.no_grad():
        values = {site: guide.loc(site) for site in model.sites}
        torch.testing.assert_close(model.logits(make_batch(), values), model.logits(make_batch()))


@pytest.mark.parametrize("name", list(MODELS))
def test_adapter_file_holds_nothing_else(name: str, tmp_path: Path) -> None:
    """vLLM, for one, refuses any tensor but lora_A and lora_B (and a classifier's head)."""
    model, guide = trained(name)
    bp.save(tmp_path, model, guide)
    tensors = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    kinds = ("lora_A.weight", "lora_B.weight")
    others = [key for key in tensors if not key.endswith(kinds)]
    assert all("classifier" in key or "score" in key for key in others)
    assert bool(others) is (name in WITH_HEAD)
    assert len(tensors) - len(others) == 2 * len(find_lora_layers(model.network, "default"))
    files = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*") if file.is_file()}
    assert files - {"adapter/README.md"} == {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "posterior.safetensors",
        "posterior.json",
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_disable_unload_and_merge(name: str) -> None:
    """Disabled and unloaded: the base, bit for bit. Merged: what plain PEFT merges, bit for bit.

    Against the unmerged logits merging rounds the weights, 1e-3 in float32; in bfloat16 it only has to be close.
    """
    model, _ = trained(name)
    mean = logits_of(model.network)
    assert torch.equal(logits_of(model.network), mean)  # no noise
    base = logits_of(base_of(name))
    with model.network.disable_adapter():
        assert torch.equal(logits_of(model.network), base)
    assert torch.equal(logits_of(model.network), mean)
    plain = get_peft_model(base_of(name), model.network.peft_config["default"]).eval()
    ours = dict(model.network.named_parameters())
    for key, parameter in plain.named_parameters():
        parameter.data = ours[key].detach().clone()
    assert torch.equal(logits_of(plain), mean)
    merged = logits_of(model.network.merge_and_unload())
    assert torch.equal(merged, logits_of(plain.merge_and_unload()))
    loose = name == "llama_bfloat16"
    if loose:
        assert float((merged - mean).norm() / mean.norm()) < 0.05
    else:
        torch.testing.assert_close(merged, mean, rtol=1e-3, atol=1e-3)
    other, _ = trained(name)
    unloaded = other.network.unload()
    if name not in WITH_HEAD:  # PEFT keeps a trained head when it unloads
        assert torch.equal(logits_of(unloaded), base)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(EVERY_GUIDE))
@pytest.mark.parametrize("quantization", [None, "4bit", "8bit"])
def test_round_trip(name: str, quantization: str | None, tmp_path: Path) -> None:
    """A run loaded from its folder alone: loc, scale, logits, settings and predictions bit-equal."""
    model = pretrained(
        quantization=quantization, llm_int8_threshold=0.0, prior_scale=0.3, bayesian=KINDS[name].bayesian
    )
    guide = EVERY_GUIDE[name](model)
    bp.BLoBSVI(model, guide, lr=1e-2).step(make_batch())
    model.network.eval()
    bp.save(tmp_path / "run", model, guide)
    run = bp.load(tmp_path / "run")
    run.model.network.eval()
    assert type(run.guide) is type(guide) and run.guide.settings() == guide.settings()
    assert run.path == tmp_path / "run"
    assert list(run.model.sites) == list(model.sites)
    assert (run.model.prior_scale, run.model.num_data, run.model.source) == (0.3, NUM_DATA, model.source)
    assert run.model.likelihood.settings() == model.likelihood.settings()
    assert run.model.tokenizer is not None and run.model.tokenizer.pad_token_id == 0
    for site in model.sites:
        assert torch.equal(run.guide.loc(site), guide.loc(site))
        assert torch.equal(run.guide.scale(site), guide.scale(site))
    batch = make_batch()
    assert torch.equal(run.model.logits(batch), model.logits(batch))
    found = []
    for m, g in ((model, guide), (run.model, run.guide)):
        torch.manual_seed(1)
        found.append(bp.PosteriorPredictive(m, g, 3)(batch).draws)
    assert torch.equal(*found)
    assert trainable(run.model.network, run.guide).keys() == trainable(model.network, guide).keys()
    bp.BLoBSVI(run.model, run.guide).step(batch)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(MODELS))
def test_round_trip_with_a_base_in_memory(name: str, tmp_path: Path) -> None:
    model, guide = trained(name)
    bp.save(tmp_path, model, guide)
    bp.save(tmp_path, model, guide)  # over itself
    run = bp.load(tmp_path, base=base_of(name))
    run.model.network.eval()
    batch = make_batch()
    assert torch.equal(run.model.logits(batch), model.logits(batch))
    assert all(torch.equal(run.guide.scale(site), guide.scale(site)) for site in model.sites)


def test_which_are_random_is_restored(tmp_path: Path) -> None:
    model, guide = trained("llama_last_both")
    bp.save(tmp_path, model, guide)
    again = bp.load(tmp_path, base=base_of("llama_last_both")).model
    assert (again.bayesian, again.bayesian_layers) == ("both", [-1])
    assert list(again.sites) == list(model.sites) and len(model.sites) == 6


def test_a_description_without_the_later_keys(tmp_path: Path) -> None:
    """Version 1 as it was first written: A of every layer."""
    model, guide = trained("llama")
    bp.save(tmp_path, model, guide)
    described = json.loads((tmp_path / "posterior.json").read_text())
    del described["bayesian"], described["bayesian_layers"], described["adapters"]
    (tmp_path / "posterior.json").write_text(json.dumps(described))
    run = bp.load(tmp_path, base=base_of("llama"))
    assert (run.model.bayesian, run.model.bayesian_layers) == ("A", None)
    assert list(run.model.sites) == list(model.sites)
    assert all(torch.equal(run.guide.scale(site), guide.scale(site)) for site in model.sites)
    run.model.network.eval()
    assert torch.equal(run.model.logits(make_batch()), model.logits(make_batch()))


def test_adapter_of_another_name(tmp_path: Path) -> None:
    """PEFT puts it into a folder of its own; a second, inactive adapter stays out."""
    likelihood = MultipleChoice((5, 17))
    config = LoraConfig(r=4, target_modules=["q_proj"], task_type=likelihood.task_type)
    network = get_peft_model(causal_base("LlamaForCausalLM", LLAMA), config, adapter_name="opinion")
    network.add_adapter("other", LoraConfig(r=2, target_modules=["v_proj"], task_type=likelihood.task_type))
    network.set_adapter("opinion")
    fill_B(network)
    model = bp.BayesianLoRA(network.eval(), likelihood, num_data=NUM_DATA)
    assert model.adapter == "opinion" and len(model.sites) == 2
    guide = bp.BLoBGuide(model)
    bp.save(tmp_path, model, guide)
    run = bp.load(tmp_path, base=causal_base("LlamaForCausalLM", LLAMA))
    run.model.network.eval()
    assert run.model.adapter == "opinion"
    batch = make_batch()
    assert torch.equal(run.model.logits(batch), model.logits(batch))
    assert not (tmp_path / "adapter" / "other").exists()


def edit(file: str, **changes: Any) -> Callable[[Path], None]:
    """Change entries of a JSON file."""

    def apply(run: Path) -> None:
        described = json.loads((run / file).read_text())
        (run / file).write_text(json.dumps(described | changes))

    return apply


def write(file: str, content: bytes) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        (run / file).write_bytes(content)

    return apply


def remove(file: str) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        (run / file).unlink()

    return apply


def drop_key(run: Path) -> None:
    described = json.loads((run / "posterior.json").read_text())
    del described["prior_scale"]
    (run / "posterior.json").write_text(json.dumps(described))


def other_rank(run: Path) -> None:
    tensors = load_file(run / "posterior.safetensors")
    save_file({key: value[:2].contiguous() for key, value in tensors.items()}, run / "posterior.safetensors")


def changed_posterior(change: Callable[[Tensor], Tensor]) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        file = run / "posterior.safetensors"
        save_file({key: change(value) for key, value in load_file(file).items()}, file)

    return apply


def fewer_tensors(run: Path) -> None:
    tensors = load_file(run / "posterior.safetensors")
    tensors.pop(next(iter(tensors)))
    save_file(tensors, run / "posterior.safetensors")


def other_adapter_rank(run: Path) -> None:
    file = run / "adapter" / "adapter_model.safetensors"
    save_file({k: v[:2].contiguous() if "lora_A" in k else v for k, v in load_file(file).items()}, file)


def fewer_adapter_tensors(run: Path) -> None:
    file = run / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    save_file({key: value for key, value in tensors.items() if "layers.0" in key}, file)


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "no description": (remove("posterior.json"), "expected a run directory with posterior.json; it is not there"),
    "not json": (write("posterior.json", b"{"), "expected the description of a posterior; it cannot be read"),
    "not an object": (write("posterior.json", b"[1]"), "expected a JSON object; got a list"),
    "not text": (write("posterior.json", b"\xff\xfe\x00"), "expected the description of a posterior; it cannot be"),
    "version": (edit("posterior.json", version=99), "expected blob_pyro.posterior version 1; got .* version 99"),
    "format": (edit("posterior.json", format="else"), "expected blob_pyro.posterior version 1; got else version 1"),
    "missing key": (drop_key, "expected the description of a posterior; it is incomplete: prior_scale missing"),
    "guide": (edit("posterior.json", guide={"name": "magic", "settings": {}}), "it is incomplete or altered"),
    "guide settings": (edit("posterior.json", guide={"name": "blob", "settings": {"x": 1}}), "altered"),
    "guide no name": (edit("posterior.json", guide={}), "altered"),
    "guide type": (edit("posterior.json", guide=3), "altered"),
    "likelihood": (edit("posterior.json", likelihood={"name": "MultipleChoice", "settings": {"k": 1}}), "altered"),
    "base": (edit("posterior.json", base={"nowhere": 1}), "altered"),
    "bayesian": (edit("posterior.json", bayesian="C"), "altered .ConfigError: bayesian: expected one of A, B, both"),
    "bayesian layers": (edit("posterior.json", bayesian_layers=[7]), "altered .ConfigError: bayesian_layers: expected"),
    "other layers": (edit("posterior.json", bayesian_layers=[1]), "the parts of this directory come from different"),
    "prior scale": (edit("posterior.json", prior_scale="wide"), "altered"),
    "no adapter": (
        remove("adapter/adapter_model.safetensors"),
        "expected adapter_model.safetensors in the folder of an",
    ),
    "no adapter config": (remove("adapter/adapter_config.json"), "expected adapter_config.json in the folder of"),
    "adapter bytes": (write("adapter/adapter_model.safetensors", b"garbage"), "expected an adapter for this base"),
    "adapter config": (write("adapter/adapter_config.json", b"{"), "expected the settings of an adapter; it cannot be"),
    "adapter config list": (write("adapter/adapter_config.json", b"[]"), "expected a JSON object; got a list"),
    "adapter kind": (edit("adapter/adapter_config.json", peft_type="IA3"), "expected a LoRA adapter .*; got 'IA3'"),
    "adapter that imports": (
        edit("adapter/adapter_config.json", megatron_config={"a": 1}, megatron_core="megatron.evil"),
        "expected an adapter that imports nothing; got megatron_config with megatron_core 'megatron.evil'",
    ),
    "adapter outside": (
        edit("posterior.json", adapter="../../elsewhere"),
        "expected the name of an adapter without a path; got '../../elsewhere'; it was altered",
    ),
    "adapter elsewhere": (edit("posterior.json", adapters=["default", "/etc"]), "without a path; got '/etc'"),
    "adapter rank": (other_adapter_rank, "expected an adapter for this base model"),
    "adapter incomplete": (fewer_adapter_tensors, "expected "),
    "no posterior": (remove("posterior.safetensors"), "expected a safetensors file; it cannot be read"),
    "posterior bytes": (write("posterior.safetensors", b"\x08"), "expected a safetensors file; it cannot be read"),
    "posterior rank": (other_rank, "expected the posterior of this adapter .*; the parts of this directory come from"),
    "posterior incomplete": (fewer_tensors, "expected the posterior of this adapter .4 tensors.; got 3; "),
    "posterior NaN": (changed_posterior(lambda v: v * float("nan")), "expected finite numbers of type float32; "),
    "posterior type": (changed_posterior(lambda v: v.int()), "expected finite numbers of type float32; .* has others"),
    "posterior values": (changed_posterior(lambda v: v + 1), "expected the file as it was saved; its checksum is not"),
    "adapter scaling": (edit("adapter/adapter_config.json", lora_alpha=9), "expected the file as it was saved; its"),
    "adapter huge rank": (edit("adapter/adapter_config.json", r=10**9), "expected ranks from 1 to .*; got 1000000000"),
    "adapter slow search": (
        edit("adapter/adapter_config.json", target_modules="(.+)+x"),
        "expected a regular expression that is searched quickly as target_modules",
    ),
    "token ids": (
        edit("posterior.json", likelihood={"name": "MultipleChoice", "settings": {"token_ids": [1, 10**6]}}),
        "incomplete or altered .*expected token ids from 0 to .*; got 1000000",
    ),
    "NaN in the description": (write("posterior.json", b'{"prior_scale": NaN}'), "NaN is no number"),
    "infinite number in it": (write("posterior.json", b'{"prior_scale": 1e999}'), "1e999 is too large"),
    "deep brackets": (write("posterior.json", b"[" * 100_000), "brackets are nested too deeply"),
}


@pytest.mark.slow
@pytest.mark.parametrize("damage", list(DAMAGES))
def test_damaged_runs_are_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    model = MODELS["llama"]()
    bp.save(tmp_path, model, bp.BLoBGuide(model))
    apply, message = DAMAGES[damage]
    apply(tmp_path)
    with pytest.raises(RunDirectoryError, match=message) as caught:
        bp.load(tmp_path, base=base_of("llama"))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_missing_directory() -> None:
    with pytest.raises(RunDirectoryError, match="expected a run directory with posterior.json; it is not there"):
        bp.load("/nowhere/at/all")


def test_adapter_of_another_base(tmp_path: Path) -> None:
    model = MODELS["llama"]()
    bp.save(tmp_path, model, bp.BLoBGuide(model))
    wider = causal_base("LlamaForCausalLM", LLAMA | {"hidden_size": 64})
    with pytest.raises(RunDirectoryError, match="expected an adapter for this base model; PEFT says: ") as caught:
        bp.load(tmp_path, base=wider)
    assert "\n" not in str(caught.value)


def test_no_pickle(tmp_path: Path) -> None:
    model = MODELS["llama"]()
    bp.save(tmp_path, model, bp.BLoBGuide(model))
    endings = {file.suffix for file in tmp_path.rglob("*") if file.is_file()}
    assert endings <= {".safetensors", ".json", ".md"}


def test_a_trained_plain_adapter_becomes_bayesian(tmp_path: Path) -> None:
    """An adapter that plain PEFT loaded for inference is trainable afterwards, at the same mean."""
    network = adapt(causal_base("LlamaForCausalLM", LLAMA), ("q_proj", "v_proj"), MultipleChoice((5, 17)))
    network.save_pretrained(str(tmp_path), save_embedding_layers=False)
    frozen = PeftModel.from_pretrained(causal_base("LlamaForCausalLM", LLAMA), str(tmp_path)).eval()
    assert not any(p.requires_grad for p in frozen.parameters())
    model = bp.BayesianLoRA(frozen, MultipleChoice((5, 17)), num_data=NUM_DATA)
    assert torch.equal(logits_of(model.network), logits_of(network))
    names = trainable(model.network)
    assert len(names) == 2 * len(model.sites)
    guide = bp.BLoBGuide(model)
    before = {key: p.detach().clone() for key, p in trainable(model.network, guide).items()}
    bp.BLoBSVI(model, guide, lr=1e-2).step(
        bp.Batch(make_batch().input_ids, make_batch().attention_mask, torch.tensor([0, 1, 0, 1]))
    )
    assert all(not torch.equal(p, before[key]) for key, p in trainable(model.network, guide).items())
