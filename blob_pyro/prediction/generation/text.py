"""Text of tokens that stand behind a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

PARTIAL = "\ufffd"
"""What a tokenizer decodes an unfinished character to."""


def text_behind(tokenizer: Any, prompt: Sequence[int], tokens: Sequence[int]) -> str:
    """The text that tokens add to a prompt, without special tokens.

    Read together with the prompt: some tokenizers (Llama-2's) leave out the space in front of a text's first word.
    """
    before, whole = _decode(tokenizer, prompt), _decode(tokenizer, [*prompt, *tokens])
    return whole[len(before) :] if whole.startswith(before) else _decode(tokenizer, tokens)


def token_texts(tokenizer: Any, prompt: Sequence[int], tokens: Sequence[int]) -> list[str]:
    """What each token adds to the text; of a character in several tokens the last one has it.

    Joined they are `text_behind`, but for the tokenizer's special tokens: those stand by their names.
    """
    special, found, done = set(tokenizer.all_special_ids), [], ""
    for count, token in enumerate(tokens, start=1):
        whole = text_behind(tokenizer, prompt, tokens[:count])
        unfinished = whole.endswith(PARTIAL) and count < len(tokens)
        found.append("" if unfinished else whole[len(done) :])
        done = done if unfinished else whole
        if token in special:
            found[-1] += tokenizer.convert_ids_to_tokens(token)
    return found


def _decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
