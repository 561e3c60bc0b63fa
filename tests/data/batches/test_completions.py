"""Prompts with completions: what is predicted, what is cut, what is refused."""

from __future__ import annotations

import pytest

from blob_pyro.data import Example, collate, encode_completions, num_predicted
from blob_pyro.data.prompts import PromptTemplate
from blob_pyro.errors import DataError

TEMPLATE = PromptTemplate("Passage: {p}\nQuestion: is it true?\nAnswer:", truncate_field="p")


def items(*passages: str) -> list[Example]:
    made = [TEMPLATE.render({"p": passage}, where="x") for passage in passages]
    return [Example(prompt, None, f"line {i}", span) for i, (prompt, span) in enumerate(made)]


def test_the_answer_and_the_end_are_predicted(bpe):
    found = encode_completions(items("rain", "the sea"), [" yes", " no no"], bpe, 200)
    for item, example, answer in zip(found.items, found.examples, (" yes", " no no"), strict=True):
        prompt, tail = bpe(example.prompt)["input_ids"], [*bpe(answer)["input_ids"], bpe.eos_token_id]
        assert item.input_ids == (*prompt, *tail)
        assert item.token_labels == (*[-100] * len(prompt), *tail)
    assert num_predicted(found) == 2 + 3
    batch = collate([found[0], found[1]], pad_token_id=bpe.eos_token_id)
    assert batch.labels is not None and batch.labels.shape == batch.input_ids.shape
    assert int((batch.labels != -100).sum()) == 5


def test_of_the_whole_text_all_but_the_first_token_is_predicted(bpe):
    found = encode_completions(items("rain", "the sea"), [" yes", " no"], bpe, 200, over="text")
    assert all(item.token_labels == item.input_ids for item in found.items)
    assert num_predicted(found) == sum(len(item.input_ids) - 1 for item in found.items)


def test_a_whole_text_may_be_its_prompt(bpe):
    """With the end-of-text token behind it."""
    found = encode_completions(items("rain"), [""], bpe, 200, over="text")
    ids = (*bpe(found.examples[0].prompt)["input_ids"], bpe.eos_token_id)
    assert found.items[0].input_ids == found.items[0].token_labels == ids


@pytest.mark.parametrize("max_length", range(30, 60))
def test_a_long_prompt_makes_room_for_its_completion(bpe, max_length):
    """Whatever the length, the completion is whole and the prompt ends as it did."""
    examples = items("birds and rain and the sea, " * 12)
    with pytest.warns(UserWarning, match=rf"1 of 1 prompts were longer than {max_length} tokens"):
        found = encode_completions(examples, [" no no no"], bpe, max_length)
    ids = found.items[0].input_ids
    assert max_length - 4 <= len(ids) <= max_length
    assert bpe.decode(ids[:-1], clean_up_tokenization_spaces=False).endswith("\nAnswer: no no no")


@pytest.mark.parametrize(
    ("completions", "max_length", "message"),
    [
        ([" yes"], 200, "expected a completion for each of 2 items; got 1"),
        ([" yes", ""], 200, "line 1: expected a completion with text; got ''"),
        ([" yes", " no" * 40], 30, "line 1: expected at most 30 tokens with the prompt; got a completion of 41: raise"),
        (["", ""], 200, "line 0: expected a completion with text; got '', .* .and 1 more item: line 1."),
        ([" no" * 40] * 2, 30, "line 0: .*; got a completion of 41 .and 1 more item: line 1.: raise data.max_length"),
        ([" yes", " no"], 8, "line 0: expected at most 6 tokens before a completion of 2; got .* without its passage"),
    ],
)
def test_what_cannot_be_learnt_is_refused(bpe, completions, max_length, message):
    with pytest.raises(DataError, match=message):
        encode_completions(items("rain", "sea"), completions, bpe, max_length)
