from __future__ import annotations

import pytest
from extras import needs_extra
from hypothesis import given
from hypothesis import strategies as st

from grounding.errors import ExpressionError, MissingExtraError
from grounding.text.parse import RuleNounFinder, SpacyNounFinder, noun_finder, parse
from grounding.text.words import split_words
from grounding.types import Word


def head(expression: str) -> list[str]:
    return [word.text for word in parse(expression) if word.is_head]


@pytest.mark.parametrize(
    ("expression", "noun"),
    [
        ("the red dog", "dog"),
        ("man in red shirt", "man"),
        ("second cup from the left", "cup"),
        ("the dog that is sleeping", "dog"),
        ("bottom left elephant", "elephant"),
        ("elephant bottom left", "elephant"),
        ("the one on the right", "one"),
        ("left", "left"),
        ("second from the left", "second"),
        ("left of the table", "table"),
        ("top of the cake", "cake"),
        ("the man's hat", "hat"),
        ("the woman's", "woman's"),
        ("man wearing a black hat", "man"),
        ("running man", "man"),
        ("the tall building", "building"),
        ("girl dressed in pink", "girl"),
        ("striped shirt", "shirt"),
        ("the bed", "bed"),
        ("man red shirt", "man"),
        ("man, red shirt", "man"),
        ("left, red car", "car"),
        ("a black and white dog", "dog"),
        ("a man and a dog", "man"),
        ("player 21", "player"),
        ("two dogs", "dogs"),
        ("red", "red"),
        ("red parking meter", "meter"),
        ("cup of coffee next to the laptop", "cup"),
        ("bus behind the car", "bus"),
        ("chair closest to us", "chair"),
        ("find the dog", "dog"),
        ("find red dog", "dog"),
        ("mark on the wall", "mark"),
        ("the small red star left of the blue square", "star"),
        ("the object above the large circle", "object"),
        ("the leftmost big square", "square"),
    ],
)
def test_head_noun_by_rules(expression: str, noun: str) -> None:
    assert head(expression) == [noun]


def test_of_two_equal_words_only_the_head_is_marked() -> None:
    words = parse("the dog left of the dog")
    assert [word.is_head for word in words] == [False, True, False, False, False, False]


@pytest.mark.parametrize("expression", ["", "   ", "?!", "- -"])
def test_no_words(expression: str) -> None:
    with pytest.raises(ExpressionError, match="has no words"):
        parse(expression)


@pytest.mark.parametrize("expression", ["the", "it is", "The of and", "which is that"])
def test_stop_words_alone(expression: str) -> None:
    with pytest.raises(ExpressionError, match="stop words alone"):
        parse(expression)


@given(st.text(max_size=40))
def test_rules_answer_for_any_text(text: str) -> None:
    words = split_words(text)
    found = RuleNounFinder().head(text, words)
    assert len(found) <= 1
    assert all(0 <= index < len(words) for index in found)


@given(
    st.sampled_from(["", "the ", "a big ", "the small red "]),
    st.sampled_from(["dog", "building", "bed", "cup", "star"]),
    st.sampled_from(
        ["", " on the table", " that is red", " left of the square", " wearing a hat", ", please", " behind it"]
    ),
)
def test_what_stands_around_the_noun_does_not_change_the_head(before: str, noun: str, after: str) -> None:
    assert head(before + noun + after) == [noun]


def test_another_finder_decides() -> None:
    class First:
        def head(self, text: str, words: tuple[Word, ...]) -> tuple[int, ...]:
            return (0,)

    assert [word.is_head for word in parse("red dog", First())] == [True, False]


def test_finders_by_name() -> None:
    assert isinstance(noun_finder("rules"), RuleNounFinder)
    with pytest.raises(ExpressionError, match="choose rules, spacy"):
        noun_finder("nltk")


def test_spacy_missing_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "spacy", None)
    with pytest.raises(MissingExtraError, match=r"vlm-grounding\[nlp\]"):
        SpacyNounFinder()


@needs_extra("spacy", "nlp")
def test_spacy_reads_the_root_of_the_first_noun_chunk() -> None:
    import spacy
    from spacy.tokens import Doc

    blank = spacy.blank("en")

    def parsed(text: str) -> Doc:
        assert text == "man in red shirt"
        return Doc(
            blank.vocab,
            words=["man", "in", "red", "shirt"],
            pos=["NOUN", "ADP", "ADJ", "NOUN"],
            heads=[0, 0, 3, 1],
            deps=["ROOT", "prep", "amod", "pobj"],
        )

    assert [w.text for w in parse("man in red shirt", SpacyNounFinder(parsed)) if w.is_head] == ["man"]


@needs_extra("spacy", "nlp")
def test_spacy_pipeline_missing_says_how_to_get_it() -> None:
    with pytest.raises(ExpressionError, match="python -m spacy download no_such_pipeline"):
        noun_finder("spacy:no_such_pipeline")
