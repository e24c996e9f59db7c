from __future__ import annotations

import pytest

from evals.chair.lexicon import make_lexicon, read_lexicon
from grounding.errors import EvalDataError

SYNONYMS = """person, man, woman, passenger, baby
train, locomotive
motorcycle, scooter,  motor bike, motor cycle
dog, puppy
chair, seat
toilet, commode
tie, bow, bow tie
wine glass
oven, stove, stove top oven
"""


@pytest.fixture(params=["original", "standalone"])
def lexicon(request):
    return make_lexicon(SYNONYMS, request.param)


@pytest.mark.parametrize(
    ("text", "objects"),
    [
        ("a man and a puppy", ("person", "dog")),
        ("a baby dog", ("dog",)),
        ("a baby and a dog", ("person", "dog")),
        ("a passenger train", ("train",)),
        ("a bow tie", ("tie",)),
        ("a toilet seat", ("toilet",)),
        ("a seat near a toilet", ("toilet",)),
        ("a seat", ("chair",)),
        ("a wine glas", ("wine glass",)),
        ("a motor cycle", ("motorcycle",)),
        ("a motor bike", ()),  # its entry stands after two blanks, so it keeps one and never matches
        ("a stove top oven", ("oven", "oven")),  # three words are never merged
        ("dog dog", ("dog", "dog")),
        ("", ()),
    ],
)
def test_words_to_objects(text, objects, lexicon):
    assert lexicon.objects(lexicon.merge(text.split())) == objects


def test_a_train_track_is_no_train(lexicon):
    assert lexicon.objects(lexicon.merge("a train track".split())) == ()
    assert lexicon.objects(lexicon.merge("a train on a train track".split())) == ("train",)


def test_places_are_those_of_the_objects(lexicon):
    words = lexicon.merge("a seat , a toilet and a hot dog".split())
    assert [words[place] for place in lexicon.places(words)] == ["toilet"]


def test_a_word_is_merged_once_and_from_the_left(lexicon):
    assert lexicon.merge("hot dog dog".split()) == ("hot dog", "dog")
    assert lexicon.merge("bow tie".split()) == ("tie",)
    assert lexicon.merge("traffic light light".split()) == ("traffic light", "light")


def test_of_two_lines_with_one_word_the_later_wins():
    assert make_lexicon("a, x\nb, x\n").class_of["x"] == "b"


@pytest.mark.parametrize("text", ['{"person": ["man"]}', "no list at all\nnor here"])
def test_what_is_no_synonym_list_is_refused(text, tmp_path):
    (tmp_path / "words.txt").write_text(text)
    with pytest.raises(EvalDataError, match="is no synonym list: expected"):
        read_lexicon(tmp_path / "words.txt")
