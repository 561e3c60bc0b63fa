"""What a GPU is checked and timed by (examples/gpu_check.py, `bench`), on a machine with devices beside its CPU."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import same_numbers
import tiny
import torch
from same_numbers import ALLOWED, KINDS, TINY

from blob_pyro.experiments.bench import BenchSettings, bench

PLACE = "second:1"


@pytest.fixture(autouse=True)
def nothing_is_compiled() -> Iterator[None]:
    """Without kernels for a device bitsandbytes compiles its own, shape by shape, which takes most of a minute."""
    with torch.compiler.set_stance("force_eager"):
        yield


@pytest.mark.parametrize("kind", KINDS)
def test_the_device_computes_what_the_cpu_does(kind: str, tmp_path: Path) -> None:
    checks = same_numbers.compare(same_numbers.save_network(tmp_path, TINY), kind, PLACE)
    assert [(check.device, check.quantity) for check in checks] == [
        (place, name) for place in ("cpu", PLACE) for name in ALLOWED
    ]
    assert [str(check) for check in checks if not check.ok] == []


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_wrong_there_alone_is_told_of_it_alone(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = same_numbers.build

    def spoilt(folder: str, kind: str, device: str, *, exact: bool = False) -> Any:
        model, guide = build(folder, kind, device, exact=exact)
        assert {str(parameter.device) for parameter in model.network.parameters()} == {device}
        if device == PLACE:
            with torch.no_grad():
                model.network.get_base_model().lm_head.weight.mul_(1.2)
        return model, guide

    monkeypatch.setattr(same_numbers, "build", spoilt)
    wrong = [
        check for check in same_numbers.compare(same_numbers.save_network(tmp_path, TINY), kind, PLACE) if not check.ok
    ]
    assert "log probabilities" in {check.quantity for check in wrong}
    assert {check.device for check in wrong} == {PLACE}


def test_a_benchmark_says_nothing_of_several_devices() -> None:
    """torch warns where random states of all of them are kept, unasked."""
    small = {"length": (6,), "num_prompts": 3, "min_length": 4, "max_length": 9, "num_samples": (2,), "num_sites": 2}
    settings = BenchSettings(model=str(tiny.llama()), **small, in_features=8, rounds=1, warmup=0, memory=False)
    state = torch.get_rng_state()
    assert [one.case.part for one in bench(settings).measurements] == ["train", "predict", "bookkeeping", "bookkeeping"]
    assert torch.equal(torch.get_rng_state(), state)
