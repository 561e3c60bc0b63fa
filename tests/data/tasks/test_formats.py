"""Rows of the benchmarks: what becomes of each format, and what is refused."""

import copy

import pytest

from blob_pyro.data import Row
from blob_pyro.data.tasks import formats
from blob_pyro.data.tasks.labelled import prepare_rows
from blob_pyro.errors import DataError

# One row of each format, with official field names (the sentences are made up).
ROWS = {
    "winogrande": {
        "sentence": "The cup hit the jar, so the _ broke.",
        "option1": "cup",
        "option2": "jar",
        "answer": "2",
    },
    "question_choices": {
        "id": "Q1",
        "question": "What do bees make?",
        "choices": {"text": ["honey", "milk", "silk"], "label": ["1", "2", "3"]},
        "answerKey": "3",
    },
    "question_stem_choices": {
        "id": "7-1",
        "question_stem": "Ice is",
        "choices": {"text": ["warm", "cold", "dry", "soft"], "label": ["A", "B", "C", "D"]},
        "answerKey": "B",
    },
    "mmlu": {"question": "2 + 2 = ?", "subject": "arithmetic", "choices": ["3", "4", "5", "6"], "answer": 1},
    "boolq": {"question": "is rain wet", "passage": "Rain is water.", "answer": True},
    "rte": {"premise": "It rains.", "hypothesis": "It is wet.", "idx": 0, "label": 0},
    "mrpc": {"sentence1": "It rains.", "sentence2": "Rain falls.", "label": 1, "idx": 0},
    "wic": {
        "word": "bank",
        "sentence1": "The bank of the river.",
        "sentence2": "A bank lends money.",
        "start1": 4, "start2": 2, "end1": 8, "end2": 6, "idx": 0, "label": 0,
    },
    "cola": {"sentence": "The cat sat.", "label": 1, "idx": 0},
}  # fmt: skip
FIELDS = {
    "winogrande": {
        "question": "The cup hit the jar, so the _ broke.",
        "choices": "A) cup\nB) jar",
        "options": ("A", "B"),
        "answer": "B",
        "group": ("cup", "jar"),
    },
    "question_choices": {
        "question": "What do bees make?",
        "choices": "A) honey\nB) milk\nC) silk",
        "options": ("A", "B", "C"),
        "answerKey": "C",
    },
    "question_stem_choices": {
        "question": "Ice is",
        "choices": "A) warm\nB) cold\nC) dry\nD) soft",
        "options": ("A", "B", "C", "D"),
        "answerKey": "B",
    },
    "mmlu": {
        "question": "2 + 2 = ?",
        "choices": "A) 3\nB) 4\nC) 5\nD) 6",
        "options": ("A", "B", "C", "D"),
        "answer": "B",
    },
    "boolq": {"passage": "Rain is water.", "question": "is rain wet", "answer": "True"},
    "rte": {"premise": "It rains.", "hypothesis": "It is wet.", "label": "yes"},
    "mrpc": {"sentence1": "It rains.", "sentence2": "Rain falls.", "label": "yes"},
    "wic": {
        "word": "bank",
        "sentence1": "The bank of the river.",
        "sentence2": "A bank lends money.",
        "label": "no",
    },
    "cola": {"sentence": "The cat sat.", "label": "yes"},
}
ANSWER = {"winogrande": "answer", "mmlu": "answer", "boolq": "answer"} | {
    name: "answerKey" for name in ("question_choices", "question_stem_choices")
}


def prepared(name: str, *changes: dict) -> list[dict]:
    rows = [Row(line, copy.deepcopy(ROWS[name]) | change) for line, change in enumerate(changes, start=1)]
    return [row.fields for row in prepare_rows(rows, getattr(formats, name), "a.jsonl")]


@pytest.mark.parametrize("name", ROWS)
def test_a_row_becomes_the_fields_of_a_prompt(name):
    assert prepared(name, {}) == [FIELDS[name]]


@pytest.mark.parametrize("name", ROWS)
def test_an_item_without_an_answer_has_no_label_and_an_answer_that_is_none_is_refused(name):
    field = ANSWER.get(name, "label")
    assert [row[field] for row in prepared(name, {field: ""}, {field: -1}, {field: None})] == [None] * 3
    for wrong in ("Z", 7, 1.0, [1], "true"):
        with pytest.raises(DataError, match=f"on line 2 .line 2: the field '{field}' is .*, none of "):
            prepared(name, {}, {field: wrong})


@pytest.mark.parametrize("name", ROWS)
def test_a_missing_or_empty_text_is_named_and_every_line_counted(name):
    official = [key for key, value in ROWS[name].items() if isinstance(value, str) and key not in ("answer", "id")]
    read = [key for key in official if key not in ("answerKey", "subject")]
    for field in read:
        with pytest.raises(DataError, match=f"on lines 1, 3 .line 1: an empty field '{field}'.: mend or delete them"):
            prepared(name, {field: ""}, {}, {field: " "})
        with pytest.raises(DataError, match=f"no text in the field '{field}'"):
            prepared(name, {field: 3})
        short = {key: value for key, value in ROWS[name].items() if key != field}
        with pytest.raises(DataError, match="^a.jsonl: expected rows with the fields of the official copy; got "):
            prepare_rows([Row(1, short)], getattr(formats, name), "a.jsonl")


@pytest.mark.parametrize(
    ("choices", "why"),
    [
        (["a", " "], "an empty choice"),
        (["a", None], "an empty choice"),
        (["a"], "not 2 to 5 choices"),
        (list("abcdef"), "not 2 to 5 choices"),
        ("ab", "not 2 to 5 choices"),
        (None, "not 2 to 5 choices"),
    ],
)
def test_choices_that_cannot_be_lettered_are_refused(choices, why):
    with pytest.raises(DataError, match=why):
        prepared("mmlu", {"choices": choices})
    labels = list("ABCDEF"[: len(choices)]) if isinstance(choices, list) else []
    with pytest.raises(DataError, match=why):
        prepared("question_choices", {"choices": {"text": choices, "label": labels}})


def test_choices_need_a_label_of_their_own():
    for labels in (["A"], ["A", "A"], "AB", None):
        with pytest.raises(DataError, match="choices with a label of its own each"):
            prepared("question_choices", {"choices": {"text": ["a", "b"], "label": labels}})
    with pytest.raises(DataError, match="the field 'choices' has no 'text' and 'label'"):
        prepared("question_choices", {"choices": ["a", "b"]})


def test_choices_are_lettered_by_position_whatever_their_labels():
    (item,) = prepared("question_choices", {"choices": {"text": ["x", "y"], "label": ["B", "A"]}, "answerKey": "A"})
    assert (item["choices"], item["answerKey"]) == ("A) x\nB) y", "B")


def test_a_passage_is_read_up_to_its_1024th_character():
    (item,) = prepared("boolq", {"passage": "ü" * 1023 + "xyz"})
    assert item["passage"] == "ü" * 1023 + "x"


def test_twins_share_a_group_in_either_order_and_case():
    first, twin, other = prepared(
        "winogrande", {}, {"option1": "Jar", "option2": "cup"}, {"option1": "lid", "option2": "cup"}
    )
    assert first["group"] == twin["group"] != other["group"]
    with pytest.raises(DataError, match="no '_' in the sentence"):
        prepared("winogrande", {"sentence": "The cup broke."})


def test_both_official_spellings_of_rte_are_read():
    glue = {"sentence1": "It rains.", "sentence2": "It is wet.", "label": 1, "idx": 0}
    (row,) = prepare_rows([Row(1, glue)], formats.rte, "a.jsonl")
    assert row.fields == {"premise": "It rains.", "hypothesis": "It is wet.", "label": "no"}
