"""Answer words as tokens: one token each, or several."""

from __future__ import annotations

from collections.abc import Sequence
from string import ascii_uppercase
from typing import TYPE_CHECKING

from blob_pyro.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class ClashingAnswersError(DataError):
    """Two answers have the same tokens, or the tokens of one begin those of the other.

    Attributes:
        why: that, with the two answers, in words for a message.
    """

    def __init__(self, message: str, why: str) -> None:
        super().__init__(message)
        self.why = why


def label_token_ids(tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> list[int]:
    """The token of each answer word, in the order of the labels.

    A word that begins with a space is one that follows a prompt directly: " A" behind "Answer:". Tokenizers that put
    a space of their own in front of a text (Llama-2's) make two tokens of it alone; its token is then the one that it
    gets behind a colon.

    Raises:
        DataError: a label is not exactly one token that the tokenizer knows, or two labels are the same token.
    """
    owners: dict[int, str] = {}
    for label in labels:
        token_id = _single_token(tokenizer, label)
        if token_id in owners:
            raise DataError(
                f"labels: expected a token of its own for each; got token {token_id} for both {owners[token_id]!r} "
                f"and {label!r}: choose another word for one of them"
            )
        owners[token_id] = label
    return list(owners)


def answer_token_ids(tokenizer: PreTrainedTokenizerBase, labels: Sequence[str]) -> list[list[int]]:
    """The tokens of each answer, one or more, in the order of the labels; of one token as in `label_token_ids`.

    Raises:
        DataError: an answer has no token or one that the tokenizer does not know, two have the same tokens, or the
            tokens of one begin those of another: an answer that goes on cannot be told from one that ends there.
    """
    found = [continuation_ids(tokenizer, label) for label in labels]
    for label, ids in zip(labels, found, strict=True):
        if not ids or tokenizer.unk_token_id in ids:
            raise DataError(
                f"labels: expected words of known tokens; got {label!r}, ids {ids}, "
                f"tokens {tokenizer.convert_ids_to_tokens(ids)}: choose another word"
            )
    if clash := _first_clash(found):
        first, second = (found[k] for k in clash)
        one, other = (repr(labels[k]) for k in clash)
        how = "the same tokens" if first == second else "tokens that begin those of the other"
        begin = "are" if first == second else "begin"
        raise ClashingAnswersError(
            f"labels: expected answers that differ before one of them ends; got {how} for {one}, ids {first}, and "
            f"{other}, ids {second}: choose another word for one of them, in data.answers",
            f"the tokens of {one} {begin} those of {other}",
        )
    return found


def _first_clash(found: Sequence[Sequence[int]]) -> tuple[int, int] | None:
    """The first two answers, in their order, of which one begins the other."""
    owners: dict[tuple[int, ...], int] = {}
    pairs = []
    for k, ids in enumerate(found):
        twin = owners.setdefault(tuple(ids), k)
        pairs += [(twin, k)] if twin != k else []
    for k, ids in enumerate(found):
        shorter = (owners.get(tuple(ids[:size])) for size in range(1, len(ids)))
        pairs += [(owner, k) for owner in shorter if owner is not None]
    return min(pairs, default=None)


def class_codes(count: int) -> list[str]:
    """Answer words of which none begins another: letters, or numbers of as many digits each.

    Example:
        >>> class_codes(3), class_codes(40)[:2], class_codes(40)[-1]
        (['A', 'B', 'C'], ['00', '01'], '39')
    """
    if count <= len(ascii_uppercase):
        return list(ascii_uppercase[:count])
    digits = len(str(count - 1))
    return [f"{k:0{digits}}" for k in range(count)]


def other_spelling(tokenizer: PreTrainedTokenizerBase, label: str) -> str | None:
    """A label with the space in front that it lacks, or without the one it has, where that is one token."""
    other = label.strip() if label.startswith(" ") else f" {label}"
    works = other.strip() and _is_single(tokenizer, _ids_without_specials(tokenizer, other))
    return other if works else None


def continuation_ids(tokenizer: PreTrainedTokenizerBase, label: str) -> list[int]:
    """Token ids of a text behind a prompt, without special tokens."""
    ids = _label_ids(tokenizer, label)
    return ids if _is_single(tokenizer, ids) or not label.startswith(" ") else _behind_colon(tokenizer, label, ids)


def _ids_without_specials(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return [int(i) for i in tokenizer(text, add_special_tokens=False)["input_ids"]]


def _label_ids(tokenizer: PreTrainedTokenizerBase, label: str) -> list[int]:
    """Token ids of an answer word."""
    ids = _ids_without_specials(tokenizer, label)
    if _is_single(tokenizer, ids) or not label.startswith(" "):
        return ids
    behind = _behind_colon(tokenizer, label, ids)
    return behind if _is_single(tokenizer, behind) else ids


def _behind_colon(tokenizer: PreTrainedTokenizerBase, label: str, alone: list[int]) -> list[int]:
    """The tokens that a text gets behind a colon; `alone` where the colon itself becomes another token there."""
    prompt = _ids_without_specials(tokenizer, ":")
    both = _ids_without_specials(tokenizer, f":{label}")
    return both[len(prompt) :] if both[: len(prompt)] == prompt else alone


def _is_single(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> bool:
    return len(ids) == 1 and ids[0] != tokenizer.unk_token_id


def _single_token(tokenizer: PreTrainedTokenizerBase, label: str) -> int:
    """The one token of `label`; the message of the error proposes a spelling that works, if it finds one."""
    ids = _label_ids(tokenizer, label)
    if _is_single(tokenizer, ids):
        return ids[0]
    other = other_spelling(tokenizer, label)
    advice = f"{other!r} is one token, use that" if other else "choose a shorter, more common word"
    raise DataError(
        f"labels: expected one known token for {label!r}; got {len(ids)}, ids {ids}, "
        f"tokens {tokenizer.convert_ids_to_tokens(ids)}: {advice}"
    )
