"""`blob-pyro fit`."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import ArgumentParser

from blob_pyro.cli.command import Command, add_base, add_quiet, add_run_config, command_parser, config_of, print_metrics
from blob_pyro.runs.fit import fit_run
from blob_pyro.system.printing import tell_line
from blob_pyro.system.processes import connected


def _fit_parser() -> ArgumentParser:
    parser = command_parser(
        "fit",
        "blob-pyro fit CONFIG.yaml [--key value ...]",
        """
        Fine-tune, predict the test items, write a run directory. Every key of the YAML
        file is an option too: of a key under `train:` it is --train.KEY.

        example: blob-pyro fit my.yaml --train.num_steps 200 --output runs/short
        """,
    )
    parser.add_argument("--config", action="config", help="a YAML file; the same as CONFIG.yaml")
    add_run_config(parser)
    parser.add_argument(
        "--resume", action="store_true",
        help="go on with a run that was stopped or killed; with more train.num_steps, with one that is done",
    )  # fmt: skip
    add_base(parser)
    add_quiet(parser)
    return parser


def _fit(parser: ArgumentParser, words: Sequence[str]) -> None:
    config, parsed = config_of(parser, words)
    with connected() as ranks:
        result = fit_run(config, resume=parsed.resume, base=parsed.base, progress=not parsed.quiet)
        if ranks.is_first:
            print_metrics(result.metrics)
            tell_line(f"wrote {result.path}")


FILE = """\
The smallest file (.jsonl, .csv, .tsv, .parquet; labels that are left out are
those of train_file):

  data:
    train_file: train.jsonl              # {"text": "Nice day", "label": "positive"}
    test_file: test.jsonl
    prompt: "Tweet: {text}\\nSentiment:"  # in double quotes, so that \\n is a new line
    labels: [" negative", " positive"]   # best a single token each: mind the space

With `model: {likelihood: causal_lm}` and, under data, `completion: " {answer}"`,
what follows the prompt is learnt token by token, and no label is needed
(docs/likelihoods.md).

--tune searches steps, KL width, prior scale and layers on held-out items first
(data.num_validation); it is short for --tune.search true."""

COMMAND = Command("fine-tune a model and write a run directory", _fit_parser, _fit, {"file": FILE}, is_shared=True)
