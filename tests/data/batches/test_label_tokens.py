"""Answer words as tokens: one each, or several, told apart or refused."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from toy_tokenizers import SENTENCES, byte_level
from transformers import PreTrainedTokenizerFast

from blob_pyro.data import answer_token_ids, label_token_ids
from blob_pyro.errors import DataError


def metaspace() -> PreTrainedTokenizerFast:
    """Like Llama-2's: it puts a space in front of every text, so that " yes" alone is two tokens."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=400, show_progress=False))
    inner.pre_tokenizer = None
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return PreTrainedTokenizerFast(tokenizer_object=inner)


def test_labels_become_their_single_tokens(bpe, bert):
    ids = label_token_ids(bpe, [" negative", " positive"])
    assert bpe.convert_ids_to_tokens(ids) == ["Ġnegative", "Ġpositive"]
    assert bert.convert_ids_to_tokens(label_token_ids(bert, ["yes", "no"])) == ["yes", "no"]


def test_a_space_in_front_of_a_label_is_the_one_behind_the_prompt():
    tokenizer = metaspace()
    assert len(tokenizer(" yes")["input_ids"]) == 2
    answers = label_token_ids(tokenizer, [" yes", " no"])
    assert tokenizer.convert_ids_to_tokens(answers) == ["▁yes", "▁no"]
    assert answers == [tokenizer(f"Answer:{label}")["input_ids"][-1] for label in (" yes", " no")]
    assert answers == label_token_ids(tokenizer, ["yes", "no"])


def test_a_label_of_several_tokens_is_shown_with_what_to_do(bpe, bert):
    with pytest.raises(
        DataError, match=r"one known token for 'negative'; got \d, ids .*: ' negative' is one token, use"
    ):
        label_token_ids(bpe, ["negative"])
    with pytest.raises(DataError, match=r"got 4, ids \[.*\], tokens \['q', 'z', 'q', 'z'\]: choose a shorter"):
        label_token_ids(bpe, ["qzqz"])
    with pytest.raises(DataError, match="for ''; got 0"):
        label_token_ids(bpe, [""])
    with pytest.raises(DataError, match="one known token for 'unheard'; got 1, .*UNK"):
        label_token_ids(bert, ["unheard"])


def test_two_labels_of_one_token_are_refused(bert):
    with pytest.raises(
        DataError, match="expected a token of its own for each; got token \\d+ for both 'yes' and ' yes'"
    ):
        label_token_ids(bert, ["yes", " yes"])


@pytest.mark.parametrize("build", [lambda: byte_level(trim_offsets=False), metaspace], ids=["byte level", "metaspace"])
def test_answers_of_several_tokens_are_those_behind_a_prompt(build):
    """Whether the words are single tokens or not, the answer's tokens are what the prompt's text goes on with."""
    tokenizer = build()
    answers = [" yes", " no no", " the sea"]
    for answer, ids in zip(answers, answer_token_ids(tokenizer, answers), strict=True):
        prompt, both = tokenizer("Answer:")["input_ids"], tokenizer(f"Answer:{answer}")["input_ids"]
        assert both == prompt + ids


def test_single_tokens_are_those_of_label_token_ids(bpe, bert):
    for tokenizer, labels in ((bpe, [" negative", " positive"]), (bert, ["yes", "no"]), (metaspace(), ["yes", "no"])):
        singles = label_token_ids(tokenizer, labels)
        assert answer_token_ids(tokenizer, labels) == [[token] for token in singles]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (
            [" yes", " yes"],
            r"got the same tokens for ' yes', ids \[\d+\], and ' yes', ids \[\d+\]: choose another word",
        ),
        ([" yes", " yes no"], r"got tokens that begin those of the other for ' yes', ids .* and ' yes no', ids "),
        ([" no", ""], r"expected words of known tokens; got '', ids \[\]"),
    ],
)
def test_answers_that_cannot_be_told_apart_are_refused(bpe, labels, message):
    with pytest.raises(DataError, match=message):
        answer_token_ids(bpe, labels)


def test_an_unknown_token_within_an_answer_is_refused(bert):
    with pytest.raises(DataError, match=r"expected words of known tokens; got 'yes unheard', ids .*UNK"):
        answer_token_ids(bert, ["no", "yes unheard"])
