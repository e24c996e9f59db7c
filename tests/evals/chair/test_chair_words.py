from __future__ import annotations

import sys

import pytest
from extras import needs_extra
from hypothesis import given
from hypothesis import strategies as st

from evals.chair.words import by_rules, normaliser, singular
from evals.nltk_tags import load_nltk
from grounding.errors import EvalDataError, MissingExtraError, UsageError


@pytest.mark.parametrize(
    ("plural", "one"),
    [
        ("dogs", "dog"),
        ("benches", "bench"),
        ("buses", "bus"),
        ("bus", "bus"),
        ("glasses", "glass"),
        ("women", "woman"),
        ("knives", "knife"),
        ("ponies", "pony"),
        ("scissors", "scissors"),
        ("skis", "ski"),
        ("tvs", "tv"),
        ("vases", "vase"),
        ("tennis", "tennis"),
        ("this", "this"),
        ("his", "his"),
        ("boxes", "box"),
        ("people", "people"),
        ("ties", "tie"),
        ("neckties", "necktie"),
        ("pies", "pie"),
        ("movies", "movie"),
        ("babies", "baby"),
        ("shoes", "shoe"),
        ("potatoes", "potato"),
        ("echoes", "echo"),
        ("canoes", "canoe"),
        ("volcanoes", "volcano"),
        ("sizes", "size"),
        ("taxis", "taxi"),
        ("firemen", "fireman"),
        ("specimen", "specimen"),
        ("bookshelves", "bookshelf"),
        ("minibuses", "minibus"),
        ("series", "series"),
    ],
)
def test_the_singular(plural, one):
    assert singular(plural) == one


@given(st.text(max_size=40))
def test_any_text_becomes_lower_case_words_without_blanks(text):
    for word in by_rules(text):
        assert word
        assert not any(letter.isspace() for letter in word)


def test_marks_are_words_and_hyphens_hold_together():
    assert by_rules("Two well-lit TVs, here!") == ("two", "well-lit", "tv", ",", "here", "!")


def test_possessive_endings_are_words_of_their_own():
    assert by_rules("The man's hat, a dog's tail.") == ("the", "man", "'s", "hat", ",", "a", "dog", "'s", "tail", ".")
    assert by_rules("MEN\u2019S suits and the dogs' ties") == tuple("man 's suit and the dog ' tie".split())
    assert by_rules("It's six o'clock, don't!") == ("it", "'s", "six", "o'clock", ",", "don't", "!")


def test_without_nltk_its_pipeline_is_refused_in_a_sentence(monkeypatch):

    load_nltk.cache_clear()
    monkeypatch.setitem(sys.modules, "nltk", None)
    with pytest.raises(MissingExtraError, match="needs the package 'nltk'"):
        normaliser("nltk")


@needs_extra("nltk", "eval")
def test_without_nltks_data_the_command_that_brings_it_is_named(monkeypatch):
    import nltk

    def missing(*args, **kwargs):
        raise LookupError("Resource punkt_tab not found")

    load_nltk.cache_clear()
    monkeypatch.setattr(nltk, "word_tokenize", missing)
    with pytest.raises(EvalDataError, match=r"run 'grounding eval nltk-data', or use --pipeline rules"):
        normaliser("nltk")
    load_nltk.cache_clear()


@needs_extra("nltk", "eval")
@pytest.mark.usefixtures("nltk_data")
def test_nltk_takes_seated_for_a_seat_and_the_rules_do_not():
    nltk = normaliser("nltk")
    assert "seat" in nltk("People are seated there.")
    assert "seat" not in by_rules("People are seated there.")
    assert nltk("Two dogs and some benches")[1::2] == ("dog", "some")


def test_an_unknown_pipeline_is_refused():
    with pytest.raises(UsageError, match="the known ones are rules, nltk"):
        normaliser("spacy")  # type: ignore[arg-type]
