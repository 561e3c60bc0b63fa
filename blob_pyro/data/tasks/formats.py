"""Rows of the benchmarks, with the field names of their official copies, as the fields of a prompt.

Each function takes the fields of one row and returns those of its prompt, the answer under its official field name as
an answer word (None where the row has none, as in unlabelled test splits), and where they mean something

- "options": the answer words that this item offers, where items of a task differ in their number;
- "group": what items share that must not be split between training and validation.

In CSV every cell is text: there a number or a truth value is matched by how it is written (1, True), and a list or
struct of choices is its JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from blob_pyro.data.rows.fields import from_cell
from blob_pyro.data.rows.wording import shown

LETTERS = "ABCDE"
PASSAGE_CHARACTERS = 1024
"""The paper reads the first 1,024 characters of a boolq passage."""


class BadRowError(ValueError):
    """A row that is not of its format; the message is a few words for `prepare_rows`."""


def winogrande(fields: Mapping[str, Any]) -> dict[str, Any]:
    """sentence with a "_", option1, option2, answer "1" or "2".

    The group of an item is its two options in any order and case. Twins (two sentences that differ in a word and have
    opposite answers) always share them; so do a few unrelated pairs, which then stay together as well.

    Example:
        >>> item = winogrande({"sentence": "The _ fell.", "option1": "cup", "option2": "Jar", "answer": "2"})
        >>> item["choices"], item["answer"], item["group"]
        ('A) cup\\nB) Jar', 'B', ('cup', 'jar'))
    """
    sentence = _text(fields, "sentence")
    if "_" not in sentence:
        raise BadRowError("no '_' in the sentence")
    options = [_text(fields, "option1"), _text(fields, "option2")]
    group = tuple(sorted(option.strip().casefold() for option in options))
    return _choice_item(sentence, options, ["1", "2"], fields, "answer") | {"group": group}


def question_choices(fields: Mapping[str, Any]) -> dict[str, Any]:
    """arc and commonsense_qa: question, choices {text, label}, answerKey one of the choices' labels.

    Choices are lettered by position, whatever the labels ("1" to "4" in about 3 % of arc's rows) and their number.
    """
    return _labelled_choices(fields, "question")


def question_stem_choices(fields: Mapping[str, Any]) -> dict[str, Any]:
    """openbookqa: as `question_choices`, with the question in question_stem."""
    return _labelled_choices(fields, "question_stem")


def mmlu(fields: Mapping[str, Any]) -> dict[str, Any]:
    """question, choices (a list of texts), answer their index from 0."""
    texts = from_cell(fields.get("choices"))
    keys = list(range(len(texts))) if isinstance(texts, list) else []
    return _choice_item(_text(fields, "question"), texts, keys, fields, "answer")


def boolq(fields: Mapping[str, Any]) -> dict[str, Any]:
    """question, passage (its first 1,024 characters are read), answer true or false."""
    passage = _text(fields, "passage")[:PASSAGE_CHARACTERS]
    answer = _answer(fields, "answer", {True: "True", False: "False"})
    return {"passage": passage, "question": _text(fields, "question"), "answer": answer}


def rte(fields: Mapping[str, Any]) -> dict[str, Any]:
    """premise, hypothesis (sentence1 and sentence2 in GLUE's copy), label 0 entailment or 1 not_entailment."""
    old = "premise" not in fields
    premise, hypothesis = ("sentence1", "sentence2") if old else ("premise", "hypothesis")
    label = _answer(fields, "label", {0: "yes", 1: "no"})
    return {"premise": _text(fields, premise), "hypothesis": _text(fields, hypothesis), "label": label}


def mrpc(fields: Mapping[str, Any]) -> dict[str, Any]:
    """sentence1, sentence2, label 1 paraphrase or 0 not."""
    return _texts(fields, "sentence1", "sentence2") | {"label": _answer(fields, "label", {0: "no", 1: "yes"})}


def wic(fields: Mapping[str, Any]) -> dict[str, Any]:
    """word, sentence1, sentence2, label 1 same sense or 0 not; the word's positions are not used."""
    return _texts(fields, "word", "sentence1", "sentence2") | {"label": _answer(fields, "label", {0: "no", 1: "yes"})}


def cola(fields: Mapping[str, Any]) -> dict[str, Any]:
    """sentence, label 1 acceptable or 0 not."""
    return _texts(fields, "sentence") | {"label": _answer(fields, "label", {0: "no", 1: "yes"})}


def _labelled_choices(fields: Mapping[str, Any], question: str) -> dict[str, Any]:
    """An item whose choices carry labels of their own."""
    choices = from_cell(fields.get("choices"))
    if not isinstance(choices, Mapping) or not {"text", "label"} <= set(choices):
        raise BadRowError("the field 'choices' has no 'text' and 'label'")
    return _choice_item(_text(fields, question), choices["text"], choices["label"], fields, "answerKey")


def _choice_item(question: str, texts: Any, keys: Any, fields: Mapping[str, Any], answer: str) -> dict[str, Any]:
    """Question, lettered lines of choices, and the letter of the answer; `keys` name the choices in `answer`."""
    letters, lines = lettered(texts, keys, LETTERS)
    known = {key: letter for key, letter in zip(keys, letters, strict=True) if isinstance(key, str | int)}
    return {"question": question, "choices": lines, "options": letters, answer: _answer(fields, answer, known)}


def lettered(texts: Any, keys: Any, alphabet: str) -> tuple[tuple[str, ...], str]:
    """The letters of choices, and the lines that show them.

    Args:
        texts: the choices.
        keys: a name of its own for each, which the answer may use.
        alphabet: the letters that there are.

    Raises:
        BadRowError: the choices are too few, too many or empty, or their keys are not distinct.

    Example:
        >>> lettered(["cup", "jar"], ["1", "2"], LETTERS)
        (('A', 'B'), 'A) cup\\nB) jar')
    """
    distinct = isinstance(keys, list) and len(set(map(str, keys))) == len(keys)
    if not isinstance(texts, list) or not 2 <= len(texts) <= len(alphabet) or not distinct or len(texts) != len(keys):
        raise BadRowError(f"not 2 to {len(alphabet)} choices with a label of its own each")
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise BadRowError("an empty choice")
    letters = tuple(alphabet[: len(texts)])
    return letters, "\n".join(f"{letter}) {text}" for letter, text in zip(letters, texts, strict=True))


def _answer(fields: Mapping[str, Any], name: str, words: Mapping[Any, str]) -> str | None:
    """The answer word of the official label; "", -1 and null are the ways in which test splits have none."""
    value = fields.get(name)
    if value is None or value in ("", -1, "-1"):
        return None
    for label, word in words.items():
        # bool is checked by type as well: True == 1 is no official label of rte, nor 1 of boolq
        if type(value) in (type(label), str) and str(value) == str(label):
            return word
    raise BadRowError(f"the field {name!r} is {shown(value)}, none of {', '.join(map(repr, words))}")


def _texts(fields: Mapping[str, Any], *names: str) -> dict[str, str]:
    return {name: _text(fields, name) for name in names}


def _text(fields: Mapping[str, Any], name: str) -> str:
    """A field's text, which must not be empty."""
    value = fields.get(name)
    if not isinstance(value, str) or not value.strip():
        got = "no" if name not in fields else "an empty" if value == "" else "no text in the"
        raise BadRowError(f"{got} field {name!r}")
    return value
