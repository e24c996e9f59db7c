"""Stop words that are nouns elsewhere, by their neighbours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grounding.text.kinds import kind_of
from grounding.text.parse import parse
from grounding.text.words import split_words
from grounding.types import WordKind

NOUNS_TOO = ["can", "will", "might", "must", "may", "mine", "t", "s", "d", "w", "m"]
ARTICLES = ["the", "a", "my", "his", "their", "The"]


def content(text: str) -> list[str]:
    return [word.text for word in split_words(text) if word.kind is WordKind.CONTENT]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("the can", ["can"]),
        ("can", ["can"]),
        ("can of beans", ["can", "beans"]),
        ("can you see the dog", ["see", "dog"]),
        ("trash can", ["trash", "can"]),
        ("the blue can is full", ["blue", "can", "full"]),
        ("left can", ["can"]),
        ("this can", ["can"]),
        ("this can be seen", ["seen"]),
        ("A mountain can be seen.", ["mountain", "seen"]),
        ("another can be found", ["found"]),
        ("people can sit", ["people", "sit"]),
        ("the man that can jump", ["man", "jump"]),
        ("a gold mine on the hill", ["gold", "mine", "hill"]),
        ("a friend of mine", ["friend"]),
        ("man standing up", ["man", "standing"]),
        ("the down jacket", ["down", "jacket"]),
        ("the out of focus man", ["focus", "man"]),
        ("the letter t", ["letter", "t"]),
        ("a t shirt", ["t", "shirt"]),
        ("woman w/ hat", ["woman", "hat"]),
        ("woman w/o hat", ["woman", "hat"]),
        ("woman w hat", ["woman", "hat"]),
        ("the U.S. flag", ["U.S", "flag"]),
        ("the US flag", ["US", "flag"]),
        ("chair closest to us", ["chair"]),
        ("CHAIR CLOSEST TO US", ["CHAIR"]),
    ],
)
def test_neighbours_decide(text: str, words: list[str]) -> None:
    assert content(text) == words


@given(st.sampled_from(ARTICLES), st.sampled_from(NOUNS_TOO), st.sampled_from(["", " on the table", ", please"]))
def test_after_an_article_a_word_that_can_be_a_noun_is_the_head(article: str, noun: str, after: str) -> None:
    assert kind_of(noun) is WordKind.STOP
    assert [word.text for word in parse(f"{article} {noun}{after}") if word.is_head] == [noun]


@given(
    st.sampled_from(["", "the ", "a big ", "that "]),
    st.sampled_from(["trash", "soda", "blue", "watering", "second", "empty"]),
    st.sampled_from(["", " on the left", " is full", " next to the door", " that fell over", ", please", " behind it"]),
)
def test_after_a_thing_or_an_adjective_a_can_is_the_head(before: str, word: str, after: str) -> None:
    assert [one.text for one in parse(f"{before}{word} can{after}") if one.is_head] == ["can"]


@given(st.lists(st.sampled_from([*NOUNS_TOO, *ARTICLES, "dog", "of", "left", "this", "letter", "be", "w/", "/o"])))
def test_only_words_of_the_list_change_and_only_to_nouns(words: list[str]) -> None:
    for word in split_words(" ".join(words)):
        alone = kind_of(word.text)
        assert word.kind is alone or (alone is WordKind.STOP and word.kind is WordKind.CONTENT) or word.text == "o"


@given(st.sampled_from(["mountain", "dog", "person", "trees", "car"]), st.sampled_from(["be", "also be", "not be"]))
def test_a_verb_phrase_stays_one(noun: str, verb: str) -> None:
    text = f"a {noun} can {verb} seen on the left"
    assert "can" not in content(text)
    assert [word.text for word in parse(text) if word.is_head] == [noun]
