"""Every contender does its work, and those that compute the same thing agree."""

from __future__ import annotations

import cases
import pytest
import tiny
import torch
import torch.nn.functional as F

from blob_pyro.errors import ConfigError, ModelLoadError
from blob_pyro.experiments.bench import networks
from blob_pyro.experiments.bench.batches import answer_tokens, prompt_batch, prompt_lengths, train_batches
from blob_pyro.experiments.bench.bookkeeping import NUM_LABELS, VOCAB_SIZE, adapters_only, num_normals
from blob_pyro.experiments.bench.lineup import line_up, num_tokens, own_sites
from blob_pyro.experiments.bench.networks import Base, full_logits
from blob_pyro.experiments.bench.prediction import PREDICTORS
from blob_pyro.experiments.bench.settings import CONTENDERS, LLAMA_7B, BenchSettings, Case
from blob_pyro.experiments.bench.training import NUM_DATA, TRAINEES, Blob, LoRAAnswer
from blob_pyro.model.likelihoods import SequenceClassification

LENGTH = 9


def tiny_settings(**changes):
    small = {"model": str(tiny.llama()), "length": (LENGTH,), "r": 4, "num_prompts": 5, "min_length": 4}
    return BenchSettings(**(small | {"max_length": 12, "num_samples": (3,)} | changes))


@pytest.fixture(scope="module")
def base():
    return Base(tiny_settings())


def trainee(base, name, *, filled=True):
    kind = TRAINEES[name]
    network = base.adapted(plain=kind.plain_attention)
    if filled:
        fill(network)
    return kind(network, base.likelihood)


def fill(network):
    """The same B for every contender, not zero."""
    with torch.random.fork_rng():
        torch.manual_seed(2)
        cases.fill_B(network)


def batches(base):
    return train_batches(base.settings, LENGTH, base.vocab_size)


# --- training ---


def test_every_name_has_a_contender():
    assert tuple(TRAINEES) == CONTENDERS["train"] and tuple(PREDICTORS) == CONTENDERS["predict"]


@pytest.mark.parametrize("name", TRAINEES)
def test_every_contender_trains_its_adapter(base, name):
    one = trainee(base, name)
    before = cases.snapshot(one.network)
    frozen = [tensor.clone() for tensor in base.tensors()]
    for batch in batches(base)[:2]:
        assert one.step(batch) > 0
    if name == "naive_pyro":  # its A lives in the guide
        locations = [p.detach() for key, p in one.guide.named_parameters() if "locs" in key]
        assert len(locations) == len(one.A)
        assert not any(torch.equal(*pair) for pair in zip(locations, one.A.values(), strict=True))
        before = {key: value for key, value in before.items() if "lora_B" in key}
    after = cases.snapshot(one.network)
    assert before and not any(torch.equal(before[key], after[key]) for key in before)
    assert all(torch.equal(*pair) for pair in zip(frozen, base.tensors(), strict=True))


@pytest.mark.parametrize("name", ["blob", "blob_no_flipout"])
def test_ours_trains_the_spread(base, name):
    one = trainee(base, name)
    before = [p.detach().clone() for p in one.guide.parameters()]
    one.step(batches(base)[0])
    assert before and not any(torch.equal(*pair) for pair in zip(before, one.guide.parameters(), strict=True))


def test_naive_pyros_spread_moves_too(base):
    one = trainee(base, "naive_pyro")
    one.step(batches(base)[0])
    before = [p.detach().clone() for p in one.guide.parameters()]
    one.step(batches(base)[1])
    assert before and not any(torch.equal(*pair) for pair in zip(before, one.guide.parameters(), strict=True))


def test_plain_contenders_have_the_same_losses(base):
    full, answer = trainee(base, "lora_full"), trainee(base, "lora_answer")
    for batch in batches(base):
        assert full.step(batch) == pytest.approx(answer.step(batch), rel=1e-4)


def test_the_plain_loss_is_the_cross_entropy_of_the_answers(base):
    batch, full = batches(base)[0], trainee(base, "lora_full")
    with torch.no_grad():
        logits = full.network(batch.input_ids).logits[:, -1, list(answer_tokens(base.vocab_size))]
    assert full.step(batch) == pytest.approx(F.cross_entropy(logits, batch.labels).item(), rel=1e-5)


def test_where_B_is_zero_all_see_the_same_likelihood(base):
    """No draw of A can matter then; naive Pyro's loss adds log q - log p of its draw, and sums over the items."""
    batch = batches(base)[0]
    losses = [trainee(base, name, filled=False).step(batch) for name in TRAINEES if name != "naive_pyro"]
    assert losses == pytest.approx([losses[0]] * len(losses), rel=1e-5)


def test_naive_pyros_model_computes_with_the_sampled_A(base):
    """With A given, its observed log-probability is that of a network which holds this A."""
    import pyro
    from pyro import poutine

    one, batch = trainee(base, "naive_pyro"), batches(base)[0]
    values = {name: A + 0.5 for name, A in one.A.items()}
    trace = poutine.trace(poutine.condition(one.model, data=values)).get_trace(batch)
    found = trace.nodes["label"]["fn"].log_prob(batch.labels)
    with torch.no_grad():
        for name, parameter in one.network.named_parameters():
            if name in values:
                parameter.copy_(values[name])
        expected = full_logits(one.network, batch, base.likelihood.token_ids).log_softmax(-1)
    torch.testing.assert_close(found, expected[range(len(batch)), batch.labels])
    pyro.clear_param_store()


def test_blob_trains_as_fit_does(base):
    one = trainee(base, "blob")
    assert isinstance(one, Blob) and one.model.num_data == NUM_DATA
    assert one.network.training


# --- prediction ---


@pytest.fixture
def predictors(base):
    made = {}
    for name, kind in PREDICTORS.items():
        network = base.adapted(plain=kind.plain_attention)
        fill(network)
        made[name] = kind(network, base.likelihood, 3)
    return made


def test_predictions_agree_where_the_posterior_is_a_point(base, predictors):
    for name in ("blob", "predictive"):
        with torch.no_grad():
            for root_scale in predictors[name].guide.parameters():
                root_scale.fill_(1e-5)  # the standard deviation is its square
    batch = prompt_batch(base.settings, base.vocab_size)
    probs = {name: one.predict(batch) for name, one in predictors.items()}
    for found in probs.values():
        torch.testing.assert_close(found, probs["lora_full"], atol=1e-4, rtol=1e-4)
    assert (probs["lora_full"].std(0) > 1e-3).all(), "the prompts must differ, or agreement says nothing"


def test_plain_predictions_run_n_forwards(base, predictors):
    calls = []
    one = predictors["lora_full"]
    one.network.get_base_model().register_forward_hook(lambda *_: calls.append(1))
    one.predict(prompt_batch(base.settings, base.vocab_size))
    assert len(calls) == 3 and not one.network.training


# --- batches ---


def test_prompts_have_lengths_from_shortest_to_longest():
    settings = tiny_settings()
    batch = prompt_batch(settings, 50)
    assert sorted(batch.attention_mask.sum(1).tolist()) == prompt_lengths(settings) == [4, 6, 8, 10, 12]
    assert batch.right_padded() is batch and int(batch.input_ids.max()) < 50
    assert num_tokens(settings, Case("predict", 2, num_samples=3), 50) == 40
    assert num_tokens(settings, Case("train", 2, length=LENGTH), 50) == 4 * LENGTH


def test_one_prompt_is_the_shortest():
    assert prompt_lengths(tiny_settings(num_prompts=1)) == [4]


def test_batches_are_the_same_at_every_call_and_differ_among_themselves(base):
    first, again = batches(base), batches(base)
    assert all(torch.equal(a.input_ids, b.input_ids) for a, b in zip(first, again, strict=True))
    assert not torch.equal(first[0].input_ids, first[1].input_ids)


# --- networks ---


def test_contenders_share_the_base_and_nothing_else(base):
    one, other = base.adapted(), base.adapted(plain=True)
    mine, theirs = dict(one.named_parameters()), dict(other.named_parameters())
    for name, parameter in mine.items():
        assert torch.equal(parameter, theirs[name])
        assert (parameter is theirs[name]) == ("lora" not in name)


def test_the_first_layers_are_kept(base):
    short, whole = base.adapted(1), base.adapted()
    assert len(short.get_base_model().model.layers) == 1 and len(whole.get_base_model().model.layers) == 2
    assert own_sites(base, 1) == (32, 32) and own_sites(base, 2) == (32,) * 4
    batch = batches(base)[0]
    with torch.no_grad():
        network = whole.get_base_model()
        hidden = network.model(batch.input_ids, output_hidden_states=True).hidden_states[1]
        expected = network.lm_head(network.model.norm(hidden))
        torch.testing.assert_close(short(batch.input_ids).logits, expected)


def test_attention_is_the_asked_for_or_each_ones_default(base):
    def attention(network):
        return network.get_base_model().config._attn_implementation

    assert attention(base.adapted(plain=True)) == "sdpa"
    eager = Base(tiny_settings(attn_implementation="eager"))
    assert attention(eager.adapted(plain=True)) == attention(eager.adapted()) == "eager"


def test_what_the_model_cannot_do_is_refused():
    with pytest.raises(ConfigError, match="layers: expected at most 2 with this model; got 3"):
        Base(tiny_settings(layers=(1, 3)))
    with pytest.raises(ConfigError, match="length: expected at most 48 with this model; got 49"):
        Base(tiny_settings(length=(8, 49)))
    with pytest.raises(ConfigError, match="target_modules: expected some of .*q_proj.*; got query"):
        Base(tiny_settings(target_modules=("query",))).adapted()
    with pytest.raises(ModelLoadError, match="expected a hub id"):
        Base(tiny_settings(model="./none"))


@pytest.mark.parametrize("quantization", ["4bit", "8bit"])
def test_quantised_bases_are_not_shared(quantization):
    """At a forward bitsandbytes changes a layer's storage: a later contender must not meet that."""
    base = Base(tiny_settings(model=str(cases.base_folder()), quantization=quantization))
    batch = prompt_batch(base.settings, base.vocab_size)
    with torch.no_grad():
        expected = full_logits(base.adapted().eval(), batch, base.likelihood.token_ids)
        for name in PREDICTORS:
            PREDICTORS[name](base.adapted(), base.likelihood, 1).predict(batch)
        torch.testing.assert_close(full_logits(base.adapted().eval(), batch, base.likelihood.token_ids), expected)
    for name in TRAINEES:
        assert trainee(base, name).step(batches(base)[0]) > 0


@pytest.mark.parametrize("quantization", [None, "4bit"])
def test_a_random_llama(monkeypatch, quantization):
    small = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "vocab_size": 101}
    monkeypatch.setattr(networks, "LLAMA_7B_SHAPES", small)
    settings = tiny_settings(model=LLAMA_7B, layers=(1, 2), quantization=quantization)
    base = Base(settings)
    assert (base.vocab_size, base.num_layers) == (101, 2)
    ours, plain = base.adapted().get_base_model(), base.adapted(plain=True).get_base_model()
    assert ours.lm_head.weight.dtype == torch.bfloat16
    attention = [network.config._attn_implementation for network in (ours, plain)]
    assert attention == ["eager", "sdpa"], "the library's choice for bfloat16 on a CPU, and transformers'"
    assert trainee(base, "blob").step(batches(base)[0]) > 0


def test_the_shapes_are_llama_2_7bs():
    """6.74e9 weights; the meta device holds none of them."""
    import transformers

    config = transformers.LlamaConfig(**networks.LLAMA_7B_SHAPES, num_hidden_layers=networks.LLAMA_7B_LAYERS)
    with torch.device("meta"):
        network = transformers.LlamaForCausalLM(config)
    assert sum(p.numel() for p in network.parameters()) == 6_738_415_616


# --- bookkeeping ---


def test_bookkeeping_applies_each_draw_once():
    settings, sizes = tiny_settings(), (24, 32, 24)
    network = adapters_only(settings, sizes)
    one = Blob(network, SequenceClassification(NUM_LABELS))
    assert [layer.in_features for layer in one.model.sites.values()] == list(sizes)
    assert num_normals(settings, sizes) == sum(one.model.location(site).numel() for site in one.model.sites)
    calls = []
    for layer in one.model.sites.values():
        layer.lora_A["default"].register_forward_hook(lambda module, inputs, output: calls.append(inputs[0].shape))
    (batch, *_) = train_batches(settings, 1, VOCAB_SIZE)
    one.step(batch)
    assert calls == [(4, 1, size) for size in sizes]


def test_bookkeeping_contenders_start_alike_and_train():
    settings = tiny_settings()
    made = [kind(adapters_only(settings, (16, 16)), SequenceClassification(NUM_LABELS)) for kind in (LoRAAnswer, Blob)]
    (batch, other, *_) = train_batches(settings, 1, VOCAB_SIZE)
    losses = [one.step(batch) for one in made]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for one in made:
        before = cases.snapshot(one.network)
        one.step(other)
        after = cases.snapshot(one.network)
        assert not any(torch.equal(before[name], after[name]) for name in before)


# --- the line-up ---


@pytest.mark.parametrize(
    "case",
    [Case("train", 1, length=LENGTH), Case("predict", 2, num_samples=2), Case("bookkeeping", in_features=(8, 8))],
)
def test_the_line_up_runs(base, case):
    names = CONTENDERS[case.part]
    actions = line_up(base.settings, case, None if case.part == "bookkeeping" else base, names)
    assert tuple(actions) == names
    for number in range(2):
        assert all(action(number) is not None for action in actions.values())
