"""Texts to learn token by token: prompts with what follows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch.utils.data import Dataset

from blob_pyro.data.batches.collate import Encoded, EncodedDataset
from blob_pyro.data.batches.fitting import fit_prompts, warn_of_cuts
from blob_pyro.data.batches.label_tokens import continuation_ids
from blob_pyro.data.batches.prompt_tokens import most_characters
from blob_pyro.data.examples import IGNORED, Example
from blob_pyro.data.rows.wording import and_others
from blob_pyro.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_completions(
    examples: Sequence[Example],
    completions: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    over: Literal["answer", "text"] = "answer",
) -> EncodedDataset:
    """Tokenise prompts with the completion of each behind it and the end-of-text token behind that.

    Prompt and completion are tokenised apart, as a model that generates sees them: no token straddles the two. A prompt
    that leaves its completion no room loses text from the left of its passage, as in `encode`.

    Args:
        examples: the items; their labels are not used.
        completions: what follows each prompt, the space between them included; "" where the whole text is predicted
            and is the prompt alone.
        tokenizer: a fast tokenizer; one without an end-of-text token adds none.
        max_length: most tokens of an item.
        over: what is predicted: the "answer" (completion and end of text), or the whole "text" but its first token.

    Returns:
        Items with token labels, for `bp.CausalLM`.

    Raises:
        DataError: another number of completions than of examples, an empty one that is to be predicted, or an item
            that does not fit.
    """
    if len(completions) != len(examples):
        raise DataError(f"expected a completion for each of {len(examples)} items; got {len(completions)}")
    _check_characters(examples, completions, max_length)
    end = [tokenizer.eos_token_id] if isinstance(tokenizer.eos_token_id, int) else []
    found = [continuation_ids(tokenizer, text) if text else [] for text in completions]
    if over == "answer":
        _check_some(examples, completions, found)
    tails = [[*ids, *end] for ids in found]
    _check_lengths(examples, tails, max_length)
    lengths = [len(tail) for tail in tails]
    limits = [max_length - length for length in lengths]
    fitted = fit_prompts(examples, tokenizer, limits, lengths, closing=False)
    if fitted.truncated:
        warn_of_cuts(fitted.truncated, len(examples), max_length)
    items = []
    for ids, tail in zip(fitted.ids, tails, strict=True):
        given = (IGNORED,) * len(ids) if over == "answer" else ids
        items.append(Encoded((*ids, *tail), None, token_labels=(*given, *tail)))
    return EncodedDataset(tuple(examples), tuple(items), fitted.truncated)


def num_predicted(dataset: Dataset[Any]) -> int:
    """How many tokens of a data set are predicted, an item's first one never being: `CausalLM(num_tokens=...)`."""
    return sum(label != IGNORED for item in EncodedDataset.of(dataset).items for label in (item.token_labels or ())[1:])


def _check_characters(examples: Sequence[Example], completions: Sequence[str], max_length: int) -> None:
    """Refuse completions that are too long to be worth reading as tokens."""
    most = most_characters(max_length)
    long = [i for i, text in enumerate(completions) if len(text) > most]
    if long:
        raise DataError(
            f"{examples[long[0]].id}: expected a completion of at most {most:,} characters; got "
            f"{len(completions[long[0]]):,}{and_others([examples[i].id for i in long])}: shorten it"
        )


def _check_some(examples: Sequence[Example], completions: Sequence[str], found: Sequence[Sequence[int]]) -> None:
    """Refuse completions without a token."""
    empty = [i for i, ids in enumerate(found) if not ids]
    if empty:
        first = empty[0]
        raise DataError(
            f"{examples[first].id}: expected a completion with text; got {completions[first]!r}, which has no "
            f"token{and_others([examples[i].id for i in empty])}"
        )


def _check_lengths(examples: Sequence[Example], tails: Sequence[Sequence[int]], max_length: int) -> None:
    """Refuse completions that leave their prompt no token; those are never cut."""
    long = [i for i, tail in enumerate(tails) if len(tail) >= max_length]
    if long:
        first = long[0]
        raise DataError(
            f"{examples[first].id}: expected at most {max_length} tokens with the prompt; got a completion of "
            f"{len(tails[first])}{and_others([examples[i].id for i in long])}: raise data.max_length"
        )
