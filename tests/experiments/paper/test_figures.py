"""The paper's figures on tiny models: runs are made once, and what a figure shows is what its runs say."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import itertools
import random
import shutil
from functools import partial
from pathlib import Path

import pyro
import pytest
import tiny
import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from blob_pyro.errors import ConfigError
from blob_pyro.evaluation import evaluate
from blob_pyro.experiments.compare import compare
from blob_pyro.experiments.paper.figures import figure2, figure3, figure4, figure5
from blob_pyro.experiments.paper.figures.common import configuration, finished_runs, load_with_items
from blob_pyro.experiments.paper.figures.embeddings import relative_spread
from blob_pyro.experiments.paper.figures.hidden_states import hidden_states
from blob_pyro.experiments.paper.figures.num_samples import SMALL_COUNTS, scores_by_count
from blob_pyro.experiments.paper.figures.settings_grid import FULL_GRID, SMALL_GRID, cell_config
from blob_pyro.experiments.paper.order import Order
from blob_pyro.experiments.paper.scale_growth import scale_growth
from blob_pyro.experiments.paper.settings import is_encoder
from blob_pyro.prediction.predictive import PosteriorPredictive
from blob_pyro.runs.tuning import label_nlls, paired_difference
from blob_pyro.storage.answers import read_predictions
from blob_pyro.storage.directory import PREDICTIONS, read_config, read_json
from blob_pyro.system.terminal import SILENT, Console
from blob_pyro.training.kl_schedule import kl_schedule

pytestmark = [
    pytest.mark.slow,
    # two or three steps at the rate of eighty: the authors' step throws the spread beyond the prior, or leaves it
    pytest.mark.filterwarnings("ignore:the posterior is"),
]

CHANGES = {
    "data": {"num_train": 6, "num_test": 5, "num_validation": 0},
    "train": {"num_steps": 3, "batch_size": 3, "kl_cycle": 2},
    "model": {"r": 2, "lora_alpha": 4},
    "predict": {"num_samples": 3},
}
LETTERS = "ABCD"
EXAMPLES = Path(__file__).parents[3] / "examples"


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Path:
    """`tiny.llama` with a longer context, and a tokenizer in which the answers' letters are single tokens."""
    folder = shutil.copytree(tiny.llama(), tmp_path_factory.mktemp("networks") / "llama")
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=280,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(10 * [f" {letter}" for letter in LETTERS], trainer)
    tokenizer = tf.PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        settings = tiny.LLAMA | {"max_position_embeddings": 256, "vocab_size": len(tokenizer)}
        tf.LlamaForCausalLM(tf.LlamaConfig(**settings, pad_token_id=0)).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    """A few items of two benchmarks under their official field names."""
    folder = tmp_path_factory.mktemp("data")
    for task, train, row in (("winogrande", "train_s", winogrande), ("openbookqa", "train", openbookqa)):
        (folder / task).mkdir()
        for split, start, count in ((train, 0, 8), ("validation", 20, 6)):
            tiny.write_jsonl(folder / task / f"{split}.jsonl", [row(start + i) for i in range(count)])
    return folder


def winogrande(i: int) -> dict[str, str]:
    """A row whose options are a pair of their own."""
    return {"sentence": f"It _ {i}.", "option1": f"a{i}", "option2": f"b{i}", "answer": str(1 + i % 2)}


def openbookqa(i: int) -> dict[str, object]:
    """A row with four choices."""
    choices = {"text": [f"{word}{i}" for word in "pqrs"], "label": list(LETTERS)}
    return {"question_stem": f"Is it {i}?", "choices": choices, "answerKey": LETTERS[i % 4]}


@pytest.fixture(scope="module")
def order(llama, data_dir, tmp_path_factory) -> Order:
    """Three steps, two seeds. All figures share its directory, as under one --out."""
    return Order(
        path=tmp_path_factory.mktemp("reproduced"),
        model=str(llama),
        seeds=(0, 1),
        data_dir=str(data_dir),
        console=SILENT,
        changes=CHANGES,
    )


def read_csv(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8").splitlines()))


def run_of(order: Order, task: str, method: str) -> Path:
    """The run directory of seed 0, made if need be."""
    config = configuration(order, task)
    if not finished_runs(config, method, (0,)):
        compare(config, [method], (0,), progress=False, say=order.console.log)
    return finished_runs(config, method, (0,))[0]


def contents(order: Order) -> dict[Path, bytes]:
    """Every file below the order's directory."""
    return {path: path.read_bytes() for path in sorted(order.path.rglob("*")) if path.is_file()}


def check_files(order: Order, name: str, made, *pictures: str) -> None:
    """The four files are there, and two for each further picture; the text is the Markdown file's."""
    names = [f"{name}.md", f"{name}.csv", *(f"{one}.{end}" for one in (name, *pictures) for end in ("png", "svg"))]
    assert made.files == tuple(order.path / one for one in names)
    assert all(path.stat().st_size > 0 for path in made.files)
    assert made.files[0].read_text(encoding="utf-8").strip() == made.text


def check_again(figure, order: Order) -> None:
    """A second call makes no run and leaves every byte as it was."""
    before = contents(order)
    times = {path: path.stat().st_mtime_ns for path in before if "seed" in str(path)}
    lines: list[str] = []
    figure(dataclasses.replace(order, console=Console(False, lines.append)))
    runs = [line for line in lines if line.startswith("[")]
    assert len(runs) == len([line for line in lines if line.startswith("already done: ")]) > 0
    assert contents(order) == before
    assert {path: path.stat().st_mtime_ns for path in times} == times


# --- figure 2 ---


def test_figure2_grows_in_pulses_as_the_public_code_does(tmp_path):
    """The values were read off the public code's run: G0 about 0.043, M = 316; they hold to its third decimal."""
    made = figure2(Order(tmp_path / "new"))
    check_files(Order(tmp_path / "new"), "figure2", made)
    rows = read_csv(made.files[1])
    assert [int(row["step"]) for row in rows] == list(range(5001))
    pulsed = [float(row["σ = ρ², in pulses"]) for row in rows]
    assert [pulsed[316 * k] for k in (1, 2, 3, 4)] == pytest.approx([0.048, 0.084, 0.111, 0.132], abs=1e-3)
    assert pulsed[-1] == pytest.approx(0.187, abs=1e-3)
    assert max(float(row["σ = log(1 + exp ρ), in pulses"]) for row in rows) < 0.003


# --- figure 3 ---


def test_the_task_is_the_papers_but_for_small_models_that_learn_nothing_of_it(order):
    for scale, task in (("full", "winogrande_s"), ("small", "arc_easy")):
        config = configuration(dataclasses.replace(order, scale=scale, changes={}), "winogrande_s", "arc_easy")
        assert config.data.task == task
    assert configuration(order, "openbookqa").data.task == "openbookqa"
    asked = dataclasses.replace(order, tasks=("boolq", "rte"))
    assert configuration(asked, "winogrande_s", "arc_easy").data.task == "boolq"


def test_figure3_has_every_number_of_draws_and_resumes(order):
    order = dataclasses.replace(order, seeds=(0,), tasks=("winogrande_s",))
    made = figure3(order)
    check_files(order, "figure3", made)
    rows = {row["method"]: row for row in read_csv(made.files[1]) if row["row"] == "run"}
    assert list(rows) == [f"{method} N={count}" for method in ("BLoB", "BBB") for count in (0, *SMALL_COUNTS)]
    for name, title in (("blob", "BLoB"), ("bbb", "BBB")):
        stored = read_json(order.path / "runs" / "winogrande_s" / name / "seed0" / "metrics.json")
        assert float(rows[f"{title} N=0"]["nll"]) == stored["N=0"]["nll"]
        assert float(rows[f"{title} N=3"]["nll"]) == pytest.approx(stored["N=3"]["nll"], rel=1e-4)
    check_again(figure3, order)


@pytest.mark.parametrize("method", ["blob", "bbb"])
def test_n_draws_are_the_first_n_of_many(order, method):
    """Scores with N draws equal a prediction with N draws under the run's seed, up to how forwards round."""
    path = run_of(order, "winogrande_s", method)
    found = scores_by_count(path, SMALL_COUNTS)
    loaded = load_with_items(path)
    for count in (1, 3, 5):
        pyro.set_rng_seed(loaded.config.seed)
        alone = evaluate(PosteriorPredictive(loaded.run.model, loaded.run.guide, count)(loaded.items))
        assert found[count].to_dict() == pytest.approx(alone.to_dict(), rel=1e-4, abs=1e-6)


def test_a_file_cut_short_is_not_taken_for_a_whole_one(order):
    path = run_of(order, "winogrande_s", "blob")
    scores = scores_by_count(path, (2, 4))
    whole = path / "draws_N=4.safetensors"
    expected = whole.read_bytes()
    whole.rename(path / ".draws_N=4.safetensors.partial").write_bytes(b"cut")
    assert scores_by_count(path, (2, 4)) == scores
    assert whole.read_bytes() == expected


# --- figure 4 ---


def test_figure4_has_a_run_for_every_cell_and_resumes(order):
    scales, rates = (0.1, 0.2), (0.03,)
    order = dataclasses.replace(order, tasks=("winogrande_s",))
    made = figure4(order, grid=(scales, rates))
    check_files(order, "figure4", made, "figure4_lines")
    config = configuration(order, "winogrande_s")
    rows = {(row["method"], row["seed"]): row for row in read_csv(made.files[1]) if row["row"] == "run"}
    assert len(rows) == 4
    for scale in scales:
        for seed, path in finished_runs(cell_config(config, (scale, 0.03)), "blob", order.seeds).items():
            wanted = read_config(path)
            assert (wanted.model.prior_scale, wanted.train.kl_lr) == (scale, 0.03)
            stored = read_json(path / "metrics.json")["N=3"]
            assert float(rows[f"prior scale {scale:g}, KL rate 0.03", str(seed)]["nll"]) == stored["nll"]
    assert "± is the standard deviation over seeds (0, 1)" in made.text
    assert cell_config(config, (0.2, 0.03)) == config
    check_again(partial(figure4, grid=(scales, rates)), order)


def test_the_search_of_tune_is_replayed_on_the_runs_of_figure4(order, monkeypatch, capsys):
    """The two cells of the grid by hand: the other prior scale is taken where the held-out items show that it helps."""
    spec = importlib.util.spec_from_file_location("replay_tuning", EXAMPLES / "replay_tuning.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    order = dataclasses.replace(order, tasks=("winogrande_s",))
    figure4(order, grid=((0.1, 0.2), (0.03,)))
    config = configuration(order, "winogrande_s")
    wide, narrow = (
        label_nlls(read_predictions(finished_runs(cell_config(config, (scale, 0.03)), "blob", (0,))[0] / PREDICTIONS))
        for scale in (0.2, 0.1)
    )
    changed = set()
    for number, margin in itertools.product(range(10), (0.0, 0.5, 2.0, 1e9)):
        gain, change = script.replay(config, 0, margin, 3, number)
        items = random.Random(number).sample(range(5), 5)
        difference, error = paired_difference([narrow[i] for i in items[:3]], [wide[i] for i in items[:3]])
        assert change == (difference < -margin * error)
        expected = sum(wide[i] - narrow[i] for i in items[3:]) / 2 if change else 0.0
        assert gain == pytest.approx(expected, abs=1e-12)
        changed.add(change)
    assert changed == {True, False}
    monkeypatch.setattr("sys.argv", ["replay_tuning.py", str(order.path / "runs" / "winogrande_s"), "--num_held_out=3"])
    script.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 + len(script.MARGINS) and lines[0].startswith("| margin |")


@pytest.mark.parametrize("grid", [FULL_GRID, SMALL_GRID])
def test_the_kl_alone_is_stable_in_every_cell(grid):
    """Three pulses from either end of the law of the first standard deviation bring it no further than twice sigma_p.

    A cycle of 30 steps has the same pulse as a longer one, whose earlier weights are below 1e-9.
    """
    pulse = kl_schedule("reweighted", 30)
    for (scale, rate), root in itertools.product(itertools.product(*grid), (0.05 / 2**0.5, 0.05)):
        grown = scale_growth("square", init_scale=root**2, prior_scale=scale, kl_lr=rate, num_steps=90, kl_weight=pulse)
        assert 0 < grown[-1] < 1.2 * scale and grown.max() < 2 * scale


# --- figure 5 ---


def test_figure5_leaves_out_what_fails_and_goes_on_later(order, tmp_path):
    """A method whose runs cannot be written is missing; once they can, it alone is run, and then nothing."""
    order = dataclasses.replace(order, path=tmp_path, seeds=(0,))
    runs = tmp_path / "runs" / "openbookqa"
    runs.mkdir(parents=True)
    (runs / "dropout").write_text("no folder")
    made = figure5(order)
    assert "Failed: dropout, seed 0: " in made.text
    assert {row["method"] for row in read_csv(made.files[1])} == {"MLE (plain LoRA)", "BLoB"}
    (runs / "dropout").unlink()
    made = figure5(order)
    check_files(order, "figure5", made)
    rows = {row["method"]: row for row in read_csv(made.files[1]) if row["row"] == "run"}
    assert float(rows["MLE (plain LoRA)"]["spread"]) == 0
    assert float(rows["BLoB"]["spread"]) > 0 and float(rows["MC dropout"]["spread"]) > 0
    assert len(list(tmp_path.rglob("hidden_states_n=30_N=20.safetensors"))) == 3
    check_again(figure5, order)


@pytest.mark.parametrize("network", ["llama", "bert"])
def test_hidden_states_are_those_from_which_the_answer_is_read(order, network, data_dir, tmp_path):
    """The head on the kept states gives the predictive's probabilities; the states are transformers' own last ones."""
    if network == "bert":
        order = dataclasses.replace(order, model=str(long_bert(tmp_path)), tasks=("openbookqa",))
    config = configuration(order, "openbookqa")
    assert config.model.likelihood == ("sequence_classification" if network == "bert" else "multiple_choice")
    loaded = load_with_items(run_of(order, "openbookqa", "blob"))
    model, guide = loaded.run.model, loaded.run.guide
    pyro.set_rng_seed(4)
    found = hidden_states(model, guide, loaded.items, 3)
    pyro.set_rng_seed(4)
    answers = PosteriorPredictive(model, guide, 3)(loaded.items)
    torch.testing.assert_close(found.probs, answers.draws, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.labels, answers.labels)
    mean = hidden_states(model, guide, loaded.items, 0)
    for batch in loaded.items:
        for row, item in enumerate(batch.index.tolist()):
            ids = batch.input_ids[row][batch.attention_mask[row].bool()][None]
            with torch.no_grad():
                states = model.network(input_ids=ids, output_hidden_states=True).hidden_states[-1]
            expected = states[0, 0 if network == "bert" else -1]
            torch.testing.assert_close(mean.states[0, item], expected, rtol=1e-4, atol=1e-5)


def long_bert(folder: Path) -> Path:
    """`tiny.bert` with a longer context."""
    path = shutil.copytree(tiny.bert(), folder / "bert")
    config = tf.BertConfig.from_pretrained(path, max_position_embeddings=256)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        tf.BertModel(config).save_pretrained(path)
    return path


def test_spread_has_no_unit(order):
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(6, 5, 4, generator=generator)
    assert relative_spread(states) == pytest.approx(relative_spread(10 * states + 3))
    parts = [relative_spread(states, torch.arange(5) == i) ** 2 for i in range(5)]
    assert relative_spread(states) ** 2 == pytest.approx(sum(parts) / 5)


# --- what goes wrong, and how a model is read ---


def test_encoders_are_told_by_their_configuration(llama, tmp_path):
    assert is_encoder(str(tiny.bert())) and not is_encoder(str(llama)) and not is_encoder(None)
    (tmp_path / "empty").mkdir()
    assert not is_encoder(str(tmp_path / "empty"))


@pytest.mark.parametrize("figure", [figure3, figure4, figure5])
def test_without_a_finished_run_there_is_no_figure(order, tmp_path, figure):
    broken = dataclasses.replace(order, path=tmp_path / "out", seeds=(0,), data_dir=str(tmp_path))
    with pytest.raises(ConfigError, match="expected at least one run that ends; all failed: (blob|mle), seed 0: "):
        figure(broken)
