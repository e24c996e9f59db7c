from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grounding.errors import ExpressionError, UsageError
from grounding.text.parse import noun_finder, parse
from grounding.text.rules import RuleNounFinder
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


# Short and careless, as people write them in games of reference.
WRITTEN = [
    ("the can", "can"),
    ("trash can", "can"),
    ("the trash can on the left", "can"),
    ("woman w/ hat", "woman"),
    ("woman w hat", "woman"),
    ("guy w/o shirt", "guy"),
    ("black/white cat", "cat"),
    ("b/w photo", "photo"),
    ("a b&w picture", "picture"),
    ("the n/s sign", "sign"),
    ("w/o hat man", "man"),
    ("someone in red", "someone"),
    ("somebody wearing red", "somebody"),
    ("something on the table", "something"),
    ("those in red", "those"),
    ("him with the hat", "him"),
    ("black & white cow", "cow"),
    ("red, white and blue shirt", "shirt"),
    ("U.S. flag", "flag"),
    ("US flag on the truck", "flag"),
    ("the St. Bernard", "Bernard"),
    ("traffic light", "light"),
    ("street light behind the bus", "light"),
    ("red light on top", "light"),
    ("guy in the blue shirt", "guy"),
    ("lady on right with umbrella", "lady"),
    ("man in the suit left", "man"),
    ("second zebra from left", "zebra"),
    ("far right giraffe", "giraffe"),
    ("giraffe far right", "giraffe"),
    ("little girl eating pizza", "girl"),
    ("smiling old man", "man"),
    ("sitting white cat", "cat"),
    ("parked red car", "car"),
    ("fluffy white cat", "cat"),
    ("blonde girl", "girl"),
    ("bald guy", "guy"),
    ("half eaten donut", "donut"),
    ("donut half eaten", "donut"),
    ("man bent over", "man"),
    ("tallest building", "building"),
    ("biggest piece of cake", "piece"),
    ("largest vase in back", "vase"),
    ("person holding phone", "person"),
    ("kid facing us", "kid"),
    ("boy looking at camera", "boy"),
    ("catcher", "catcher"),
    ("batter swinging", "batter"),
    ("umpire behind the catcher", "umpire"),
    ("car behind the motorcycle", "car"),
    ("bowl of soup closest to you", "bowl"),
    ("glass with most wine", "glass"),
    ("slice of pizza with the mushroom", "slice"),
    ("sandwich on the left half", "sandwich"),
    ("man & dog", "man"),
    ("man/woman in red", "man"),
    ("white truck, not the bus", "truck"),
    ("elephant, small one", "elephant"),
    ("guy's hat", "hat"),
    ("woman's hand holding cup", "hand"),
    ("mans arm on the left", "arm"),
    ("number 21", "number"),
    ("player # 21", "player"),
    ("21", "21"),
    ("left", "left"),
    ("bottom right", "right"),
    ("the one in front", "one"),
    ("black", "black"),
    ("in red", "red"),
    ("what the man is sitting on", "man"),
    ("couch under the window", "couch"),
    ("laptop next to the coffee mug", "laptop"),
    ("orange cat laying down", "cat"),
    ("bench that nobody is on", "bench"),
    ("bike leaning against wall", "bike"),
    ("bear standing up", "bear"),
    ("the down jacket on the hook", "jacket"),
    ("soda can next to the laptop", "can"),
    ("can of beans", "can"),
    ("watering can", "can"),
    ("the letter t on the sign", "letter"),
    ("empty plate", "plate"),
    ("man wearing glasses and a tie", "man"),
    ("horse w/ rider", "horse"),
    ("cow lying down in back", "cow"),
]


@pytest.mark.parametrize(("expression", "noun"), WRITTEN)
def test_heads_of_expressions_as_people_write_them(expression: str, noun: str) -> None:
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
    for name in ("nltk", "", "rules:x"):
        with pytest.raises(UsageError, match="choose rules, spacy or spacy:MODEL"):
            noun_finder(name)
