from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grounding.text.kinds import kind_of, normal, word_list
from grounding.text.words import split_words
from grounding.types import WordKind


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the red dog", ["the", "red", "dog"]),
        ("man's t-shirt, blue", ["man's", "t-shirt", "blue"]),
        ("the girls\u2019 bikes", ["the", "girls", "bikes"]),
        ("rock\u2019n\u2019roll", ["rock\u2019n\u2019roll"]),
        ("2.5 or 1,000 things.", ["2.5", "or", "1,000", "things"]),
        ("cafe\u0301 au lait", ["cafe\u0301", "au", "lait"]),
        ("हिन्दी शब्द", ["हिन्दी", "शब्द"]),
        ("the 👩\u200d🚒 left", ["the", "👩\u200d🚒", "left"]),
        ("红色的狗", ["红色的狗"]),
        ("- ' .", []),
        ("dog-", ["dog"]),
        ("a--b", ["a", "b"]),
        ("the U.S. flag at 3 p.m.", ["the", "U.S", "flag", "at", "3", "p.m"]),
        ("a dog.A cat", ["a", "dog", "A", "cat"]),
        ("woman w/ hat", ["woman", "w", "hat"]),
        ("snake_case", ["snake_case"]),
        ("", []),
    ],
)
def test_words_and_their_joints(text: str, expected: list[str]) -> None:
    assert [word.text for word in split_words(text)] == expected


@given(st.text())
def test_spans_round_trip_and_are_ordered(text: str) -> None:
    words = split_words(text)
    end = 0
    for word in words:
        assert text[slice(*word.span)] == word.text
        assert end <= word.span[0] < word.span[1] <= len(text)
        end = word.span[1]


@given(st.text())
def test_every_letter_and_digit_is_in_a_word(text: str) -> None:
    covered = {i for word in split_words(text) for i in range(*word.span)}
    wanted = {i for i, letter in enumerate(text) if unicodedata.category(letter)[0] in "LN"}
    assert wanted <= covered
    assert not any(text[i].isspace() for i in covered)


@given(st.lists(st.sampled_from(["red", "man's", "t-shirt", "2.5", "été", "the"]), max_size=6))
def test_words_written_with_blanks_come_back(words: list[str]) -> None:
    assert [word.text for word in split_words(" ".join(words))] == words


@pytest.mark.parametrize(
    ("word", "kind"),
    [
        ("the", WordKind.STOP),
        ("THE", WordKind.STOP),
        ("it\u2019s", WordKind.STOP),
        ("left", WordKind.SPATIAL),
        ("Behind", WordKind.SPATIAL),
        ("one", WordKind.CONTENT),
        ("dog", WordKind.CONTENT),
    ],
)
def test_kinds(word: str, kind: WordKind) -> None:
    assert kind_of(word) is kind


def test_the_sections_of_the_list_do_not_overlap() -> None:
    sections = word_list()
    assert set(sections) == {"stop", "spatial", "noun"}
    assert not sections["stop"] & sections["spatial"]
    assert sections["noun"] <= sections["stop"]
    for words in sections.values():
        assert all(word == normal(word) for word in words)
