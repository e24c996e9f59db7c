from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grounding.text.quotes import enumerated, plain_quotes


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("\u201cthe bowl\u201d", "the bowl"),
        ('"the bowl"', "the bowl"),
        ("'the bowl'", "the bowl"),
        ("'the dog's bowl'", "the dog's bowl"),
        ("'stop' and 'go'", "'stop' and 'go'"),
        ("\u2018the bowl\u2019", "the bowl"),
        ("\u00abthe bowl\u00bb", "the bowl"),
        ("the man\u2019s hat", "the man's hat"),
        ("the boys\u2019 bikes", "the boys' bikes"),
        ('the "stop" sign', 'the "stop" sign'),
        ('"stop" and "go"', '"stop" and "go"'),
        ("the sign that says \u201cstop\u201d", 'the sign that says "stop"'),
        ("the bowl", "the bowl"),
        ("  the bowl ", "  the bowl "),
        ('""', '""'),
        ("", ""),
    ],
)
def test_quotes_around_a_text_are_taken_off_and_typed_ones_straightened(text: str, plain: str) -> None:
    assert plain_quotes(text) == plain


@given(st.text(alphabet="ab \"'\u201c\u201d\u2018\u2019"))
def test_it_is_done_once_and_for_all(text: str) -> None:
    assert plain_quotes(plain_quotes(text)) == plain_quotes(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("the bowl, the table", ["the bowl", "the table"]),
        ("the bowl; a table", ["the bowl", "a table"]),
        ("the bowl, the table and the cup", ["the bowl", "the table", "the cup"]),
        ("the bowl, the table, and the cup", ["the bowl", "the table", "the cup"]),
        ("the bowl,the table,", ["the bowl", "the table"]),
        ("man, red shirt", ["man, red shirt"]),
        ("the dog, the one on the left", ["the dog, the one on the left"]),
        ("the big, red dog", ["the big, red dog"]),
        ("the salt and the pepper", ["the salt and the pepper"]),
        ("the bowl", ["the bowl"]),
        ("the, the", ["the, the"]),
        ("", [""]),
    ],
)
def test_an_enumeration_of_things_is_several_expressions(text: str, parts: list[str]) -> None:
    assert list(enumerated(text)) == parts
