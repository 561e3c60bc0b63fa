"""examples/gpu_check.py on the CPU with a tiny network: what it writes, and that a wrong number is not let pass."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gpu_check
import pytest
import same_numbers
import tiny
import torch

import blob_pyro as bp
from blob_pyro.experiments.bench.measure import plan
from blob_pyro.experiments.bench.networks import Base

CPU = ["--device", "cpu"]


def written(path: Path) -> tuple[dict[str, Any], str]:
    return json.loads(path.read_text()), path.with_suffix(".md").read_text()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    path = tmp_path_factory.mktemp("check") / "found.json"
    assert gpu_check.main([*CPU, "--output", str(path), "--budget", "1e6"]) == 0
    return written(path)


@pytest.mark.slow
def test_every_quantity_of_every_kind_is_compared(found: Any) -> None:
    record, _ = found
    assert {(check["kind"], check["quantity"], check["device"]) for check in record["checks"]} == {
        (kind, quantity, "cpu") for kind in gpu_check.KINDS for quantity in gpu_check.ALLOWED
    }
    assert all(0 < check["error"] <= check["allowed"] and check["ok"] for check in record["checks"])
    assert record["problems"] == record["left_out"] == []


@pytest.mark.slow
def test_ratios_memory_and_speeds_are_there(found: Any) -> None:
    record, _ = found
    assert list(record["bench"]) == list(record["generation"]) == ["bfloat16", "4-bit"]
    for result in record["bench"].values():
        assert [one["case"]["part"] for one in result["measurements"]] == ["train", "predict"]
        assert all(set(one["ratios"]) == {"blob / lora_full", "blob / lora_answer"} for one in result["measurements"])
    weighed = record["bench"]["bfloat16"]["measurements"][0]
    assert 0 < weighed["ratios"]["blob / lora_full"]["memory"] < 2
    for texts in record["generation"].values():
        many, one = texts["per_draw"], texts["plain"]
        assert sorted(many["seconds"])[1] * many["tokens_per_second"] == pytest.approx(10 * 4)
        assert sorted(one["seconds"])[1] * one["tokens_per_second"] == pytest.approx(4)
    assert {"torch", "transformers", "peft", "python", "processor"} <= set(record["machine"])
    assert record["command"].startswith("python examples/gpu_check.py --device cpu --output") and record["date"]


@pytest.mark.slow
def test_the_table_has_each_figure(found: Any) -> None:
    record, text = found
    head, table = text.strip().split("\n\n")
    assert record["command"] in head and record["date"][:10] in head and "a tiny network" in head
    rows = {
        cells[0]: cells[1:]
        for cells in ([cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines())
    }
    assert rows[""] == ["float32", "bfloat16", "4-bit"] and {len(cells) for cells in rows.values()} == {3}
    error = next(check["error"] for check in record["checks"] if check["quantity"] == "NLL")
    assert rows["error of NLL on cpu"][0] == f"{error:.1e} (at most 0.0001)"
    step = record["bench"]["4-bit"]["measurements"][0]["ratios"]["blob / lora_full"]
    cells = rows["a step, 4 x 16 tokens: blob / lora_full"]
    assert cells[0] == "-" and cells[2] == f"{step['median']:.2f} ({step['lower']:.2f} to {step['upper']:.2f})"
    speed = record["generation"]["bfloat16"]["per_draw"]["tokens_per_second"]
    assert rows["generation, 10 texts, a draw each: tokens/s"][1] == f"{speed:.1f}"
    assert rows["a step, 4 x 16 tokens: blob / lora_full, peak memory"][1] != "-"


def a_weight(model: bp.BayesianLoRA) -> None:
    model.network.get_base_model().lm_head.weight.data.mul_(1.001)


def no_adapter(model: bp.BayesianLoRA) -> None:
    for layer in model.sites.values():
        layer.scaling[model.adapter] *= 1e-3


def another_prior(model: bp.BayesianLoRA) -> None:
    model.prior_scale *= 1.001


def no_gradient(model: bp.BayesianLoRA) -> None:
    model.network.get_base_model().model.norm.register_forward_hook(
        lambda module, inputs, output: output.detach() + 0 * output
    )


def no_number(model: bp.BayesianLoRA) -> None:
    model.network.get_base_model().lm_head.weight.data.fill_(torch.nan)


WRONG = {
    "a weight": ("float32", a_weight, "log probabilities"),
    "no adapter": ("bfloat16", no_adapter, "NLL"),
    "no adapter in 4 bit": ("4-bit", no_adapter, "log probabilities"),
    "another prior": ("4-bit", another_prior, "KL's gradient"),
    "no gradient": ("bfloat16", no_gradient, "a training step"),
}


def spoil(monkeypatch: pytest.MonkeyPatch, kind: str, change: Callable[[bp.BayesianLoRA], object]) -> None:
    """Make every side of a kind wrong but the exact one."""
    build = same_numbers.build

    def spoilt(folder: str, of: str, device: str, *, exact: bool = False) -> Any:
        side = build(folder, of, device, exact=exact)
        if of == kind and not exact:
            change(side[0])
        return side

    monkeypatch.setattr(same_numbers, "build", spoilt)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_a_side_that_is_wrong_is_seen(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, change, quantity = WRONG[name]
    spoil(monkeypatch, kind, change)
    checks = same_numbers.compare(same_numbers.save_network(tmp_path, same_numbers.TINY), kind, "cpu")
    assert quantity in [check.quantity for check in checks if not check.ok]


@pytest.mark.slow
def test_a_wrong_number_is_a_line_and_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch, "float32", a_weight)
    monkeypatch.setattr(gpu_check, "TIMED", ())
    assert gpu_check.main([*CPU, "--output", str(tmp_path / "found.json")]) == 1
    record, text = written(tmp_path / "found.json")
    problem = record["problems"][0]
    assert problem.startswith("float32: log probabilities on cpu: expected an error of at most 0.0001; got 0.00")
    assert problem in text and f"gpu_check: {problem}\n" in capsys.readouterr().err
    assert all(line.startswith("float32: ") for line in record["problems"])


@pytest.mark.slow
def test_a_part_that_fails_costs_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(monkeypatch, "float32", no_number)
    monkeypatch.setattr(gpu_check, "TIMED", ())
    assert gpu_check.main([*CPU, "--output", str(tmp_path / "found.json")]) == 1
    record, _ = written(tmp_path / "found.json")
    assert record["problems"][0] == "float32: not compared" and len(record["problems"]) == 2
    assert record["problems"][1].startswith("numbers, float32: NonFiniteLossError: ")
    assert {check["kind"] for check in record["checks"] if check["ok"]} == {"bfloat16", "4-bit"}


def test_a_gpu_gets_layers_of_llama_7b() -> None:
    """As those of docs/performance.md that are of a CPU; nothing is computed here."""
    settings = gpu_check.settings_of("4-bit", argparse.Namespace(device="cuda:1", layers=4), "nowhere")
    assert (settings.model, settings.layers, settings.length) == ("llama-7b-shaped", (4,), (300,))
    assert (settings.device, settings.quantization, settings.num_samples) == ("cuda:1", "4bit", (10,))
    assert settings.names("train") == settings.names("predict") == ("lora_full", "lora_answer", "blob")


def test_there_are_rounds_for_the_time_there_is() -> None:
    options = argparse.Namespace(device="cpu", layers=2)
    folder = str(tiny.llama())
    settings = dataclasses.replace(gpu_check.settings_of("bfloat16", options, folder), length=(8,), rounds=40)
    base = Base(settings)
    cases = plan(settings, base)[:1]
    assert gpu_check.rounds_within(1e6, settings, cases, base) == settings
    assert gpu_check.rounds_within(1e-6, settings, cases, base) == dataclasses.replace(settings, rounds=2)


def test_without_time_all_is_left_out_and_nothing_is_called_right(tmp_path: Path) -> None:
    assert gpu_check.main([*CPU, "--output", str(tmp_path / "found.json"), "--budget", "0"]) == 1
    record, text = written(tmp_path / "found.json")
    assert record["problems"] == [f"{kind}: not compared" for kind in gpu_check.KINDS]
    assert record["left_out"][0] == "numbers, float32: no time within 0 s (--budget)"
    assert "no figures" in text and "Left out: times, 4-bit: no time within 0 s (--budget)." in text


def test_what_memory_does_not_suffice_for_is_left_out(tmp_path: Path) -> None:
    options = argparse.Namespace(device="cpu", layers=4, budget=60, output=tmp_path / "found.json")
    findings = gpu_check.Findings(options, "")

    def too_large() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ...")

    findings.attempt("times", "4-bit", too_large)
    findings.attempt("memory", "4-bit train", lambda: None)
    assert findings.left_out == ["times, 4-bit: out of memory; take fewer --layers than 4"]
    assert findings.failed == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main([]) == 2
    expected = "gpu_check: device: expected one that torch can use here, like 'cpu'; got 'cuda'\n"
    assert capsys.readouterr().err == expected
