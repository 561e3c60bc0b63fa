"""Does the default posterior help? Plain LoRA against BLoB as it comes, over grids of tasks, sizes and rates.

    python examples/defaults.py report --out DIR               # two hours of one core: the cells of docs/defaults.md
    python examples/defaults.py choosing --out DIR --widening 0.5 0.7 1.0
    python examples/defaults.py table DIR/report-*.jsonl

Both systems see the same items, steps, batches, AdamW and seeds through `bp.fit`; nothing of the KL is set. A run is a
line of JSON in DIR, and a run that is there already is not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from peft import LoraConfig, get_peft_model

import blob_pyro as bp
from blob_pyro.config.sections import DataConfig, ModelConfig, RunConfig
from blob_pyro.data.batches.collate import padding_id
from blob_pyro.evaluation.bins import calibrated_ece
from blob_pyro.report import markdown_table
from blob_pyro.runs.build import build_parts, load_data

CLASSES, LENGTH, VOCAB, ANSWERS = 3, 10, 160, (4, 5, 6)
LLAMA = tf.LlamaConfig(
    vocab_size=VOCAB,
    hidden_size=64,
    intermediate_size=128,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=4,
    max_position_embeddings=32,
    initializer_range=0.1,
    pad_token_id=0,
)
LLAMA_TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Cell:
    """A setting. `words` and `noise` are those of the keyword task, whose `task` is "keywords"."""

    task: str
    num_data: int
    num_steps: int
    lr: float
    model: str = "llama"
    words: int = 8
    noise: float = 0.1

    @property
    def name(self) -> str:
        """As in the tables."""
        kind = f"keywords, {self.words} a class, noise {self.noise:g}" if self.task == "keywords" else self.task
        return f"{kind}; {self.model}; {self.num_data} items, {self.num_steps} steps, lr {self.lr:g}"


CHOOSING = (
    Cell("keywords", 120, 60, 1e-2, words=12),
    Cell("keywords", 120, 200, 1e-2, words=12),
    Cell("keywords", 120, 600, 3e-3, words=12),
    Cell("keywords", 40, 100, 1e-2, words=12),
    Cell("keywords", 500, 300, 5e-3, words=12),
    Cell("keywords", 2000, 600, 5e-3, words=12),
    Cell("keywords", 240, 300, 1e-2, words=4, noise=0.0),
    Cell("keywords", 120, 600, 5e-3, words=4, noise=0.0),
    Cell("tweets", 240, 150, 3e-3, "minilm"),
    Cell("tweets", 120, 300, 3e-3, "minilm"),
    Cell("tweets", 40, 100, 2e-3, "minilm"),
    Cell("tweets", 60, 60, 1e-3, "smollm2"),
    Cell("keywords", 60, 20, 1e-2),
    Cell("keywords", 80, 400, 1e-2),
    Cell("keywords", 160, 100, 1e-2),
    Cell("keywords", 160, 100, 3e-3),
    Cell("keywords", 640, 1000, 3e-3),
    Cell("keywords", 1500, 400, 1e-2),
    Cell("keywords", 320, 240, 1e-2, words=5, noise=0.0),
    Cell("tweets", 80, 60, 5e-3, "minilm"),
    Cell("tweets", 160, 240, 1e-3, "minilm"),
    Cell("tweets", 400, 300, 3e-3, "minilm"),
    Cell("cola", 200, 200, 2e-3, "minilm"),
    Cell("mrpc", 100, 200, 2e-3, "minilm"),
)
REPORT = (
    Cell("keywords", 40, 20, 1e-2, words=10, noise=0.15),
    Cell("keywords", 60, 300, 1e-2, words=10, noise=0.15),
    Cell("keywords", 100, 600, 3e-3, words=10, noise=0.15),
    Cell("keywords", 200, 150, 1e-2, words=10, noise=0.15),
    Cell("keywords", 200, 150, 3e-3, words=10, noise=0.15),
    Cell("keywords", 800, 1000, 3e-3, words=10, noise=0.15),
    Cell("keywords", 2000, 500, 1e-2, words=10, noise=0.15),
    Cell("keywords", 400, 400, 5e-3, words=6, noise=0.0),
    Cell("tweets", 100, 100, 3e-3, "minilm"),
    Cell("tweets", 200, 250, 1e-3, "minilm"),
    Cell("tweets", 500, 250, 3e-3, "minilm"),
    Cell("cola", 300, 300, 2e-3, "minilm"),
    Cell("mrpc", 150, 200, 2e-3, "minilm"),
    Cell("tweets", 60, 60, 1e-3, "smollm2"),
    Cell("tweets", 160, 120, 2e-3, "smollm2"),
)
NUM_TEST = {"llama": 500, "minilm": 300, "smollm2": 150}
NUM_SAMPLES, BATCH_SIZE = 10, 4

Fitted = Callable[[str, bp.TrainConfig], bp.Predictions]


def keyword_items(num: int, cell: Cell, seed: int) -> bp.Batch:
    """Random words with two keywords of the item's class among them; of a share `noise` the label is drawn anew."""
    generator = torch.Generator().manual_seed(seed)

    def draw(high: int) -> torch.Tensor:
        return torch.randint(high, (num,), generator=generator)

    labels, ids = draw(CLASSES), torch.randint(50, VOCAB, (num, LENGTH), generator=generator)
    for _ in range(2):
        ids[torch.arange(num), draw(LENGTH)] = 8 + labels * cell.words + draw(cell.words)
    redrawn = torch.rand(num, generator=generator) < cell.noise
    labels = torch.where(redrawn, draw(CLASSES), labels)
    ids = torch.cat([ids, torch.full((num, 1), 3)], dim=1)
    return bp.Batch(ids, torch.ones_like(ids), labels, index=torch.arange(num))


class Shuffled:
    """Batches of a tensor data set, in a new order each pass that comes from `generator` alone."""

    def __init__(self, items: bp.Batch, seed: int) -> None:
        self.items, self.generator = items, torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[bp.Batch]:
        order = torch.randperm(len(self.items), generator=self.generator).tolist()
        for start in range(0, len(order), BATCH_SIZE):
            yield self.items.select(order[start : start + BATCH_SIZE])


def on_keywords(cell: Cell, seed: int) -> Fitted:
    """The keyword task with a random two-block Llama, the same for every seed."""
    train, test = keyword_items(cell.num_data, cell, 7 * seed + 1), keyword_items(NUM_TEST["llama"], cell, 999_983)

    def fitted(guide: str, config: bp.TrainConfig) -> bp.Predictions:
        torch.manual_seed(1234)
        base = tf.LlamaForCausalLM(LLAMA)
        torch.manual_seed(seed)
        network = get_peft_model(base, LoraConfig(r=8, target_modules=LLAMA_TARGETS, task_type="CAUSAL_LM"))
        model = bp.BayesianLoRA(network, bp.MultipleChoice(ANSWERS), num_data=cell.num_data)
        return _answers(model, guide, Shuffled(train, seed), test, config, seed)

    return fitted


def on_texts(cell: Cell, seed: int, data_dir: str | None) -> Fitted:
    """A built-in task with MiniLM, whose head tells the classes apart, or with SmolLM2, which answers in words."""
    encoder = cell.model == "minilm"
    config = RunConfig(
        data=DataConfig(
            task=cell.task, num_train=cell.num_data, num_test=NUM_TEST[cell.model],
            data_dir=None if cell.task == "tweets" else data_dir,
        ),
        model=ModelConfig(
            id=cell.model, likelihood="sequence_classification" if encoder else "multiple_choice",
            target_modules=None if encoder else ["q_proj", "v_proj"], dtype="float32",
        ),
        seed=seed,
    )  # fmt: skip
    data = load_data(config)

    def fitted(guide: str, train: bp.TrainConfig) -> bp.Predictions:
        parts = build_parts(config, data)
        pad = padding_id(parts.model.tokenizer)
        loader = bp.train_loader(parts.items.train, BATCH_SIZE, pad, seed)
        test = bp.predict_loader(parts.items.test, 64, pad)
        return _answers(parts.model, guide, loader, test, train, seed)

    return fitted


def _answers(model: bp.BayesianLoRA, name: str, loader: Any, test: Any, config: bp.TrainConfig, seed: int) -> Any:
    torch.manual_seed(seed)
    guide = bp.guides.GUIDES[name](model)
    bp.fit(model, guide, loader, config, progress=False)
    torch.manual_seed(seed)
    return bp.PosteriorPredictive(model, guide, NUM_SAMPLES if name == "blob" else 0)(test)


def scores(predictions: bp.Predictions) -> dict[str, float]:
    """Accuracy, NLL in nats, ECE, and what its ECE would be on average if the answers were calibrated."""
    found = bp.evaluate(predictions)
    floor, _ = calibrated_ece(predictions)
    return {"accuracy": found.accuracy, "nll": found.nll, "ece": found.ece, "floor": floor}


def run(cell: Cell, seed: int, width: float | None, data_dir: str | None) -> dict[str, Any]:
    """One line: the scores of plain LoRA where `width` is 0, else of BLoB, at its default width where that is None."""
    torch.set_num_threads(1)
    fitted = on_keywords(cell, seed) if cell.task == "keywords" else on_texts(cell, seed, data_dir)
    config = bp.TrainConfig(num_steps=cell.num_steps, batch_size=BATCH_SIZE, lr=cell.lr)
    return scores(fitted("mle", config) if width == 0 else fitted("blob", replace(config, kl_width=width)))


def width_of(cell: Cell, widening: float) -> float:
    """What the rule of `kl_rate.default_width` gives for another constant."""
    return max(0.1, min(0.9, math.tanh(widening * math.sqrt(cell.num_steps * BATCH_SIZE / cell.num_data**1.5))))


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A row for each cell and system: means over the seeds, paired differences to plain LoRA, and the bars not met."""
    found = []
    for name in dict.fromkeys(row["cell"] for row in rows):
        here = [row for row in rows if row["cell"] == name]
        plain = {row["seed"]: row for row in here if row["system"] == "plain"}
        for system in dict.fromkeys(row["system"] for row in here):
            own = {row["seed"]: row for row in here if row["system"] == system}
            seeds = sorted(own.keys() & plain.keys())
            pairs = [(own[seed], plain[seed]) for seed in seeds]
            means = [statistics.fmean(one[score] for one, _ in pairs) for score in ("accuracy", "nll", "ece", "floor")]
            cells = [f"{100 * means[0]:.1f}", f"{means[1]:.3f}", f"{100 * means[2]:.1f}", f"{100 * means[3]:.1f}"]
            nll, accuracy = (_difference(pairs, score) for score in ("nll", "accuracy"))
            told = ["", "", ""]
            if system != "plain":
                told = [f"{nll[0]:+.3f} ± {nll[1]:.3f}", f"{100 * accuracy[0]:+.1f} ± {100 * accuracy[1]:.1f}"]
                told.append(_missed(pairs, nll, accuracy))
            found.append([name, system, str(len(pairs)), *cells, *told])
    heads = ["cell", "system", "seeds", "acc. %", "NLL", "ECE %", "floor", "NLL - plain", "acc. - plain", "missed"]
    return markdown_table(heads, found)


def _difference(pairs: Sequence[tuple[Any, Any]], score: str) -> tuple[float, float]:
    """Mean over the seeds, and its standard error."""
    each = [one[score] - other[score] for one, other in pairs]
    return statistics.fmean(each), statistics.stdev(each) / math.sqrt(len(each)) if len(each) > 1 else math.nan


def _missed(pairs: Sequence[tuple[Any, Any]], nll: tuple[float, float], accuracy: tuple[float, float]) -> str:
    """Which of the bars are not met: NLL, accuracy; where plain LoRA is overconfident, half its ECE and a lower NLL."""
    own, plain, floor = (
        statistics.fmean(values)
        for values in zip(*((one["ece"], other["ece"], other["floor"]) for one, other in pairs), strict=True)
    )
    sure = plain > 2 * floor
    bars = {
        "NLL": nll[0] > 0.02 + 2 * nll[1],
        "accuracy": accuracy[0] < -0.01 - 2 * accuracy[1],
        "half the ECE": sure and own > plain / 2,
        "lower NLL": sure and nll[0] >= 0,
    }
    return ", ".join(name for name, missed in bars.items() if missed) or "none"


def main() -> None:
    """Run a grid, or show the table of what was run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("choosing", "report", "table"))
    parser.add_argument("files", nargs="*", type=Path, help="of the runs that a table is made of")
    parser.add_argument("--out", type=Path, default=Path("runs/defaults"), help="folder of the runs")
    parser.add_argument("--seeds", nargs="+", type=int, help="default: 100 to 102 for choosing, 5 to 9 for the report")
    parser.add_argument("--models", nargs="+", default=list(NUM_TEST), choices=NUM_TEST, help="leave out others' cells")
    parser.add_argument("--widening", nargs="+", type=float, help="constants of the rule in place of the default's")
    parser.add_argument(
        "--data_dir", help="folder of cola and mrpc (docs/data.md); without it their cells are left out"
    )
    options = parser.parse_args()
    if options.what == "table":
        print(table([json.loads(line) for file in options.files for line in file.read_text().splitlines()]))
        return
    grid, seeds = (CHOOSING, range(100, 103)) if options.what == "choosing" else (REPORT, range(5, 10))
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / f"{options.what}-{'-'.join(options.models)}.jsonl"
    rows = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    done = {(row["cell"], row["system"], row["seed"]) for row in rows}
    for seed, cell in itertools.product(options.seeds or seeds, grid):
        if cell.model not in options.models or (cell.task in ("cola", "mrpc") and options.data_dir is None):
            continue
        tried: dict[str, float | None] = {f"widening {one:g}": width_of(cell, one) for one in options.widening or ()}
        systems = {"plain": 0.0} | (tried or {"BLoB": None})
        for system, width in systems.items():
            if (cell.name, system, seed) not in done:
                row = {"cell": cell.name, "system": system, "seed": seed}
                row |= run(cell, seed, width, options.data_dir) | {"setting": asdict(cell)}
                with file.open("a", encoding="utf-8") as out:
                    out.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
