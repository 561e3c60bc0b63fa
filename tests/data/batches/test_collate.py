"""Tokenising, cutting and padding, held against naive twins."""

import random
import warnings
from pathlib import Path

import pytest
import torch
from toy_tokenizers import byte_level

from blob_pyro.data import Encoded, EncodedDataset, Example, PromptTemplate, collate, encode, padding_id, read_jsonl
from blob_pyro.errors import DataError

SHARED = Path(__file__).parents[3] / ".." / "shared" / "data"


def quiet_encode(examples, tokenizer, max_length) -> EncodedDataset:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return encode(examples, tokenizer, max_length)


def random_examples(count: int, template: str, alphabet: list[str], seed: int = 0) -> list[Example]:
    """Passages of 0 to 60 random pieces."""
    rng = random.Random(seed)
    made = PromptTemplate(template, truncate_field="p")
    examples = []
    for i in range(count):
        passage = "".join(rng.choices(alphabet, k=rng.randrange(61)))
        prompt, span = made.render({"p": passage, "q": rng.choice(["is it true", "birds"])}, f"line {i}")
        examples.append(Example(prompt, i % 2, f"line {i}", span))
    return examples


PIECES = [" rain", "rain", " ", "  ", "\n", "birds", " the", ".", "ü", "😀", " 😀", "passage", "Question:", "x"]


@pytest.mark.parametrize(
    "template", ["{p}\nQuestion: {q}?\nAnswer:", "Passage: {p} Question: {q}?\nAnswer:", "a{p}b{q}"]
)
@pytest.mark.parametrize("trim_offsets", [False, True])
def test_a_cut_leaves_all_text_outside_the_passage_and_an_end_piece_of_it(template, trim_offsets):
    tokenizer = byte_level(trim_offsets)
    examples = random_examples(60, template, PIECES)
    for max_length in (24, 31, 50):
        for example, item in zip(examples, quiet_encode(examples, tokenizer, max_length).items, strict=True):
            start, end = example.passage
            before, passage, after = example.prompt[:start], example.prompt[start:end], example.prompt[end:]
            text = tokenizer.decode(item.input_ids, clean_up_tokenization_spaces=False)
            assert len(item.input_ids) <= max_length
            assert text.startswith(before) and text.endswith(after)
            kept = text[len(before) : len(text) - len(after)]
            assert passage.endswith(kept)
            assert kept == passage or kept == kept.lstrip(), "white space goes with the cut"
            if len(tokenizer(example.prompt)["input_ids"]) <= max_length:
                assert text == example.prompt


def naive_cut(example: Example, tokenizer, max_length: int) -> list[int]:
    """Ids after dropping one character (and the white space behind it) of the passage at a time until it fits."""
    start, end = example.passage
    for position in range(start, end + 1):
        rest = example.prompt[position:end].lstrip() if position > start else example.prompt[start:end]
        ids = tokenizer(example.prompt[:start] + rest + example.prompt[end:], verbose=False)["input_ids"]
        if len(ids) <= max_length:
            return ids
    raise AssertionError("does not fit")


def test_a_cut_takes_hardly_more_than_it_must(bpe):
    """Against a twin that drops single characters: ours drops whole tokens, at most two too many."""
    examples = random_examples(150, "Passage: {p}\nQuestion: {q}?\nAnswer:", PIECES, seed=1)
    for example, item in zip(examples, quiet_encode(examples, bpe, 30).items, strict=True):
        naive = naive_cut(example, bpe, 30)
        assert len(naive) - 2 <= len(item.input_ids) <= 30


def test_special_tokens_survive_a_cut(bert):
    words = [" rain", " birds", " sea", " the"]
    examples = random_examples(30, "{p} Question : is it true", words)
    dataset = quiet_encode(examples, bert, 12)
    for example, item in zip(examples, dataset.items, strict=True):
        kept = example.prompt.split()[-10:]
        assert list(item.input_ids) == [2, *bert.convert_tokens_to_ids(kept), 3]
    assert dataset.truncated == sum(len(example.prompt.split()) > 10 for example in examples)


def test_cuts_are_counted_and_warned_of_once(bpe):
    examples = random_examples(20, "{p}\n{q}", [" rain"])
    expected = sum(len(bpe(example.prompt)["input_ids"]) > 16 for example in examples)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = encode(examples, bpe, 16)
    assert [str(w.message) for w in caught] == [
        f"{expected} of 20 prompts were longer than 16 tokens: their passages were cut from the left"
    ]
    assert dataset.truncated == expected > 0
    assert dataset.examples == tuple(examples)


def test_prompts_that_fit_are_tokenised_as_the_tokenizer_does(bpe, bert):
    for tokenizer in (bpe, bert):
        examples = random_examples(20, "{p}\n{q}", PIECES)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # model_max_length 16: transformers' own warning would mislead here
            dataset = encode(examples, tokenizer, 500)
        assert [list(item.input_ids) for item in dataset.items] == [tokenizer(e.prompt)["input_ids"] for e in examples]
        assert [item.label for item in dataset.items] == [example.label for example in examples]
        assert dataset.truncated == 0


def test_a_prompt_that_cannot_fit_names_item_length_and_limit(bpe):
    long = " ".join(["rain"] * 30)
    length = len(bpe(long)["input_ids"])
    with pytest.raises(
        DataError, match=f"^line 1: expected at most 9 tokens; got {length} .and 1 more item: line 2.: raise "
    ):
        encode([Example(long, 0, "line 1"), Example(long, 0, "line 2")], bpe, 9)
    short_passage = Example("rain" + long, 0, "line 3", passage=(0, 4))
    with pytest.raises(DataError, match=f"^line 3: .*; got {length} without its passage: raise data.max_length$"):
        encode([short_passage], bpe, 9)


def test_a_prompt_without_text_and_a_slow_tokenizer_are_refused(bpe, bert):
    for tokenizer, prompt in ((bpe, ""), (bert, " \n")):
        with pytest.raises(DataError, match="^line 4: expected a prompt with text; got .*, which has no token"):
            encode([Example("rain", 0, "line 3"), Example(prompt, 0, "line 4")], tokenizer, 9)

    class Slow:
        is_fast = False

    with pytest.raises(DataError, match="expected a fast tokenizer; got Slow"):
        encode([Example("rain", 0, "line 3")], Slow(), 9)


def test_no_examples_give_an_empty_data_set(bpe):
    assert len(encode([], bpe, 9)) == 0


@pytest.mark.skipif(not SHARED.is_dir(), reason="the benchmark data of ../shared/data is not here")
def test_real_passages_are_cut_to_the_limit_and_keep_their_question(bpe):
    template = PromptTemplate("{passage}\nQuestion: {question}?\nAnswer:", truncate_field="passage")
    rows = read_jsonl(SHARED / "boolq" / "validation.jsonl.gz")[:200]
    rendered = [template.render(row.fields, f"line {row.line}") for row in rows]
    dataset = quiet_encode([Example(text, None, "", span) for text, span in rendered], bpe, 150)
    assert dataset.truncated > 150
    for row, item in zip(rows, dataset.items, strict=True):
        text = bpe.decode(item.input_ids, clean_up_tokenization_spaces=False)
        cue = f"\nQuestion: {row.fields['question']}?\nAnswer:"
        assert text.endswith(cue)
        assert row.fields["passage"].endswith(text.removesuffix(cue))
        assert len(item.input_ids) <= 150


def test_padding_falls_back_to_the_end_of_text(bpe, bert):
    assert padding_id(bert) == bert.pad_token_id
    assert padding_id(bpe) == bpe.eos_token_id

    class Bare:
        pad_token_id = eos_token_id = None

    with pytest.raises(DataError, match="padding or end-of-text token; got neither"):
        padding_id(Bare())


def made(lengths: list[int], labels: bool = True) -> EncodedDataset:
    """Item i has `lengths[i]` tokens i + 1 and label i."""
    items = tuple(Encoded((i + 1,) * length, i if labels else None) for i, length in enumerate(lengths))
    return EncodedDataset(examples=(), items=items, truncated=0)


def test_collate_pads_on_the_right_and_keeps_every_item():
    dataset = made([3, 1, 5])
    batch = collate([dataset[2], dataset[0], dataset[1]], pad_token_id=0)
    assert batch.input_ids.tolist() == [[3, 3, 3, 3, 3], [1, 1, 1, 0, 0], [2, 0, 0, 0, 0]]
    assert torch.equal(batch.attention_mask, (batch.input_ids != 0).long())
    assert batch.labels.tolist() == batch.index.tolist() == [2, 0, 1]


def test_labels_are_there_for_all_items_or_for_none():
    assert collate([made([2, 2], labels=False)[0]], 0).labels is None
    with pytest.raises(DataError, match="expected a label for every item of a batch, or for none; got 1 of 2"):
        collate([made([2])[0], made([2], labels=False)[0]], 0)


def test_positions_count_from_the_end_as_in_a_list():
    dataset = made([1, 2, 3])
    assert dataset[-1] == dataset[2] == (2, dataset.items[2])
    assert [position for position, _ in dataset] == [0, 1, 2]
