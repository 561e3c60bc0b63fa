"""Prompt templates: what they render, where the passage lies, and what they refuse."""

import random

import pytest

from blob_pyro.data import PromptTemplate
from blob_pyro.errors import ConfigError, DataError


def test_a_template_lists_each_field_once_in_order():
    assert PromptTemplate("{b} {a} {b}").fields == ("b", "a")


@pytest.mark.parametrize(
    ("value", "text"),
    [("x", "x"), (3, "3"), (0.5, "0.5"), (True, "True"), (False, "False"), ("", ""), ("{a}%s", "{a}%s")],
)
def test_values_are_written_as_they_are(value, text):
    assert PromptTemplate("<{a}>").render({"a": value, "other": []}, "line 1") == (f"<{text}>", None)


def test_doubled_braces_are_literal():
    assert PromptTemplate("{{{a}}} {{b}}").render({"a": 1}, "line 1")[0] == "{1} {b}"


def test_a_plain_template_renders_as_str_format_does_and_the_span_is_the_passage():
    rng = random.Random(0)
    template = PromptTemplate("Q: {q}\n{{note}} {p}\nagain {q}:", truncate_field="p")
    for _ in range(100):
        row = {name: "".join(rng.choices("ab {}\n", k=rng.randrange(8))) for name in ("p", "q")}
        text, span = template.render(row, "line 1")
        assert text == template.template.format(**row)
        assert span is not None and text[slice(*span)] == row["p"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("no field", "expected a field in braces.*got none in 'no field'"),
        ("", "expected a field in braces"),
        ("{{text}}", "expected a field in braces"),
        ("{text", "expected matching braces; got '{text'.*double a brace"),
        ("text}", "expected matching braces"),
        ("{a{b}}", "expected matching braces"),
        ("{}", "expected plain field names in braces; got '{}'"),
        ("{a} {0}", r"got '\{0\}' in '{a} \{0\}'"),
        ("{a..b}", r"got '{a\.\.b}'"),
        ("{.b}", r"got '{\.b}'"),
        ("{0.b}", r"got '{0\.b}'"),
        ("{a[0]}", r"got '{a\[0\]}'"),
        ("{a:>5}", "got '{a:>5}'"),
        ("{a!r}", "got '{a!r}'"),
    ],
)
def test_a_template_that_cannot_work_is_refused_when_made(template, message):
    with pytest.raises(ConfigError, match=message) as caught:
        PromptTemplate(template)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("template", ["{a}", "{b} {a} {b}"])
def test_the_field_to_cut_must_occur_exactly_once(template):
    with pytest.raises(
        ConfigError, match="data.truncate_field: expected a field that the prompt has exactly once.*got 'b'"
    ):
        PromptTemplate(template, truncate_field="b")


def test_a_missing_field_names_the_item_and_the_fields_that_exist():
    with pytest.raises(DataError, match="^line 7: expected the field 'text', .*; got 'body', 'label'$"):
        PromptTemplate("{text}").render({"body": "x", "label": 1}, where="line 7")


@pytest.mark.parametrize(("value", "got"), [(None, "null"), ([1], "a list"), ({"a": 1}, "a dict")])
def test_a_value_that_is_no_text_is_refused(value, got):
    with pytest.raises(DataError, match=f"^line 7: expected text, a number.* in the field 'text'; got {got}$"):
        PromptTemplate("{text}").render({"text": value}, where="line 7")


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(DataError, match="line 3: expected text in the field 'text'; got half of a surrogate pair"):
        PromptTemplate("{text}").render({"text": "half: \ud83d"}, where="line 3")
