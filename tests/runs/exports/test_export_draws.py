"""Each exported draw is a plain PEFT adapter with that draw's network; averaged they are `PosteriorPredictive`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import EVERY_GUIDE, KINDS, make_batch
from laws import assert_equal_draws
from peft import PeftModel
from safetensors.torch import load_file
from saved_runs import base_of, classifier_batch, drawn, logits_at, logits_of, plain, saved, saved_classifier

import blob_pyro as bp
from blob_pyro.errors import ConfigError, RunDirectoryError, UnsupportedPosteriorError
from blob_pyro.guides import MLEGuide
from blob_pyro.prediction.generation.writing import hold_draws
from blob_pyro.runs.exports.draws import seeded_draws

RANDOM = [name for name in EVERY_GUIDE if KINDS[name].is_random]
SEED, K = 5, 3


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    """Sums are then rounded alike whatever the number of rows."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def quiet(_: str) -> None:
    """Nobody is told."""


def exported(run: bp.Run, kind: str = f"draws:{K}", **options: Any) -> Path:
    return bp.export(run.path, kind, say=quiet, **({"seed": SEED} | options))


def check_draws(run: bp.Run, folder: Path) -> None:
    """Every folder gives the held draw's logits bit for bit, and no two are alike."""
    draws = drawn(run, K, SEED)
    found = []
    for k, draw in enumerate(draws):
        network = plain(run, folder / f"draw_{k}")
        layer = next(module for name, module in network.named_modules() if name.endswith("lora_A.default"))
        assert type(layer) is torch.nn.Linear
        found.append(logits_of(network))
        with hold_draws(run.model, draw):
            assert torch.equal(found[-1], logits_of(run.model.network))
        keys = load_file(folder / f"draw_{k}" / "adapter_model.safetensors")
        assert all(key.endswith(("lora_A.weight", "lora_B.weight")) for key in keys)  # vLLM refuses others
    assert not torch.equal(found[0], found[1]) and not torch.equal(found[1], found[2])


@pytest.mark.slow
@pytest.mark.parametrize("name", RANDOM)
def test_a_draw_is_a_plain_adapter(name: str, tmp_path: Path) -> None:
    run = saved(tmp_path / "run", name)
    check_draws(run, exported(run))


@pytest.mark.parametrize("settings", [{"bayesian": "B"}, {"bayesian": "both"}, {"bayesian_layers": [-1]}], ids=str)
def test_whatever_is_random(settings: dict[str, Any], tmp_path: Path) -> None:
    run = saved(tmp_path / "run", **settings)
    check_draws(run, exported(run))


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_beside_a_quantised_base(quantization: str, tmp_path: Path) -> None:
    run = saved(tmp_path / "run", quantization=quantization, llm_int8_threshold=0.0)
    check_draws(run, exported(run))


@pytest.mark.slow
@pytest.mark.parametrize("name", RANDOM)
def test_the_average_is_that_of_posterior_predictive(name: str, tmp_path: Path) -> None:
    """The same draws, one plain network each: probabilities bit for bit."""
    run = saved(tmp_path / "run", name)
    folder = exported(run)
    bp_draws = drawn(run, K, SEED)
    held = bp.PosteriorPredictive(run.model, run.guide, K)
    held.sample_draws = lambda batch=None: bp_draws  # type: ignore[method-assign]
    expected = held(make_batch())
    alone = []
    for k in range(K):
        model = bp.BayesianLoRA(plain(run, folder / f"draw_{k}"), run.model.likelihood)
        alone.append(bp.PosteriorPredictive(model, MLEGuide(model), 0)(make_batch()).probs)
    assert_equal_draws(torch.stack(alone), expected.draws)
    assert_equal_draws(torch.stack(alone).mean(0), expected.probs)


def mixed(run: bp.Run, folder: Path, batch: bp.Batch) -> torch.Tensor:
    """(K, B, ...) logits of one forward of PEFT, in which every row names its adapter."""
    network = PeftModel.from_pretrained(base_of(run), str(folder / "draw_0"), adapter_name="draw_0")
    for k in range(1, K):
        network.load_adapter(str(folder / f"draw_{k}"), adapter_name=f"draw_{k}")
    network.eval()
    ids, mask = (value.repeat(K, 1) for value in (batch.input_ids, batch.attention_mask))
    names = [f"draw_{k}" for k in range(K) for _ in range(len(batch))]
    with torch.no_grad():
        return network(input_ids=ids, attention_mask=mask, adapter_names=names).logits.unflatten(0, (K, len(batch)))


def test_pefts_mixed_batch_gives_the_same(tmp_path: Path) -> None:
    run = saved(tmp_path / "run")
    folder = exported(run)
    expected = torch.stack([logits_at(run, draw) for draw in drawn(run, K, SEED)])
    torch.testing.assert_close(mixed(run, folder, make_batch()), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["blob", "ensemble"])
def test_heads_go_along(name: str, tmp_path: Path) -> None:
    """A classifier's head is in each folder, of an ensemble each member's own; the manifest names the tensors."""
    run = saved_classifier(tmp_path / "run", name)
    folder = exported(run)
    batch, draws = classifier_batch(), drawn(run, K, SEED)
    for k, draw in enumerate(draws):
        assert torch.equal(logits_of(plain(run, folder / f"draw_{k}"), batch), logits_at(run, draw, batch))
    expected = torch.stack([logits_at(run, draw, batch) for draw in draws])
    torch.testing.assert_close(mixed(run, folder, batch), expected, rtol=1e-5, atol=1e-5)
    others = json.loads((folder / "manifest.json").read_text())["other_tensors"]
    assert others and all("classifier" in key for key in others)
    heads = [load_file(folder / f"draw_{k}" / "adapter_model.safetensors")[others[-1]] for k in range(2)]
    assert torch.equal(*heads) is (name != "ensemble")


def test_a_seed_gives_the_same_files(tmp_path: Path) -> None:
    run = saved(tmp_path / "run")
    folders = [exported(run, output=tmp_path / name, seed=seed) for name, seed in (("a", 7), ("b", 7), ("c", 8))]
    a, b, c = ({file.relative_to(f): file.read_bytes() for file in f.rglob("*") if file.is_file()} for f in folders)
    assert a == b
    draws = [Path(f"draw_{k}/adapter_model.safetensors") for k in range(K)]
    assert len({a[file] for file in draws} | {c[file] for file in draws}) == 2 * K


def test_drawing_leaves_the_random_state(tmp_path: Path) -> None:
    run = saved(tmp_path / "run")
    before = torch.get_rng_state()
    draws = seeded_draws(run.guide, K, SEED)
    assert torch.equal(torch.get_rng_state(), before)
    for ours, theirs in zip(draws, drawn(run, K, SEED), strict=True):
        assert all(torch.equal(ours[site], theirs[site]) for site in run.model.sites)


@pytest.mark.slow
@pytest.mark.parametrize("name", RANDOM)
def test_every_guide_draws_one_after_another(name: str, tmp_path: Path) -> None:
    """So that more draws begin with the same ones."""
    guide = saved(tmp_path / "run", name).guide
    few, more = (seeded_draws(guide, count, SEED) for count in (2, 3))
    assert all(torch.equal(few[k][key], more[k][key]) for k in range(2) for key in few[k])


def test_more_draws_begin_with_the_same(tmp_path: Path) -> None:
    run = saved(tmp_path / "run")
    few, more = exported(run), exported(run, "draws:4")
    assert (few.name, more.name, more.parent) == ("draws_3", "draws_4", run.path / "export")
    for k in range(K):
        assert all((few / f"draw_{k}" / f.name).read_bytes() == f.read_bytes() for f in (more / f"draw_{k}").iterdir())


@pytest.mark.parametrize("name", ["mle", "map"])
def test_a_point_has_no_draws(name: str, tmp_path: Path) -> None:
    run = saved(tmp_path / "run", name)
    with pytest.raises(UnsupportedPosteriorError, match=f"expected a posterior to draw from; got the guide '{name}'"):
        exported(run)
    assert not (run.path / "export").exists()


def test_an_ensemble_has_no_more_draws_than_members(tmp_path: Path) -> None:
    run = saved(tmp_path / "run", "ensemble")
    with pytest.raises(
        UnsupportedPosteriorError, match="expected at most the ensemble's 3 members, each a draw; got 4"
    ):
        exported(run, "draws:4")


@pytest.mark.parametrize(
    "kind", ["draws", "draws:", "draws:0", "draws:-1", "draws:x", "draws:1001", "mean:2", "", "MEAN"]
)
def test_an_unknown_kind_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--as: expected mean, draws:K .* or merged; got "):
        bp.export(tmp_path, kind)


def test_an_adapter_that_changes_the_base_is_refused(tmp_path: Path) -> None:
    """PiSSA takes its start out of the base weight: beside an unchanged base it is another network."""
    run = saved(tmp_path / "run")
    file = run.path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"init_lora_weights": "pissa"}))
    described = json.loads((run.path / "posterior.json").read_text())
    (run.path / "posterior.json").write_text(json.dumps(described | {"sha256": {}}))
    with pytest.raises(
        UnsupportedPosteriorError, match="got init_lora_weights='pissa', which changes the base weights"
    ):
        exported(run)


def test_a_used_folder_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    run = saved(tmp_path / "run")
    used = tmp_path / "used"
    used.mkdir()
    (used / "mine.txt").write_text("mine")
    with pytest.raises(RunDirectoryError, match="used: expected a new or an empty folder; it holds files"):
        exported(run, output=used)
    with pytest.raises(RunDirectoryError, match="mine.txt: expected a folder to write to; got something else"):
        exported(run, output=used / "mine.txt")
    assert [file.name for file in used.iterdir()] == ["mine.txt"]
    (tmp_path / "empty").mkdir()
    assert (exported(run, output=tmp_path / "empty") / "draw_0").is_dir()
    again = exported(run)
    with pytest.raises(RunDirectoryError, match="expected a new or an empty folder"):
        exported(run)
    assert again.is_dir()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("No space left on device")])
def test_an_interrupted_export_leaves_nothing(error: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C or a full disk after the first draw has been written."""
    run = saved(tmp_path / "run")
    before = sorted(run.path.rglob("*"))
    from blob_pyro.runs.exports import adapter

    write, written = adapter.write_adapter_tensors, []

    def stop_at_the_second(folder: Path, tensors: Any) -> None:
        write(folder, tensors)
        written.append(folder)
        if len(written) == 2:
            raise error

    monkeypatch.setattr(adapter, "write_adapter_tensors", stop_at_the_second)
    with pytest.raises(error if isinstance(error, type) else OSError):
        exported(run)
    assert len(written) == 2 and sorted(run.path.rglob("*")) == before
