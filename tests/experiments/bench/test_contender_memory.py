"""Peak memory: a fresh process on a tiny model, and the meters by themselves."""

from __future__ import annotations

import dataclasses
import mmap
import sys

import pytest
import tiny

from blob_pyro.errors import BlobPyroError
from blob_pyro.experiments.bench import memory
from blob_pyro.experiments.bench.memory import Memory, measure_memory, memory_here
from blob_pyro.experiments.bench.settings import BenchSettings, Case

MIB = 1024**2


def settings():
    return BenchSettings(model=str(tiny.llama()), length=(8,), max_length=32, num_prompts=3)


@pytest.mark.slow
def test_a_process_of_its_own_tells_its_peak():
    found = measure_memory(settings(), Case("train", 2, length=8), "blob")
    assert found.peak >= found.loaded > 50 * MIB  # the interpreter with torch alone
    assert found.above == found.peak - found.loaded


def test_a_prediction_can_be_measured_too():
    found = memory_here(settings(), Case("predict", 1, num_samples=2), "predictive")
    assert found.peak >= found.loaded > 0


@pytest.mark.slow
def test_a_process_that_fails_is_one_line():
    """It says why, in its last line."""
    nowhere = dataclasses.replace(settings(), model="/nowhere")
    with pytest.raises(
        BlobPyroError, match=r"^memory of blob: .* exit code 1, .*/nowhere.*; .*--memory false$"
    ) as caught:
        measure_memory(nowhere, Case("train", 2, length=8), "blob")
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_peak_is_forgotten_and_seen_again():
    meter = memory.memory_meter("cpu")
    if not isinstance(meter, memory._LinuxMeter):
        pytest.skip("this system forbids to set the high-water mark back")
    hold_for_a_moment(64 * MIB)
    loaded = meter.restart()
    assert meter.peak() < loaded + 32 * MIB
    hold_for_a_moment(64 * MIB)
    assert meter.peak() > loaded + 48 * MIB


def hold_for_a_moment(size):
    """Pages of this process's own: a tensor's may be those that an earlier test has left free."""
    with mmap.mmap(-1, size) as pages:
        pages.write(b"x" * size)


@pytest.mark.skipif(sys.platform == "win32", reason="no getrusage")
def test_without_proc_the_peak_since_the_start_is_told(monkeypatch):
    def refuse(self):
        raise PermissionError

    monkeypatch.setattr(memory._LinuxMeter, "restart", refuse)
    meter = memory.memory_meter("cpu")
    assert isinstance(meter, memory._UsageMeter)
    assert meter.peak() >= meter.restart() > 50 * MIB


def test_memory_above_the_loaded_model():
    assert Memory(peak=30, loaded=10).above == 20
