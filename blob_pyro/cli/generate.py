"""`blob-pyro generate`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import pyro
from jsonargparse import ArgumentParser, Namespace

from blob_pyro.cli.command import Command, add_base, add_quiet, command_parser
from blob_pyro.cli.outputs import json_line
from blob_pyro.config.checks import unknown_name
from blob_pyro.config.ranges import LARGEST_SEED, check_range
from blob_pyro.prediction.generation import Generations, generate
from blob_pyro.report.colours import dim, legend, painted, wants_colour
from blob_pyro.report.generations import json_rows, texts_table, token_rows, tokens_table
from blob_pyro.runs.answerer import device_map_of
from blob_pyro.storage.saving import load
from blob_pyro.system.printing import escaped_json, tell

# Where the next colour begins, nats, by the figure that the colours tell.
EDGES = {"entropy": (0.5, 1.0, 2.0, 3.0), "mutual_information": (0.01, 0.03, 0.1, 0.3)}


def _generate_parser() -> ArgumentParser:
    parser = command_parser(
        "generate",
        'blob-pyro generate RUN "PROMPT" [--num_draws S] [--option value ...]',
        """
        Go on from a prompt under draws of a run's posterior. The colour of a token
        tells how uncertain it was; where there are no colours a table tells it.

        --mode average   one text, by the average of the draws' probabilities
        --mode per_draw  a text from each draw

        example: blob-pyro generate runs/short "Tweet: what a day" --num_draws 8
        """,
    )
    parser.add_argument("run", type=str, help="a run directory")
    parser.add_argument("prompt", type=str, help="the text to go on from, as it is")
    parser.add_argument(
        "--num_draws", type=int, default=8, help="posterior draws; 0 is the posterior mean", metavar="S"
    )
    parser.add_argument("--mode", type=str, default="average", help="average or per_draw")
    parser.add_argument("--max_new_tokens", type=int, default=32, help="most tokens of a text", metavar="N")
    sampling = parser.add_argument_group("how tokens are picked, and where a text ends", name="sampling")
    sampling.add_argument("--do_sample", action="store_true", help="draw tokens; else the most probable one is taken")
    sampling.add_argument("--temperature", type=float | None, default=None, help="of the drawn tokens")
    sampling.add_argument("--top_k", type=int | None, default=None, help="draw among so many tokens")
    sampling.add_argument(
        "--top_p", type=float | None, default=None, help="draw among the likeliest tokens, of this sum"
    )
    told = "end a text behind this, as behind an end-of-text token; may be given again"
    sampling.add_argument("--stop", type=str, action="append", default=None, help=told, metavar="TEXT")
    parser.add_argument("--seed", type=int, default=0, help="of the posterior draws, and of the drawn tokens")
    parser.add_argument(
        "--uncertainty", type=str, default="entropy", help=f"what colours tell: {' or '.join(EDGES)}", metavar="KIND"
    )
    add_base(parser)
    parser.add_argument("--json", action="store_true", help="a JSON line for each text instead, with every figure")
    add_quiet(parser)
    return parser


def _generate(parser: ArgumentParser, words: Sequence[str]) -> None:
    parsed = parser.parse_args(words)
    if parsed.uncertainty not in EDGES:
        raise unknown_name("--uncertainty", EDGES, parsed.uncertainty)
    check_range("--seed", parsed.seed, 0, LARGEST_SEED)
    run = load(parsed.run, base=parsed.base, device_map=device_map_of(parsed.run))
    pyro.set_rng_seed(parsed.seed)
    generations = generate(
        run.model,
        run.guide,
        parsed.prompt,
        num_draws=parsed.num_draws,
        mode=parsed.mode,
        max_new_tokens=parsed.max_new_tokens,
        do_sample=parsed.do_sample,
        temperature=parsed.temperature,
        top_k=parsed.top_k,
        top_p=parsed.top_p,
        stop_strings=parsed.stop,
        progress=not parsed.quiet,
    )
    _show(generations, run.model.tokenizer, parsed)


def _show(generations: Generations, tokenizer: Any, parsed: Namespace) -> None:
    names = [f"draw {s + 1}" for s in range(generations.num_draws)] if parsed.mode == "per_draw" else ["average"]
    if parsed.num_draws == 0:
        names = ["posterior mean"]
    if parsed.json:
        for row in json_rows(generations, tokenizer, names):
            line = json_line({"prompt": parsed.prompt} | row, sys.stdout.encoding or "utf-8")
            tell(escaped_json(line), end="")
        return
    if wants_colour(sys.stdout.isatty(), os.environ):
        print(_in_colour(generations, tokenizer, names, parsed))  # its own escapes; texts are printable within them
    else:
        tell(_in_tables(generations, tokenizer, names, parsed))
    tell("\nwhole texts, nats; entropy and mutual information are means over the tokens;")
    tell("log-probability, and the lowest and the highest under one draw:\n")
    tell(texts_table(generations, names))


def _in_colour(generations: Generations, tokenizer: Any, names: Sequence[str], parsed: Namespace) -> str:
    edges = EDGES[parsed.uncertainty]
    texts = []
    for position in range(len(names)):
        rows = token_rows(generations, tokenizer, position)
        texts.append(painted([row["token"] for row in rows], [row[parsed.uncertainty] for row in rows], edges))
    caption = f"{parsed.uncertainty.replace('_', ' ')} of the next token, nats:\n{legend(edges)}"
    if len(texts) == 1:
        return f"{dim(parsed.prompt)}{texts[0]}\n\n{caption}"
    listed = "\n".join(f"{dim(name + ':')}{text}" for name, text in zip(names, texts, strict=True))
    return f"{dim(parsed.prompt)}\n\n{listed}\n\n{caption}"


def _in_tables(generations: Generations, tokenizer: Any, names: Sequence[str], parsed: Namespace) -> str:
    texts = generations.texts[0] if generations.texts else ()
    tables = [
        f"{name}: {parsed.prompt + text}\n\n{tokens_table(generations, tokenizer, position)}"
        for position, (name, text) in enumerate(zip(names, texts, strict=True))
    ]
    return "\n\n".join(tables)


COMMAND = Command("go on from a prompt, tokens coloured by uncertainty", _generate_parser, _generate)
