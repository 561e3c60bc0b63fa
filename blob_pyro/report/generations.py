"""What `generate` wrote, as tables and as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from blob_pyro.prediction.generation import Generations
from blob_pyro.prediction.generation.prompts import token_texts
from blob_pyro.report.tables import markdown_table
from blob_pyro.system.printing import printable

SUMS = ("log_prob", "total_entropy", "mean_entropy", "total_mutual_information", "mean_mutual_information")
"""Properties of `Generations` that have one number a text."""


def texts_table(found: Generations, names: Sequence[str]) -> str:
    """A row for each text behind the first prompt; entropy and mutual information are means over its tokens.

    The log-probability is `Generations.log_prob`, and after it stand the lowest and the highest under one draw.

    Args:
        found: generations.
        names: what the C texts are called.
    """
    header = ["text", "tokens", "entropy", "mutual inf.", "log-prob.", "lowest", "highest"]
    return markdown_table(header, [[name, *_figures(found, text)] for text, name in enumerate(names)])


def tokens_table(found: Generations, tokenizer: Any, text: int) -> str:
    """A row for each token of a text behind the first prompt: its averaged probability, entropy, mutual information."""
    rows = [
        [printable(json.dumps(row["token"], ensure_ascii=False)), f"{row['probability']:.4f}", f"{row['entropy']:.3f}",
         f"{row['mutual_information']:.4f}"]
        for row in token_rows(found, tokenizer, text)
    ]  # fmt: skip
    return markdown_table(["token", "probability", "entropy", "mutual information"], rows)


def json_rows(found: Generations, tokenizer: Any, names: Sequence[str]) -> list[dict[str, Any]]:
    """For each text behind the first prompt all that `Generations` says of it and of its tokens; JSON types only."""
    under, texts = found.sequence_log_probs[:, 0], found.texts or ()
    return [
        {"name": name, "text": texts[0][text]}
        | {name: _number(getattr(found, name)[0, text]) for name in SUMS}
        | {"log_probs": [_number(value) for value in under[:, text]], "tokens": token_rows(found, tokenizer, text)}
        for text, name in enumerate(names)
    ]


def token_rows(found: Generations, tokenizer: Any, text: int) -> list[dict[str, Any]]:
    """For each token of a text behind the first prompt what it adds, its id, and its figures."""
    length = int(found.lengths[0, text])
    ids = found.tokens[0, text, :length].tolist()
    return [
        {
            "token": token,
            "id": ids[step],
            "probability": _number(found.log_probs[:, 0, text, step].exp().mean()),
            "entropy": _number(found.entropy[0, text, step]),
            "mutual_information": _number(found.mutual_information[0, text, step]),
            "log_probs": [_number(value) for value in found.log_probs[:, 0, text, step]],
        }
        for step, token in enumerate(token_texts(tokenizer, found.prompts[0], ids))
    ]


def _figures(found: Generations, text: int) -> list[str]:
    """The cells of one text in `texts_table`."""
    under = found.sequence_log_probs[:, 0, text]
    log_probs = (found.log_prob[0, text], under.min(), under.max())
    return [
        str(int(found.lengths[0, text])),
        f"{found.mean_entropy[0, text]:.3f}",
        f"{found.mean_mutual_information[0, text]:.4f}",
        *(f"{value:.2f}" for value in log_probs),
    ]


def _number(value: Tensor) -> float:
    return round(float(value), 6)
