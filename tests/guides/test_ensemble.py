"""The ensemble: its members are separate plain runs bit for bit, and its predictive is the mean of theirs."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pytest
import tiny
import torch
import transformers
from cases import (
    BERT,
    HIDDEN,
    LLAMA,
    MODELS,
    NUM_DATA,
    Q_V,
    adapt,
    causal_base,
    fill_B,
    held_draws,
    make_batch,
    pretrained,
    snapshot,
)
from peft import LoraConfig, PeftModel, get_peft_model
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor

import blob_pyro as bp
from blob_pyro import fit_ensemble
from blob_pyro.config.sections import TrainConfig
from blob_pyro.errors import ConfigError, NonFiniteLossError, RunDirectoryError, UnsupportedPosteriorError
from blob_pyro.guides import EnsembleGuide, MLEGuide
from blob_pyro.model.layers.checkpointing import enable_checkpointing
from blob_pyro.model.layers.members import adapter_parameters, fresh_heads
from blob_pyro.model.likelihoods import Likelihood, MultipleChoice, SequenceClassification
from blob_pyro.training.svi import StepResult

K = 3
CONFIG = TrainConfig(num_steps=5, batch_size=4, lr=1e-2, weight_decay=0.01)

BASES: dict[str, tuple[str, dict[str, Any], tuple[str, ...], Callable[[], Likelihood]]] = {
    "llama": ("LlamaForCausalLM", LLAMA, (*Q_V, "lm_head"), lambda: MultipleChoice((5, 17, 40))),
    "bert": ("BertForSequenceClassification", BERT, ("query", "value"), lambda: SequenceClassification(3)),
}


def fresh(name: str, seed: int, **settings: Any) -> bp.BayesianLoRA:
    """A model on the same base weights, its adapter as PEFT makes it under `seed`."""
    model_class, base, targets, likelihood = BASES[name]
    config = LoraConfig(
        r=4, lora_alpha=8, lora_dropout=0.1, target_modules=list(targets), task_type=likelihood().task_type
    )
    network = causal_base(model_class, base)
    torch.manual_seed(seed)
    network = get_peft_model(network, config)
    return bp.BayesianLoRA(network.eval(), likelihood(), num_data=NUM_DATA, **settings)


def loader(k: int) -> list[bp.Batch]:
    """Member k's data, in an order of its own."""
    return [make_batch((7, 4, 6, 3), seed=10 * k + 4), make_batch((5, 5, 8, 2), seed=10 * k + 5)]


def trained(name: str, seed: int = 0) -> tuple[bp.BayesianLoRA, EnsembleGuide]:
    model = fresh(name, 99, bayesian="both")
    guide = EnsembleGuide(model, K)
    fit_ensemble(model, guide, [loader(k) for k in range(K)], CONFIG, seed=seed, progress=False)
    return model, guide


def separate_run(name: str, k: int, seed: int = 0) -> tuple[bp.BayesianLoRA, MLEGuide, list[Any]]:
    """Plain LoRA: its own network, its own seed, `bp.fit`."""
    model = fresh(name, seed + k)
    guide = MLEGuide(model)
    return model, guide, bp.fit(model, guide, loader(k), CONFIG, progress=False)


def values_of(model: bp.BayesianLoRA) -> dict[str, Tensor]:
    """Everything that is trained."""
    return {key: p.detach().clone() for key, p in adapter_parameters(model.network, model.adapter).items()}


@pytest.mark.parametrize("name", list(BASES))
def test_members_are_three_separate_runs(name: str) -> None:
    """Weights, heads and losses bit-equal, with dropout in it; predictions are the mean of the runs' own."""
    model = fresh(name, 99, bayesian="both")
    guide = EnsembleGuide(model, K)
    state = torch.get_rng_state()
    told: list[StepResult] = []
    history = fit_ensemble(
        model, guide, [loader(k) for k in range(K)], CONFIG, seed=7, progress=False, callbacks=[told.append]
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert told == [step for steps in history for step in steps]
    batch, answers = make_batch((9, 4, 6, 3, 7)), []
    for k, adapter in enumerate(guide.adapters):
        alone, mle, steps = separate_run(name, k, seed=7)
        assert steps == history[k] and len(steps) == CONFIG.num_steps
        own = adapter_parameters(model.network, adapter)
        expected = values_of(alone)
        assert own.keys() == expected.keys()
        assert all(torch.equal(own[key], value) for key, value in expected.items())
        answers.append(bp.PosteriorPredictive(alone, mle, 0)(batch).probs)
    assert len({len(values_of(model)), len(expected)}) == 1
    assert any("modules_to_save" in key for key in expected) is (name == "bert")
    found = bp.PosteriorPredictive(model, guide, K)(batch)
    torch.testing.assert_close(found.draws, torch.stack(answers), rtol=0, atol=1e-6)
    torch.testing.assert_close(found.probs, torch.stack(answers).mean(0), rtol=0, atol=1e-6)
    assert float((answers[0] - answers[1]).abs().max()) > 0.01
    assert not held_draws(model)
    assert model.network.active_adapters == [model.adapter]


@pytest.mark.slow
def test_heads_that_no_file_holds_start_anew_in_each_member(tmp_path: Path) -> None:
    """From a checkpoint without a head: members are runs of `from_pretrained` under a seed each, heads too, bit by bit.

    From a checkpoint with a head, and on a network that came from no file, every member begins at the base's.
    """
    encoder, classifier = tmp_path / "encoder", tmp_path / "classifier"
    base = causal_base("BertForSequenceClassification", BERT)
    base.save_pretrained(classifier)
    base.bert.save_pretrained(encoder)
    for folder in (encoder, classifier):
        tokenizer_of(folder)
    steps = dataclasses.replace(CONFIG, num_steps=2)

    def loaded(folder: Path, seed: int, bayesian: str) -> bp.BayesianLoRA:
        torch.manual_seed(seed)
        return bp.BayesianLoRA.from_pretrained(
            str(folder), SequenceClassification(3), r=4, target_modules=["query", "value"], num_data=NUM_DATA,
            bayesian=bayesian,
        )  # fmt: skip

    for folder, anew in ((encoder, True), (classifier, False)):
        model = loaded(folder, 50, "both")
        guide = EnsembleGuide(model, K)
        fit_ensemble(model, guide, [loader(k) for k in range(K)], steps, seed=3, progress=False)
        starts = []
        for k, adapter in enumerate(guide.adapters):
            alone = loaded(folder, 3 + k, "A")
            starts.append(values_of(alone)["base_model.model.classifier.modules_to_save.*.weight"])
            bp.fit(alone, MLEGuide(alone), loader(k), steps, progress=False)
            own, expected = adapter_parameters(model.network, adapter), values_of(alone)
            assert own.keys() == expected.keys()
            assert all(torch.equal(own[key], value) for key, value in expected.items())
        assert torch.equal(starts[0], starts[1]) is not anew
        assert all(p.requires_grad for p in guide.location_parameters().values())
    model = fresh("bert", 99, bayesian="both")
    assert fresh_heads(model.network, model.adapter) == {}


def tokenizer_of(folder: Path) -> None:
    """A tokenizer beside the weights; nothing is encoded with it."""
    transformers.AutoTokenizer.from_pretrained(tiny.bert()).save_pretrained(folder)


def test_members_of_a_pretrained_model_are_separate_runs() -> None:
    """The road that users take: `from_pretrained` under a seed each."""
    model = pretrained(bayesian="both")
    guide = EnsembleGuide(model, 2)
    fit_ensemble(model, guide, [loader(0), loader(1)], CONFIG, seed=3, progress=False)
    for k, adapter in enumerate(guide.adapters):
        torch.manual_seed(3 + k)
        alone = bp.BayesianLoRA.from_pretrained(
            model.source.id, model.likelihood, r=4, lora_alpha=8, target_modules=list(Q_V), num_data=NUM_DATA
        )
        bp.fit(alone, MLEGuide(alone), loader(k), CONFIG, progress=False)
        own = adapter_parameters(model.network, adapter)
        assert all(torch.equal(own[key], value) for key, value in values_of(alone).items())


@pytest.mark.parametrize("name", list(BASES))
def test_the_members_are_taken_in_turn(name: str) -> None:
    """N = K: each once. N = 2 K: the same mixture. No forward answers for two members where they have heads."""
    model, guide = trained(name)
    batch = make_batch()
    rows: list[int] = []
    model.network.get_input_embeddings().register_forward_hook(lambda m, inputs, output: rows.append(len(output)))
    once = bp.PosteriorPredictive(model, guide, K)(batch)
    assert sum(rows) == K * len(batch) and len(rows) == (K if name == "bert" else 1)
    twice = bp.PosteriorPredictive(model, guide, 2 * K)(batch)
    torch.testing.assert_close(twice.probs, once.probs, rtol=0, atol=1e-6)
    with torch.no_grad():
        by_hand = torch.stack([model.logits(batch, guide.member(k)).softmax(-1) for k in range(K)])
    torch.testing.assert_close(twice.draws, torch.cat([by_hand, by_hand]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", list(BASES))
def test_a_member_is_the_network_with_its_adapter_active(name: str) -> None:
    """Bit for bit what plain PEFT computes after `set_adapter`, heads too; and nothing stays behind."""
    model, guide = trained(name)
    batch = make_batch()
    before = snapshot(model.network)
    with torch.no_grad():
        held = [model.logits(batch, guide.member(k)) for k in range(K)]
        assert torch.equal(held[0], model.logits(batch))
        for k, adapter in enumerate(guide.adapters):
            model.network.set_adapter(adapter)
            plain = model.likelihood.logits(model.network, batch.right_padded())
            assert torch.equal(held[k], plain)
    model.network.set_adapter(model.adapter)
    guide.train_all()
    assert snapshot(model.network).keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in snapshot(model.network).items())


@pytest.mark.parametrize("name", list(BASES))
def test_mean_and_spread_over_members(name: str) -> None:
    model, guide = trained(name)
    members = [adapter_parameters(model.network, adapter) for adapter in guide.adapters]
    for site in model.sites:
        values = torch.stack([member[f"{site}.*.weight"].detach() for member in members])
        torch.testing.assert_close(guide.loc(site), values.mean(0))
        torch.testing.assert_close(guide.scale(site), (values - values.mean(0)).square().mean(0).sqrt())
        law = guide.posterior(site)
        assert law.event_shape == model.location(site).shape and law.batch_shape == ()
        torch.testing.assert_close(law.mean, guide.loc(site))
        torch.testing.assert_close(law.variance.sqrt(), guide.scale(site))
    batch = make_batch()
    found = bp.PosteriorPredictive(model, guide, 0)(batch)
    mean = {
        name: torch.stack([member[name] for member in map(guide.member, range(K))]).mean(0) for name in guide.mean()
    }
    assert mean.keys() == model.sites.keys() | model.point_parameters().keys()
    with torch.no_grad():
        assert torch.equal(found.probs, model.logits(batch, mean).softmax(-1))
        assert float((found.probs - model.logits(batch).softmax(-1)).abs().max()) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("name", list(BASES))
@pytest.mark.parametrize("adapter", ["default", "opinion"])
def test_round_trip(name: str, adapter: str, tmp_path: Path) -> None:
    """K adapters on disk, each one that plain PEFT loads; the ensemble comes back bit for bit."""
    model_class, base, targets, likelihood = BASES[name]
    config = LoraConfig(r=4, target_modules=list(targets), task_type=likelihood().task_type)
    network = get_peft_model(causal_base(model_class, base), config, adapter_name=adapter)
    model = bp.BayesianLoRA(network.eval(), likelihood(), num_data=NUM_DATA, bayesian="both")
    guide = EnsembleGuide(model, K)
    fit_ensemble(model, guide, [loader(k) for k in range(K)], CONFIG, progress=False)
    bp.save(tmp_path, model, guide)
    bp.save(tmp_path, model, guide)  # over itself
    run = bp.load(tmp_path, base=causal_base(model_class, base))
    run.model.network.eval()
    assert isinstance(run.guide, EnsembleGuide) and run.guide.settings() == {"num_members": K}
    assert run.model.adapter == adapter and run.guide.adapters == guide.adapters
    batch = make_batch()
    for k, member in enumerate(guide.adapters):
        ours, theirs = guide.member(k), run.guide.member(k)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        folder = tmp_path / "adapter" / ("" if member == "default" else member)
        plain = PeftModel.from_pretrained(causal_base(model_class, base), str(folder)).eval()
        logits = plain(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        model.network.set_adapter(member)
        own = model.network(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
        model.network.set_adapter(model.adapter)
        assert torch.equal(logits, own)
    guide.train_all()
    found = [bp.PosteriorPredictive(m, g, K)(batch).draws for m, g in ((model, guide), (run.model, run.guide))]
    assert torch.equal(*found)
    assert snapshot(run.model.network).keys() == snapshot(model.network).keys()
    fit_ensemble(run.model, run.guide, [loader(k) for k in range(K)], CONFIG, progress=False)


def test_a_member_that_is_missing_is_refused(tmp_path: Path) -> None:
    model, guide = trained("llama")
    bp.save(tmp_path, model, guide)
    (tmp_path / "adapter" / "default_member_2" / "adapter_model.safetensors").unlink()
    with pytest.raises(RunDirectoryError, match="default_member_2: expected adapter_model.safetensors in") as caught:
        bp.load(tmp_path, base=causal_base("LlamaForCausalLM", LLAMA))
    assert "\n" not in str(caught.value)
    described = json.loads((tmp_path / "posterior.json").read_text())
    (tmp_path / "posterior.json").write_text(json.dumps(described | {"adapters": 3}))
    with pytest.raises(RunDirectoryError, match="posterior.json: expected the description of a posterior"):
        bp.load(tmp_path, base=causal_base("LlamaForCausalLM", LLAMA))


@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_pyros_elbos_are_the_nll_of_a_member(elbo: type[Trace_ELBO]) -> None:
    """N * NLL of the member that is drawn, and every one is: the prior and the choice cost nothing."""
    model, guide = trained("llama")
    batch = make_batch()
    assert batch.labels is not None
    with torch.no_grad():
        nlls = [
            NUM_DATA * float(torch.nn.functional.cross_entropy(model.logits(batch, guide.member(k)), batch.labels))
            for k in range(K)
        ]
    losses = [elbo().loss(model, guide, batch) for _ in range(20)]
    nearest = [min(range(K), key=lambda k: abs(nlls[k] - loss)) for loss in losses]
    assert losses == pytest.approx([nlls[k] for k in nearest], rel=1e-5)
    assert set(nearest) == set(range(K)) and min(abs(nlls[0] - nlls[1]), abs(nlls[1] - nlls[2])) > 0.01
    together = elbo(num_particles=30, vectorize_particles=True, max_plate_nesting=1).loss(model, guide, batch)
    assert min(nlls) < together < max(nlls)
    assert float(guide.kl()) == 0.0


@pytest.mark.slow
def test_members_are_drawn_alike() -> None:
    """3,000 draws: each count within 5 standard errors of 1,000 (0.3 in a million runs fail); all sites agree."""
    model, guide = trained("llama")
    counts = [0] * K
    with torch.no_grad():
        members = [guide.member(k) for k in range(K)]
        for _ in range(3000):
            trace = poutine.trace(guide).get_trace()
            k = int(trace.nodes["member"]["value"])
            counts[k] += 1
        assert all(torch.equal(trace.nodes[site]["value"], members[k][site]) for site in model.sites)
    assert all(abs(count - 1000) < 5 * (3000 * (1 / 3) * (2 / 3)) ** 0.5 for count in counts)
    assert trace.nodes["member"]["infer"]["is_auxiliary"]


@pytest.mark.parametrize("parallel", [False, True])
def test_pyros_predictive(parallel: bool) -> None:
    """Every draw is one of the members' answers, and all members are drawn."""
    model, guide = trained("llama")
    batch = make_batch(labels=False)
    predictive = Predictive(model, guide=guide, num_samples=20, parallel=parallel, return_sites=("_RETURN",))
    probs = predictive(batch)["_RETURN"].detach().softmax(-1)
    exact = bp.PosteriorPredictive(model, guide, K)(batch).draws
    gaps = (probs.unsqueeze(1) - exact).abs().amax((2, 3))
    assert float(gaps.min(1).values.max()) < 1e-6
    assert set(gaps.argmin(1).tolist()) == set(range(K))


def test_plain_svi_trains_the_members_it_draws() -> None:
    """Twelve steps: every tensor of every member moves, and a step moves one member."""
    model = MODELS["llama_both"]()
    guide = EnsembleGuide(model, 2)
    svi = SVI(model, guide, pyro.optim.SGD({"lr": 1e-3}), TraceMeanField_ELBO())
    members = [adapter_parameters(model.network, adapter) for adapter in guide.adapters]
    fill_B(model.network)
    moved: list[int] = []
    for _ in range(12):
        before = [{key: p.detach().clone() for key, p in member.items()} for member in members]
        svi.step(make_batch())
        changed = [
            {key for key in old if not torch.equal(old[key], member[key])}
            for old, member in zip(before, members, strict=True)
        ]
        assert sorted(map(len, changed)) == [0, len(members[0])]
        moved.append(changed.index(set(members[0])))
    assert set(moved) == {0, 1}


def test_plain_pyro_is_refused_with_heads() -> None:
    model = fresh("bert", 0, bayesian="both")
    guide = EnsembleGuide(model, 2)
    message = "guide ensemble: .* the point parameter base_model.model.classifier.* answer with bp.PosteriorPredictive"
    with pytest.raises(UnsupportedPosteriorError, match=message) as caught:
        TraceMeanField_ELBO().loss(model, guide, make_batch())
    assert "\n" not in str(caught.value)
    with pytest.raises(UnsupportedPosteriorError, match=message):
        bp.fit(model, guide, loader(0), CONFIG, progress=False)


def test_settings_out_of_range() -> None:
    with pytest.raises(ConfigError, match="num_members: expected at least 2 members; got 1"):
        EnsembleGuide(MODELS["llama_both"](), 1)
    for name in ("llama", "llama_B"):
        with pytest.raises(ConfigError, match="guide ensemble: expected a model with bayesian='both'; got '[AB]'"):
            EnsembleGuide(MODELS[name]())
    model = MODELS["llama_both"]()
    with pytest.raises(ConfigError, match="loaders: expected one for each of 3 members; got 2"):
        fit_ensemble(model, EnsembleGuide(model), [loader(0), loader(1)], CONFIG)


def test_adapters_that_would_share_tensors_are_refused() -> None:
    likelihood = MultipleChoice((5, 17, 40))
    for lora, message in (
        ({"bias": "all"}, "adapter default: expected bias='none' in LoraConfig; got bias='all'"),
        ({"init_lora_weights": "pissa"}, "adapter default: expected init_lora_weights among .*; got 'pissa'"),
    ):
        network = adapt(causal_base("OPTForCausalLM", MODELS_OPT), Q_V, likelihood, **lora)
        with pytest.raises(ConfigError, match=message):
            EnsembleGuide(bp.BayesianLoRA(network, likelihood, bayesian="both"))
    network = adapt(causal_base("LlamaForCausalLM", LLAMA), Q_V, likelihood)
    network.get_input_embeddings().weight.requires_grad_(True)
    with pytest.raises(ConfigError, match="parameter .*embed_tokens.weight: expected one of the adapter, .* freeze it"):
        EnsembleGuide(bp.BayesianLoRA(network, likelihood, bayesian="both"))
    network = adapt(causal_base("LlamaForCausalLM", LLAMA), Q_V, likelihood)
    network.add_adapter("default_member_1", LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    with pytest.raises(ConfigError, match="adapter default_member_1: expected the layers and ranks of default; it has"):
        EnsembleGuide(bp.BayesianLoRA(network, likelihood, bayesian="both"))


MODELS_OPT = {
    "vocab_size": 96,
    "hidden_size": HIDDEN,
    "word_embed_proj_dim": HIDDEN,
    "ffn_dim": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def test_a_member_that_fails_leaves_the_others() -> None:
    """A NaN in member 1's data: member 0 is trained, the model's own adapter is active again."""
    model = fresh("llama", 99, bayesian="both")
    guide = EnsembleGuide(model, K)

    def stop(result: Any) -> None:
        seen.append(result)
        if len(seen) == CONFIG.num_steps + 2:
            raise KeyboardInterrupt

    seen: list[Any] = []
    with pytest.raises(KeyboardInterrupt):
        fit_ensemble(model, guide, [loader(k) for k in range(K)], CONFIG, progress=False, callbacks=[stop])
    alone, _, _ = separate_run("llama", 0)
    assert all(torch.equal(values_of(model)[key], value) for key, value in values_of(alone).items())
    assert model.network.active_adapters == [model.adapter]
    assert all(p.requires_grad for p in guide.location_parameters().values())
    assert not model.point_parameters()
    with torch.no_grad():
        model.network.get_input_embeddings().weight[5] = float("nan")
    bad = make_batch()
    bad.input_ids[0, 0] = 5
    with pytest.raises(NonFiniteLossError, match="step 4: expected a finite NLL"):
        fit_ensemble(model, guide, [[bad]] * K, CONFIG, progress=False)
    assert model.network.active_adapters == [model.adapter]


def test_the_bar_says_which_member(capsys: pytest.CaptureFixture[str]) -> None:
    model = MODELS["llama_both"]()
    fit_ensemble(model, EnsembleGuide(model, 2), [loader(0), loader(1)], CONFIG, description="ENS")
    shown = capsys.readouterr().err
    assert "ENS 1/2" in shown and "ENS 2/2" in shown


@pytest.mark.parametrize("num_draws", [None, 1])
def test_values_of_point_parameters_stand_for_one_forward(num_draws: int | None) -> None:
    """Equal to writing them into the network; gradients go to the values; checkpointed, gradients are bit-equal."""
    model = MODELS["bert"]()
    batch = make_batch()
    shape = () if num_draws is None else (num_draws,)
    draws = {
        name: 0.3 * torch.randn(*shape, *parameter.shape)
        for name, parameter in (model.point_parameters() | {site: model.location(site) for site in model.sites}).items()
    }
    before = snapshot(model.network)
    plain = model.logits(batch).detach()
    found = []
    for checkpointed in (False, True):
        leaves = {name: value.clone().requires_grad_() for name, value in draws.items()}
        if checkpointed:
            enable_checkpointing(model.network.get_base_model())
        model.network.train()
        logits = model.logits(batch, leaves)
        assert all(torch.equal(value, before[key]) for key, value in snapshot(model.network).items())
        found.append([logits.detach(), *torch.autograd.grad(logits.square().sum(), list(leaves.values()))])
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))
    assert all(gradient.abs().max() > 0 for gradient in found[0])
    model.network.eval()
    assert torch.equal(model.logits(batch), plain)
    parameters = dict(model.network.named_parameters())
    with torch.no_grad():
        for name, value in draws.items():
            target = model.location(name) if name in model.sites else parameters[name]
            target.copy_(value.reshape(target.shape))
        assert torch.equal(model.logits(batch), found[0][0].reshape(4, 3))


def test_values_that_cannot_stand_are_refused() -> None:
    model = MODELS["bert"]()
    batch = make_batch()
    name = next(key for key in model.point_parameters() if "classifier" in key and key.endswith("weight"))
    head, site = torch.zeros_like(model.point_parameters()[name]), next(iter(model.sites))
    several = torch.zeros(2, *model.location(site).shape)
    for draws, message in (
        ({"nowhere": head}, "draws: expected names of sites and point parameters of the model; got 'nowhere'"),
        (
            {name: torch.zeros(2, *head.shape)},
            "draws: expected one value of shape .3, 32. for the point parameter base",
        ),
        ({name: head, site: several}, "draws: expected one draw a forward beside values of point .*; got 2 draws and"),
    ):
        with pytest.raises(ConfigError, match=message):
            model.logits(batch, draws)

    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = model.network.get_input_embeddings().register_forward_hook(stop)
    before = snapshot(model.network)
    with pytest.raises(KeyboardInterrupt):
        model.logits(batch, {name: head + 1, site: several[0]})
    handle.remove()
    assert snapshot(model.network).keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in snapshot(model.network).items())
    assert not held_draws(model)


def test_several_ensembles_of_one_network_share_their_members() -> None:
    model = MODELS["llama_both"]()
    one, two = EnsembleGuide(model, 3), EnsembleGuide(model, 2)
    assert two.adapters == one.adapters[:2]
    assert all(torch.equal(value, two.member(1)[key]) for key, value in one.member(1).items())
