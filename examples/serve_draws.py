"""Bayesian model averaging without blob_pyro: K exported draws on one base, in one forward of plain PEFT.

    python examples/serve_draws.py                     # trains a short run on tweets first: minutes on two cores
    python examples/serve_draws.py --run runs/short    # a run of your own whose answers are single tokens

`blob-pyro export RUN --as draws:K` writes K ordinary PEFT adapters. PEFT's mixed batch takes a row's adapter by name:
B prompts under K draws are one forward of K x B rows; a server of many adapters does the same with K requests.
The average of the draws' probabilities is what `PosteriorPredictive` answers on the same draws: the script prints both,
and the largest difference.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

import blob_pyro as bp
from blob_pyro.config.sections import DataConfig, ModelConfig, PredictConfig, RunConfig, TrainConfig
from blob_pyro.errors import ConfigError
from blob_pyro.model.place import locate
from blob_pyro.runs.build import encode_items, load_data
from blob_pyro.runs.exports import check_manifest
from blob_pyro.storage.directory import read_config
from blob_pyro.system.terminal import quiet_libraries


@dataclass(frozen=True)
class Served:
    """Probabilities of n prompts and K answers, (n, K), by both roads.

    Attributes:
        peft: averaged over PEFT's mixed batch.
        library: of `PosteriorPredictive`.
        labels: (n,) the true answers.
        mean: of the posterior mean alone, by `PosteriorPredictive`.
    """

    peft: Tensor
    library: Tensor
    labels: Tensor
    mean: Tensor

    @property
    def difference(self) -> float:
        """The largest difference of a probability between the two roads."""
        return float((self.peft - self.library).abs().max())

    @property
    def against_the_mean(self) -> float:
        """The largest difference of a probability between the draws' average and the posterior mean alone."""
        return float((self.library - self.mean).abs().max())


class DrawServer:
    """The exported draws of a folder on one base network, as plain PEFT serves them.

    Args:
        folder: what `export` wrote as draws:K.
        base: the base network, by transformers.
    """

    def __init__(self, folder: Path, base: Any) -> None:
        manifest = check_manifest(folder)
        self.names: list[str] = manifest["draws"]
        self.answers: list[int] = manifest["likelihood"]["settings"]["token_ids"]
        first, *others = self.names
        self.network = PeftModel.from_pretrained(base, str(folder / first), adapter_name=first)
        for name in others:
            self.network.load_adapter(str(folder / name), adapter_name=name)
        self.network.eval()

    def __call__(self, batch: bp.Batch) -> Tensor:
        """The average over the draws of each prompt's probabilities, (B, K); prompts are padded on the right."""
        count = len(self.names)
        ids, mask = (value.repeat(count, 1) for value in (batch.input_ids, batch.attention_mask))
        rows = [name for name in self.names for _ in range(len(batch))]
        with torch.no_grad():
            logits = self.network(input_ids=ids, attention_mask=mask, adapter_names=rows).logits
        last = logits[torch.arange(len(rows)), mask.sum(1) - 1]
        probs: Tensor = last[:, self.answers].float().softmax(-1)
        return probs.unflatten(0, (count, len(batch))).mean(0)


def compare(run_dir: Path, num_draws: int, num_items: int, batch_size: int, dtype: str) -> Served:
    """Export draws of a run, answer some of its test items with them, and with `PosteriorPredictive`."""
    config = read_config(run_dir)
    run = bp.load(run_dir, base=plain_base(config.model.id, dtype))
    run.model.tokenizer = bp.load_tokenizer(config.model.id)
    if not isinstance(run.model.likelihood, bp.MultipleChoice):
        raise ConfigError(f"{run_dir}: expected a run whose answers are single tokens; got {run.model.likelihood!r}")
    items = encode_items(load_data(config).test[:num_items], run.model, config.data, config.data.test_file)
    batches = list(bp.predict_loader(items, batch_size, run.model.tokenizer.pad_token_id))
    with tempfile.TemporaryDirectory() as name:
        folder = bp.export(run_dir, f"draws:{num_draws}", output=Path(name) / "draws", seed=config.seed)
        server = DrawServer(folder, plain_base(config.model.id, dtype))
        peft = torch.cat([server(batch.right_padded()) for batch in batches])
    pyro.set_rng_seed(config.seed)
    library = bp.PosteriorPredictive(run.model, run.guide, num_draws)(batches)
    mean = bp.PosteriorPredictive(run.model, run.guide, 0)(batches)
    assert library.labels is not None
    order = torch.cat([torch.as_tensor(batch.index) for batch in batches]).argsort()
    return Served(peft[order], library.probs, library.labels, mean.probs)


def plain_base(id_or_path: str, dtype: str) -> Any:
    """The base network by transformers alone."""
    return AutoModelForCausalLM.from_pretrained(locate(id_or_path).path, dtype=dtype)


def short_run(folder: Path, num_steps: int, num_items: int) -> Path:
    """BLoB on a few tweets."""
    config = RunConfig(
        data=DataConfig(task="tweets", num_train=120, num_test=num_items),
        model=ModelConfig(id="smollm2", target_modules=["q_proj", "v_proj"]),
        train=TrainConfig(num_steps=num_steps, lr=2e-3),
        predict=PredictConfig(num_samples=0),  # the draws come below
        output=str(folder / "run"),
    )
    return bp.fit_run(config, progress=False).path


def parse(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--run", type=Path, help="a run directory; without one a short run on tweets is made")
    parser.add_argument("--num_draws", type=int, default=5)
    parser.add_argument("--num_items", type=int, default=32, help="test items to answer")
    parser.add_argument("--batch_size", type=int, default=8, help="prompts in a forward")
    parser.add_argument("--num_steps", type=int, default=60, help="of the short run")
    parser.add_argument("--dtype", default="float32", help="of the base in both roads; bfloat16 rounds them apart")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> Served:
    options = parse(words)
    with tempfile.TemporaryDirectory() as name, quiet_libraries():
        run_dir = options.run or short_run(Path(name), options.num_steps, options.num_items)
        served = compare(run_dir, options.num_draws, options.num_items, options.batch_size, options.dtype)
    for title, probs in (("PEFT's mixed batch", served.peft), ("PosteriorPredictive", served.library)):
        metrics = bp.evaluate(bp.Predictions(probs, probs[None], served.labels))
        print(f"{title:<19} accuracy {100 * metrics.accuracy:.1f} %, NLL {metrics.nll:.4f}")
    print(f"{len(served.labels)} items, {options.num_draws} draws: the largest difference of a probability")
    print(f"  between the two roads          {served.difference:.1e}")
    print(f"  to the posterior mean alone    {served.against_the_mean:.1e}")
    return served


if __name__ == "__main__":
    main()
