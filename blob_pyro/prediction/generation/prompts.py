"""Prompts as left-padded token ids, checked against the network's context, and the text of tokens behind them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from blob_pyro.config.checks import check, shown
from blob_pyro.data.batches.prompt_tokens import most_characters, prompt_tokens
from blob_pyro.data.examples import Batch
from blob_pyro.errors import ConfigError, DataError
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.vocabulary import check_token_ids
from blob_pyro.prediction.generation.decoding import Ending
from blob_pyro.system.printing import is_text

Prompts = str | Sequence[str] | Batch | Mapping[str, Any]


def read_prompts(model: BayesianLoRA, prompts: Prompts, max_new_tokens: int) -> Batch:
    """Token ids on the model's device, padded on the left to the longest prompt and no wider.

    Args:
        model: its tokenizer reads texts, with the special tokens that it adds by default, and none behind.
        prompts: one text or several; or a Batch of token ids (or a mapping as `Batch.of` takes it), padded on either
            side.
        max_new_tokens: how many tokens are to fit behind the longest.

    Raises:
        DataError: they are something else, there is none, one has no token or is longer than the context, or an id is
            not the network's.
        ConfigError: a text for a model without a tokenizer; or so many new tokens do not fit the context.
    """
    if isinstance(prompts, Batch | Mapping):
        batch = Batch.of(prompts)
    else:
        batch = _encode(model.tokenizer, _texts(prompts), _context(model.network) or 0)
    if not len(batch):
        raise DataError("expected at least one prompt; got none")
    lengths = batch.lengths.tolist()
    if 0 in lengths:
        raise DataError(f"prompt {lengths.index(0)}: expected at least one token; got none")
    check_token_ids(batch.input_ids, model.network, model.tokenizer, "prompts")
    _check_context(_context(model.network), lengths, max_new_tokens)
    return _left_padded(batch).to(model.device)


def ending_for(
    model: BayesianLoRA, prompts: Batch, max_new_tokens: int, stop_strings: str | Sequence[str] | None = None
) -> Ending:
    """When the texts behind some prompts end.

    Args:
        model: the model.
        prompts: what `read_prompts` gives.
        max_new_tokens: most tokens of a text.
        stop_strings: one, several or none.

    Raises:
        ConfigError: a stop string is empty, or there is no tokenizer to find them by.
    """
    strings = (stop_strings,) if isinstance(stop_strings, str) else tuple(stop_strings or ())
    if not (all(isinstance(string, str) for string in strings) and all(strings)):
        raise ConfigError(f"stop_strings: expected texts of at least one character; got {list(strings)}")
    check(all(map(is_text, strings)), "stop_strings", "texts in UTF-8", list(strings))
    tokenizer, network = model.tokenizer, model.network.get_base_model()
    if strings and tokenizer is None:
        raise ConfigError("stop_strings: expected a model with a tokenizer, to find them; got one without")
    own = getattr(tokenizer, "eos_token_id", None)  # what training puts behind a completion
    tokens = dict.fromkeys([*ending_of(network), *([own] if isinstance(own, int) else [])])
    rows = token_rows(prompts)
    return Ending(
        tokens=tuple(tokens),
        padding=padding_of(network, tokenizer),
        max_new_tokens=max_new_tokens,
        strings=strings,
        text=lambda prompt, written: text_behind(tokenizer, rows[prompt], written),
    )


def padding_of(network: Any, tokenizer: Any) -> int:
    """What stands where a row has no token: the tokenizer's or the network's own; it is never seen."""
    config = network.config.get_text_config(decoder=True)
    candidates = (getattr(tokenizer, "pad_token_id", None), config.pad_token_id, *ending_of(network))
    return next((token for token in candidates if isinstance(token, int)), 0)


def ending_of(network: Any) -> tuple[int, ...]:
    """The tokens that end a text, as the network's generation_config has them."""
    ending = network.generation_config.eos_token_id
    if ending is None:
        return ()
    return (ending,) if isinstance(ending, int) else tuple(ending)


def _texts(prompts: Any) -> list[str]:
    """One text or several as a list."""
    texts = [prompts] if isinstance(prompts, str) or not isinstance(prompts, Iterable) else list(prompts)
    if odd := [f"a {type(text).__name__}" for text in texts if not isinstance(text, str)]:
        raise DataError(
            f"prompts: expected a text, several, or a batch of token ids; got {odd[0]}: write chat messages as a text "
            "(tokenizer.apply_chat_template(messages, tokenize=False)), and ids as bp.Batch(input_ids, attention_mask)"
        )
    return texts


def _encode(tokenizer: Any, texts: Sequence[str], context: int) -> Batch:
    if tokenizer is None:
        raise ConfigError("prompts: expected a Batch of token ids for a model without a tokenizer; got text")
    if not texts:
        raise DataError("expected at least one prompt; got none")
    for position, text in enumerate(texts):
        if not is_text(text):
            raise DataError(f"prompt {position}: expected text in UTF-8; got {shown(text)}")
        if len(text) > most_characters(context):
            raise DataError(
                f"prompt {position}: expected at most {most_characters(context):,} characters; got {len(text):,}: "
                "shorten it"
            )
    encoded = prompt_tokens(tokenizer, texts, closing=False)
    for position, tokens in enumerate(encoded):
        if not tokens.text:
            raise DataError(f"prompt {position}: expected text; got {texts[position]!r}, which has no token")
    rows = [tokens.ids for tokens in encoded]
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return Batch(ids, mask)


def _context(network: Any) -> int | None:
    """Most tokens of a text, where the network has a limit."""
    found: int | None = getattr(network.config.get_text_config(decoder=True), "max_position_embeddings", None)
    return found


def _check_context(context: int | None, lengths: Sequence[int], max_new_tokens: int) -> None:
    if context is None:
        return
    longest = max(lengths)
    if longest >= context:
        raise DataError(
            f"prompt {lengths.index(longest)}: expected fewer tokens than the context's {context}; got {longest}: "
            "shorten it"
        )
    if longest + max_new_tokens > context:
        raise ConfigError(
            f"max_new_tokens: expected at most {context - longest} behind a prompt of {longest} tokens in a context of "
            f"{context}; got {max_new_tokens}"
        )


def _left_padded(batch: Batch) -> Batch:
    """Each row's real tokens moved to the right, in order, without columns that no row needs."""
    mask = batch.attention_mask.to(torch.long)
    order = mask.argsort(dim=1, stable=True)[:, -int(mask.sum(1).max()) :]
    ids = batch.input_ids.gather(1, order)
    return dataclasses.replace(batch, input_ids=ids, attention_mask=mask.gather(1, order), labels=None)


def token_rows(batch: Batch) -> tuple[tuple[int, ...], ...]:
    """Each row's real tokens."""

    def row(ids: Tensor, mask: Tensor) -> tuple[int, ...]:
        return tuple(ids[mask.bool()].tolist())

    return tuple(map(row, batch.input_ids, batch.attention_mask))


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
    special, texts, done = set(tokenizer.all_special_ids), [], ""
    for count, token in enumerate(tokens, start=1):
        whole = text_behind(tokenizer, prompt, tokens[:count])
        unfinished = whole.endswith(PARTIAL) and count < len(tokens)
        texts.append("" if unfinished else whole[len(done) :])
        done = done if unfinished else whole
        if token in special:
            texts[-1] += tokenizer.convert_ids_to_tokens(token)
    return texts


def _decode(tokenizer: Any, tokens: Sequence[int]) -> str:
    text: str = tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
