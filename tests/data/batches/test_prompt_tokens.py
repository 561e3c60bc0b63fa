"""Whatever a tokenizer adds by itself: an answer follows a prompt's own last token, and a BOS is there once."""

from __future__ import annotations

import warnings

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from toy_tokenizers import byte_level, word_level
from transformers import PreTrainedTokenizerFast

from blob_pyro.data import Example, encode, encode_completions
from blob_pyro.data.batches.prompt_tokens import TokenizerWarning, prompt_tokens
from blob_pyro.errors import DataError

TEMPLATES = {"nothing": "$A", "bos": "<s> $A", "eos": "$A </s>", "both": "<s> $A </s>", "pad": "<s> $A <pad> </s>"}


def tokenizer_that_adds(kind: str) -> PreTrainedTokenizerFast:
    tokenizer = byte_level(trim_offsets=False)
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"})
    names = ("<s>", "</s>", "<pad>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=TEMPLATES[kind], special_tokens=[(name, tokenizer.convert_tokens_to_ids(name)) for name in names]
    )
    return tokenizer


def ids_of(tokenizer, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text, add_special_tokens=False)["input_ids"])


@pytest.mark.parametrize("kind", TEMPLATES)
@pytest.mark.parametrize("start", ["", "<s>"])
@pytest.mark.parametrize("text", ["rain is", "x", "birds</s> rain"])
def test_an_answer_follows_the_prompts_last_token_and_a_bos_is_there_once(kind, start, text):
    tokenizer = tokenizer_that_adds(kind)
    bos = (tokenizer.bos_token_id,)
    expected = (bos if start or "<s>" in TEMPLATES[kind] else ()) + ids_of(tokenizer, text)
    examples = [Example(start + text, 0, "line 1", passage=(len(start), len(start) + 1))]
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always")
        (item,) = encode(examples, tokenizer, 40).items
    assert item.input_ids == expected
    told = [str(note.message) for note in notes if issubclass(note.category, TokenizerWarning)]
    assert len(told) == len(notes)
    assert any("behind a text: prompts are read without" in note for note in told) == ("</s>" in TEMPLATES[kind])
    assert any("'<s>' in front of a text" in note for note in told) == (start == "<s>" and "<s>" in TEMPLATES[kind])


def test_a_completion_follows_its_prompt_and_one_end_of_text_follows_it():
    tokenizer = tokenizer_that_adds("both")
    with pytest.warns(TokenizerWarning, match="'</s>' behind a text"):
        (item,) = encode_completions([Example("rain", None, "a")], [" is it"], tokenizer, 40).items
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    assert item.input_ids == (bos, *ids_of(tokenizer, "rain"), *ids_of(tokenizer, " is it"), eos)
    assert item.token_labels == (-100,) * (1 + len(ids_of(tokenizer, "rain"))) + (*ids_of(tokenizer, " is it"), eos)
    with pytest.warns(TokenizerWarning, match="'</s>' behind a text"):
        (whole,) = encode_completions([Example("rain", None, "a")], [""], tokenizer, 40, over="text").items
    assert whole.input_ids == (bos, *ids_of(tokenizer, "rain"), eos)


def test_a_cut_prompt_ends_in_its_own_last_token_too():
    tokenizer = tokenizer_that_adds("both")
    text = "the sea " * 20 + "is"
    with pytest.warns(UserWarning):
        (item,) = encode([Example(text, 0, "a", passage=(0, len(text) - 2))], tokenizer, 12).items
    assert len(item.input_ids) <= 12 and item.input_ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(item.input_ids[1:]).endswith("sea is")


def test_what_closes_a_text_for_an_encoder_stays():
    bert = word_level()
    (tokens,) = prompt_tokens(bert, ["rain"])
    assert tokens.ids == (2, *ids_of(bert, "rain"), 3) and tokens.text == 1
    roberta = tokenizer_that_adds("both")
    roberta.add_special_tokens({"sep_token": "</s>", "cls_token": "<s>"})
    (tokens,) = prompt_tokens(roberta, ["rain"])
    assert tokens.ids[-1] == roberta.sep_token_id


def tokenizer_with(post: str, **names: str) -> PreTrainedTokenizerFast:
    """Words w8, w9, ..., and the special tokens of `post` around them."""
    special = ("<pad>", "<s>", "</s>", "[gMASK]", "<sop>", "[CLS]", "[SEP]", "<unk>")
    words = {**{name: k for k, name in enumerate(special)}, **{f"w{k}": k for k in range(8, 20)}}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.post_processor = processors.TemplateProcessing(
        single=post, special_tokens=[(name, words[name]) for name in special]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", unk_token="<unk>", **names)


def read_by(tokenizer: PreTrainedTokenizerFast, text: str, **how: bool) -> str:
    (tokens,) = prompt_tokens(tokenizer, [text], **how)
    return " ".join(tokenizer.convert_ids_to_tokens(list(tokens.ids)))


def test_what_closes_a_text_for_an_encoder_is_left_out_for_a_decoder():
    """An encoder's tokenizer; and one whose end of text is called a separator, which begins no text by [CLS]."""
    bert = tokenizer_with("[CLS] $A [SEP]", cls_token="[CLS]", sep_token="[SEP]")
    assert read_by(bert, "w10 w11") == "[CLS] w10 w11 [SEP]"
    with pytest.warns(TokenizerWarning, match=r"puts '\[SEP\]' behind a text: prompts are read without"):
        assert read_by(bert, "w10 w11", closing=False) == "[CLS] w10 w11"
    llama = tokenizer_with("<s> $A </s>", bos_token="<s>", eos_token="</s>", sep_token="</s>")
    with pytest.warns(TokenizerWarning, match="puts '</s>' behind a text"):
        assert read_by(llama, "w10 w11") == "<s> w10 w11"
    with (
        pytest.warns(TokenizerWarning, match=r"'\[SEP\]' behind a text"),
        pytest.warns(UserWarning, match="1 of 1 pro"),
    ):
        (item,) = encode([Example("w10 w11 w12", 0, "a", passage=(0, 7))], bert, 3, closing=False).items
    assert bert.convert_ids_to_tokens(list(item.input_ids)) == ["[CLS]", "w11", "w12"]


@pytest.mark.parametrize(
    ("post", "text", "expected"),
    [
        ("[gMASK] <sop> $A", "[gMASK] <sop> w10 w11", "[gMASK] <sop> w10 w11"),
        ("[gMASK] <sop> $A", "<sop> w10", "[gMASK] <sop> w10"),
        ("[gMASK] <sop> $A", "w10 [gMASK] <sop>", "[gMASK] <sop> w10 [gMASK] <sop>"),
        ("<s> [CLS] $A </s>", "<s> [CLS] w10", "<s> [CLS] w10"),
        ("<s> $A", "<s> <s> w10", "<s> <s> w10"),
        ("<s> <s> $A", "<s> w10", "<s> <s> w10"),
    ],
)
@pytest.mark.filterwarnings("ignore::blob_pyro.data.batches.prompt_tokens.TokenizerWarning")
def test_what_begins_a_text_is_there_once(post, text, expected):
    assert read_by(tokenizer_with(post, bos_token="<s>", eos_token="</s>"), text) == expected


def test_a_text_without_a_token_has_none():
    tokenizer = tokenizer_that_adds("both")
    (tokens,) = prompt_tokens(tokenizer, [""])
    assert tokens.text == 0 and tokens.spans == []
    assert prompt_tokens(tokenizer, []) == []


# --- texts without an end ---


@pytest.mark.slow
def test_of_a_text_without_an_end_its_end_is_read():
    """As of the whole: a text of 1.2 million characters, and its last twentieth."""
    tokenizer = byte_level(trim_offsets=False)
    text = "rain, birds and the sea. " * 48_000
    prompts = [("Passage: " + piece + "\nis", len(piece)) for piece in (text, text[-60_000:])]
    examples = [Example(prompt, 0, "a", passage=(9, 9 + size)) for prompt, size in prompts]
    with pytest.warns(UserWarning, match="2 of 2 prompts were longer than 30 tokens"):
        whole, end = encode(examples, tokenizer, 30).items
    assert whole == end and len(whole.input_ids) <= 30


def test_a_text_without_an_end_that_may_not_be_cut_is_one_line():
    tokenizer = byte_level(trim_offsets=False)
    with pytest.raises(
        DataError, match="line 3: expected at most 1,000,000 characters; got 1,000,001: shorten it, or n"
    ):
        encode([Example("x" * 1_000_001, 0, "line 3")], tokenizer, 9_999)
    with pytest.raises(DataError, match="expected at most 1,000,100 characters; got 30,000,000 and a shorter passage"):
        encode([Example("x" * 30_000_000, 0, "a", passage=(0, 10))], tokenizer, 10_001)
    with pytest.raises(
        DataError, match="a: expected a completion of at most 1,000,000 characters; got 1,000,001: short"
    ):
        encode_completions([Example("x", None, "a")], ["y" * 1_000_001], tokenizer, 40)
