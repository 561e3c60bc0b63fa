"""The benchmark from settings to JSON and tables, on a tiny model; nothing here depends on how long a thing takes."""

from __future__ import annotations

import dataclasses
import json

import pyro
import pytest
import tiny
import torch

from blob_pyro.cli import main
from blob_pyro.errors import ConfigError
from blob_pyro.experiments.bench import (
    BenchResult,
    BenchSettings,
    Case,
    Measurement,
    Memory,
    bench,
    measurement_text,
    summary_text,
)
from blob_pyro.experiments.bench.clock import Line, Spread
from blob_pyro.experiments.bench.measure import plan
from blob_pyro.experiments.bench.settings import CONTENDERS, PARTS

SMALL = ["--length", "[6]", "--num_prompts", "3", "--min_length", "4", "--max_length", "9", "--num_samples", "[2]",
         "--r", "2", "--num_sites", "2", "--in_features", "8", "--memory", "false"]  # fmt: skip


def small(**changes):
    base = {"model": str(tiny.llama()), "length": (6,), "num_prompts": 3, "min_length": 4, "max_length": 9, "r": 2}
    quick = {"num_samples": (2,), "num_sites": 2, "in_features": 8, "rounds": 2, "warmup": 1, "memory": False}
    return BenchSettings(**(base | quick | changes))


# --- settings ---

BAD: dict[str, tuple[dict[str, object], str]] = {
    "part": ({"parts": ("trian",)}, "parts: expected some of train, predict, bookkeeping; got 'trian'"),
    "no part": ({"parts": ()}, "parts: expected at least one value; got []"),
    "contender": ({"contenders": ("blobb",)}, "contenders: expected some of blob, .*; got 'blobb'"),
    "contender of another part": (
        {"parts": ("train",), "contenders": ("predictive",)},
        "contenders: expected one that takes part in train; got ['predictive']",
    ),
    "dtype": ({"dtype": "half"}, "dtype: expected one of auto, float32, bfloat16, float16; got 'half'"),
    "quantization": ({"quantization": "2bit"}, "quantization: expected '8bit', '4bit' or None; got '2bit'"),
    "length": ({"length": (64, 0)}, "length: expected numbers of at least 1; got [64, 0]"),
    "no length": ({"length": ()}, "length: expected at least one value; got []"),
    "layers": ({"layers": (0,)}, "layers: expected numbers of at least 1; got [0]"),
    "samples": ({"num_samples": (0,)}, "num_samples: expected numbers of at least 1; got [0]"),
    "rounds": ({"rounds": 0}, "rounds: expected at least 1; got 0"),
    "warmup": ({"warmup": -1}, "warmup: expected at least 0 rounds; got -1"),
    "r": ({"r": 0}, "r: expected at least 1; got 0"),
    "alpha": ({"lora_alpha": float("nan")}, "lora_alpha: expected a number above 0; got nan"),
    "prompts": ({"max_length": 3}, "max_length: expected at least min_length 4; got 3"),
    "device": ({"device": "gpu"}, "device: expected 'cpu', 'cuda' or 'cuda:1'; got 'gpu'"),
    "seed": ({"seed": -1}, "seed: expected a whole number from 0 to 4294967295; got -1"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_setting_that_cannot_work_is_refused(case):
    changes, message = BAD[case]
    start, _, end = message.partition(".*")
    with pytest.raises(ConfigError) as error:
        small(**changes)
    assert str(error.value).startswith(start) and str(error.value).endswith(end)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="device: expected one that torch can use here, like 'cpu'; got 'cuda'"):
        bench(small(device="cuda"))


def test_the_contenders_of_a_part():
    settings = small(parts=("train", "predict"), contenders=("predictive", "blob", "lora_full"))
    assert settings.names("train") == ("lora_full", "blob")
    assert settings.names("predict") == ("lora_full", "blob", "predictive")
    assert settings.names("bookkeeping") == ()


# --- a run ---


@pytest.fixture(scope="module")
def found():
    seen = []
    settings = small(layers=(1, 2), length=(5, 6, 8), num_samples=(1, 3))
    result = bench(settings, command="blob-pyro bench", on_measurement=seen.append)
    assert [len(partial.measurements) for partial in seen] == list(range(1, len(result.measurements) + 1))
    return result


@pytest.mark.slow
def test_every_case_is_measured_in_order(found):
    cases = [measurement.case for measurement in found.measurements]
    assert [(c.part, c.layers, c.length, c.num_samples, len(c.in_features)) for c in cases] == [
        *(("train", layers, length, 0, 0) for layers in (1, 2) for length in (5, 6, 8)),
        *(("predict", layers, 0, n, 0) for layers in (1, 2) for n in (1, 3)),
        ("bookkeeping", None, 0, 0, 2),
        ("bookkeeping", 1, 0, 0, 2),
        ("bookkeeping", 2, 0, 0, 4),
    ]
    assert [case.own_sites for case in cases[-3:]] == [False, True, True]


@pytest.mark.slow
def test_every_contender_has_a_time_for_every_round(found):
    for measurement in found.measurements:
        assert tuple(measurement.seconds) == CONTENDERS[measurement.case.part]
        assert all(len(times) == 2 and min(times) > 0 for times in measurement.seconds.values())


def test_json_gives_the_result_back(found, tmp_path):
    found.save(tmp_path / "bench.json")
    assert BenchResult.load(tmp_path / "bench.json") == found
    record = json.loads((tmp_path / "bench.json").read_text())
    assert record["command"] == "blob-pyro bench"
    assert {"processor", "threads", "torch", "transformers", "peft", "pyro"} <= set(record["machine"])
    assert "blob / lora_full" in record["measurements"][0]["ratios"]


def test_growth_runs_along_every_axis(found):
    lines = {(g.part, g.contender, g.axis, *g.fixed.values()): g for g in found.growth()}
    assert len(lines) == 5 * (3 + 2) + 4 * (2 + 2)
    assert set(lines["train", "blob", "tokens", 2].points) == {20, 24, 32}
    assert set(lines["predict", "predictive", "num_samples", 1].points) == {1, 3}
    assert lines["train", "blob", "tokens", 1].line.r_squared is not None
    assert [measurement.case.layers for measurement, _ in found.shares()] == [1, 1, 1, 2, 2, 2]


def test_the_tables_can_be_made_of_any_result(found):
    for measurement in found.measurements:
        text = measurement_text(found.settings, measurement)
        assert all(f"| {name} " in text for name in measurement.seconds)
    summary = summary_text(found)
    assert (
        "train: naive_pyro" in summary and "bookkeeping's share of our step (train: 4 x 8 tokens, 2 layers)" in summary
    )


def test_a_run_leaves_pyro_and_torch_as_they_were():
    pyro.param("mine", torch.tensor(3.0))
    state = torch.get_rng_state()
    bench(small(rounds=1, warmup=0))
    assert list(pyro.get_param_store().keys()) == ["mine"]
    assert torch.equal(torch.get_rng_state(), state)


def test_bookkeeping_alone_needs_no_model():
    result = bench(small(model="./none", parts=("bookkeeping",)))
    assert [measurement.case.in_features for measurement in result.measurements] == [(8, 8)]


def test_memory_is_asked_of_every_contender(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "blob_pyro.experiments.bench.measure.measure_memory", lambda *given: asked.append(given) or Memory(20, 10)
    )
    result = bench(small(memory=True, contenders=("lora_full", "blob")))
    assert [(case.part, name) for _, case, name in asked] == [
        ("train", "lora_full"),
        ("train", "blob"),
        ("predict", "lora_full"),
        ("predict", "blob"),
    ]
    assert result.measurements[0].memory_ratio("blob", "lora_full") == 1.0


def test_one_part_alone_plans_only_that():
    class Loaded:
        num_layers = 7

    assert plan(small(parts=("predict",), num_samples=(1, 10)), Loaded()) == [
        Case("predict", 7, num_samples=1),
        Case("predict", 7, num_samples=10),
    ]


# --- records with known times ---


def train(layers, length, seconds):
    times = {"lora_full": [1.0, 10.0, 2.0], "blob": [seconds, 10 * seconds, 2 * seconds]}
    return Measurement(Case("train", layers, length=length), 4 * length, times, {})


def result_of(*measurements):
    return BenchResult(small(), "", "2020-01-01T00:00:00+00:00", {"threads": 1}, measurements)


def test_ratios_and_medians_of_known_times():
    memory = {"lora_full": Memory(400 * 1024**2, 100 * 1024**2), "blob": Memory(300 * 1024**2, 100 * 1024**2)}
    measurement = dataclasses.replace(train(2, 8, 0.5), memory=memory)
    assert measurement.pairs() == [("blob", "lora_full")]
    assert measurement.ratio("blob", "lora_full") == Spread(0.5, 0.5, 0.5)
    assert measurement.median("blob") == 1.0
    text = measurement_text(small(), measurement)
    assert "train: 4 x 8 tokens, 2 layers" in text
    assert [word.strip() for word in text.splitlines()[5].split("|")[1:-1]] == [
        "blob", "1000", "750 to 3000", "32", "300", "200",
    ]  # fmt: skip
    assert "| blob / lora_full |  0.500 | 0.500 to 0.500 |       0.750 |" in text


def test_without_ours_each_is_compared_with_the_first():
    times = {"lora_full": [1.0], "lora_answer": [2.0], "naive_pyro": [3.0]}
    measurement = Measurement(Case("train", 2, length=8), 32, times, {})
    assert measurement.pairs() == [("lora_answer", "lora_full"), ("naive_pyro", "lora_full")]


def test_both_of_ours_meet_each_other_once():
    times = {name: [1.0] for name in CONTENDERS["train"]}
    pairs = Measurement(Case("train", 2, length=8), 32, times, {}).pairs()
    assert len(pairs) == len(set(pairs)) == 7 and len({frozenset(pair) for pair in pairs}) == 7


def test_growth_that_is_a_line_is_found_exactly():
    # the median is twice `seconds`: 2 (0.1 + 0.25 layers)
    lines = result_of(*(train(layers, 8, 0.1 + 0.25 * layers) for layers in (5, 10, 30))).growth()
    ours = next(found for found in lines if found.contender == "blob")
    assert (ours.axis, ours.fixed) == ("layers", {"tokens": 32})
    assert (ours.line.intercept, ours.line.slope, ours.line.r_squared) == pytest.approx((0.2, 0.5, 1.0))
    flat = next(found for found in lines if found.contender == "lora_full")
    assert flat.line == Line(2.0, 0.0, None)


def test_one_case_has_no_growth():
    assert result_of(train(2, 8, 1.0)).growth() == [] and summary_text(result_of(train(2, 8, 1.0))) == ""


def test_the_share_of_bookkeeping_is_that_of_the_same_layers():
    times = {"lora": [0.1, 0.2, 0.1], "blob": [0.2, 0.3, 0.2]}
    own = [Measurement(Case("bookkeeping", n, in_features=(8,) * n, own_sites=True), 4, times, {}) for n in (2, 3)]
    alone = Measurement(Case("bookkeeping", in_features=(99,)), 4, {"lora": [1.0], "blob": [9.0]}, {})
    result = result_of(train(2, 8, 1.0), train(5, 8, 1.0), alone, own[0])
    ((measurement, share),) = result.shares()
    assert measurement.case.layers == 2 and share == pytest.approx(0.1 / 2.0)
    assert "2 layers): 5.0%" in summary_text(result)
    text = measurement_text(small(), own[1])
    assert "bookkeeping of 3 layers: 3 sites of (2, 8)" in text
    assert "blob - lora: 100 ms (100 to 100)" in text


# --- the command line ---


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_help_tells_every_option_and_contender(capsys):
    assert main(["bench", "--help", "all"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "example: blob-pyro bench train" in out
    options = {field.name for field in dataclasses.fields(BenchSettings)} - {"parts"}
    assert all(f"--{option} " in out for option in options)
    assert all(f"{part}: {', '.join(names)}" in out for part, names in CONTENDERS.items())


def test_a_command_writes_json_and_prints_tables(capsys, tmp_path):
    words = ["bench", "--model", str(tiny.llama()), "--rounds", "2", "--warmup", "0", *SMALL, "--output", "b.json"]
    assert main(words) == 0
    out = capsys.readouterr().out
    result = BenchResult.load(tmp_path / "b.json")
    assert result.command.startswith("blob-pyro bench --model") and result.settings.parts == PARTS
    assert len(result.measurements) == 4
    for measurement in result.measurements:
        assert measurement_text(result.settings, measurement) in out
    assert out.endswith(summary_text(result) + "\n")


def test_a_part_with_some_contenders(capsys):
    words = ["bench", "predict", "--contenders", "[lora_answer,blob]", "--rounds", "1", "--warmup", "0", *SMALL]
    assert main([*words, "--model", str(tiny.llama())]) == 0
    out = capsys.readouterr().out
    assert "blob / lora_answer" in out and "lora_full" not in out and "train" not in out


BAD_WORDS: dict[str, tuple[tuple[str, ...], str]] = {
    "part": (("trian",), "part: expected one of train, predict, bookkeeping, all; got 'trian'; did you mean train?"),
    "second part": (("train", "predict"), "got 'predict' beside that"),
    "option": (("--lenth", "3"), "--lenth: no such option; did you mean --length?"),
    "no number": (("--length", "[8,x]"), "length: expected whole numbers in brackets, like [64,128]; got x"),
    "no brackets": (("--length", "8"), "length: expected whole numbers in brackets, like [64,128]; got 8"),
    "no names": (("--contenders", "blob"), "contenders: expected names in brackets, like [q_proj,v_proj]; got blob"),
    "no value": (("--rounds",), "argument --rounds: expected one argument"),
    "value": (("--rounds", "0"), "rounds: expected at least 1; got 0"),
    "model": (("--model", "./none"), "model ./none: expected a hub id, a local folder or an alias"),
    "output": (("--output", "no/b.json"), "--output: expected a file in a folder that exists; got no/b.json"),
    "output folder": (("--output", "."), "--output: expected a file to write to; got the folder ."),
}


@pytest.mark.parametrize("case", BAD_WORDS)
def test_a_wrong_command_line_is_one_line(capsys, case):
    words, message = BAD_WORDS[case]
    assert main(["bench", *words]) == 2
    out, err = capsys.readouterr()
    assert err.startswith("blob-pyro: error: ") and err.count("\n") == 1 and message in err and not out


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("output", [[], ["--output", "b.json"]])
def test_ctrl_c_says_what_was_saved(capsys, monkeypatch, tmp_path, after, output):
    times = {name: [1.0] for name in CONTENDERS["train"]}
    done = []

    def measure(settings, case, base, *, progress):
        if len(done) == after:
            raise KeyboardInterrupt
        done.append(case)
        return Measurement(case, 24, times, {})

    monkeypatch.setattr("blob_pyro.experiments.bench.measure.measure", measure)
    assert main(["bench", "--model", str(tiny.llama()), *SMALL, *output]) == 130
    saved = bool(after and output)
    told = "b.json holds the tables above" if saved else "nothing was saved"
    assert capsys.readouterr().err == f"blob-pyro: stopped by Ctrl-C; {told}\n"
    assert (tmp_path / "b.json").exists() == saved
