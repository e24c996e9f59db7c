from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grounding.text.nouns import noun_phrases


@pytest.mark.parametrize(
    ("text", "phrases"),
    [
        (
            "a small red star , a large blue circle and an orange cross .",
            ["small red star", "large blue circle", "orange cross"],
        ),
        ("a star and a heart .", ["star", "heart"]),
        ("star, circle and cross", ["star", "circle", "cross"]),
        ("The image features a man standing next to a brown dog.", ["man", "brown dog"]),
        ("The scene is lively and colorful.", []),
        ("There are two people in the image, one of them wearing a hat.", ["two people", "hat"]),
        ("A bowl of fruit with cheese and lettuce.", ["bowl", "fruit", "cheese", "lettuce"]),
        ("Several cars are parked along the street.", ["cars", "street"]),
        ("A tennis player is hitting the ball with his racket.", ["tennis player", "ball", "racket"]),
        ("The table is slightly dirty.", ["table"]),
        ("There are several people visible in the scene.", ["people"]),
        ("A traffic light hangs above a man wearing black trousers.", ["traffic light", "man", "black trousers"]),
        ("A trash can is on the left, and a tree can be seen.", ["trash can", "tree"]),
        ("It is red. Dogs are there.", ["Dogs"]),
        ("Yes.", []),
        ("", []),
    ],
)
def test_noun_phrases_by_rules(text: str, phrases: list[str]) -> None:
    found = noun_phrases(text)
    assert [one.text for one in found] == phrases
    for one in found:
        assert text[slice(*one.span)] == one.text
        assert [word.is_head for word in one.words].count(True) == 1
        assert one.text.endswith(one.noun.text)


@given(st.text(max_size=80))
def test_any_text_has_disjoint_phrases_in_order(text: str) -> None:
    ends = [0]
    for one in noun_phrases(text):
        assert one.span[0] >= ends[-1]
        ends.append(one.span[1])
