"""`blob-pyro predict`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser

from blob_pyro.cli.command import Command, add_run_arguments, command_parser
from blob_pyro.cli.outputs import check_rows_output, write_rows
from blob_pyro.errors import ConfigError
from blob_pyro.evaluation import SCORES
from blob_pyro.runs.decisions import Decisions
from blob_pyro.runs.predict import predict_run
from blob_pyro.system.printing import tell_aside


def _predict_parser() -> ArgumentParser:
    parser = command_parser(
        "predict",
        "blob-pyro predict RUN FILE [--output OUT.jsonl] [--option value ...]",
        """
        Answer the items of a file (.jsonl, .csv, .tsv, also .gz, or .parquet): each
        comes back as a line of JSON (or a row of an OUT.csv) with "prediction",
        "probabilities", "confidence", "margin", "entropy" and "mutual_information"
        (nats) added.

        example: blob-pyro predict runs/short new.jsonl --output answers.jsonl
        """,
    )
    add_run_arguments(parser)
    parser.add_argument("file", type=str, help="a file with the fields of the run's prompt, and of its completion")
    parser.add_argument("--output", type=str | None, default=None, help="where to write; standard output by default")
    deciding = parser.add_argument_group("by held-out items: the run's own, or --held_out's", name="deciding")
    for name, (kind, text) in _DECISIONS.items():
        deciding.add_argument(f"--{name}", type=kind | None, default=None, help=text)
    return parser


_DECISIONS: dict[str, tuple[Any, str]] = {
    "target_risk": (float, 'add "answered": of the answers given, no larger share than this is wrong'),
    "delta": (float, "how often, at most, the target risk may be missed; 0.05 by default"),
    "rule": (str, "guaranteed (the default), or empirical, which promises nothing"),
    "score": (str, "SCORE that decides what is answered; confidence by default"),
    "coverage": (float, 'add "set": labels with the true one among them at least this often'),
    "set_score": (str, "lac (smallest sets; the default) or aps (more even over items)"),
    "ood": (str, 'add "ood_p_value" by this SCORE: small where an item is unusually unsure'),
    "held_out": (str, "a file with labels to decide by, none of which the run was trained on"),
}
_BELONG_TO = {"delta": "target_risk", "rule": "target_risk", "score": "target_risk", "set_score": "coverage"}


def _decisions(parsed: Any) -> Decisions:
    """The decisions that options ask for; one without what it belongs to would do nothing, and is refused."""
    given = {name: parsed[name] for name in _DECISIONS if parsed[name] is not None}
    for name, other in _BELONG_TO.items():
        if name in given and other not in given:
            raise ConfigError(f"--{name}: expected --{other} beside it; got none")
    if given.get("rule") == "empirical" and "delta" in given:
        raise ConfigError("--delta: expected the rule 'guaranteed'; got 'empirical', which promises nothing")
    decisions = Decisions(**given)
    if decisions.held_out is not None and not decisions.need_held_out:
        raise ConfigError("--held_out: expected --target_risk, --coverage or --ood beside it; got none")
    return decisions


def _predict(parser: ArgumentParser, words: Sequence[str]) -> None:
    parsed = parser.parse_args(words)
    decisions = _decisions(parsed)
    check_rows_output(parsed.output, parsed.run, parsed.file, parsed.held_out)
    answers = predict_run(
        parsed.run,
        parsed.file,
        num_samples=parsed.num_samples,
        base=parsed.base,
        decisions=decisions,
        progress=not parsed.quiet,
        say=tell_aside,
    )
    write_rows(answers, parsed.output)


MORE = f"""\
Of a run that learns texts token by token the file holds completions too, and each
comes back with "log_prob" (of the whole completion, averaged over the draws),
"num_tokens", "perplexity", and the means over its tokens of "entropy" and
"mutual_information".

--target_risk, --coverage and --ood decide by held-out items: the run's own
(data.num_validation) or those of --held_out. SCORE is one of
{", ".join(SCORES)} (docs/decisions.md).

example: blob-pyro predict runs/short new.jsonl --target_risk 0.1 --coverage 0.9"""

COMMAND = Command("answer the items of a file", _predict_parser, _predict, {"answers": MORE})
