"""The two common kinds of tokenizer, made once."""

from __future__ import annotations

import pytest
from toy_tokenizers import byte_level, word_level
from transformers import PreTrainedTokenizerFast


@pytest.fixture(scope="session")
def bpe() -> PreTrainedTokenizerFast:
    return byte_level(trim_offsets=False)


@pytest.fixture(scope="session")
def bert() -> PreTrainedTokenizerFast:
    return word_level()
