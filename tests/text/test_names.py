from __future__ import annotations

import pytest

from grounding.text.names import listed_phrases, object_names


def names(text: str, **options) -> list[str]:
    return [one.name for one in object_names(listed_phrases(text), **options)]


def test_a_list_and_prose_give_the_same_names():
    assert names("1. Dog\n2) Two cats\n- a bench;\n• the red car") == ["dog", "cat", "bench", "car"]
    assert names("A dog, two cats and a bench are next to the red car.") == ["dog", "cat", "bench", "car"]


def test_a_names_phrase_stands_where_its_span_says():
    text = "Objects:\n* a small red star\n* a heart"
    for one in object_names(listed_phrases(text)):
        start, end = one.phrase.span
        assert text[start:end] == one.phrase.text
        for word in one.phrase.words:
            assert text[slice(*word.span)] == word.text


def test_plurals_and_stuff_are_marked():
    cats, sky = object_names(listed_phrases("three cats and the sky"))
    assert (cats.name, cats.plural, cats.stuff) == ("cat", True, False)
    assert (sky.name, sky.plural, sky.stuff) == ("sky", False, True)
    assert names("three cats and the sky", stuff="drop") == ["cat"]


def test_mentions_are_merged_by_name_by_phrase_or_not_at_all():
    text = "a small red star , a red small star , a star and stars"
    assert [(one.words, one.mentions) for one in object_names(listed_phrases(text), "names")] == [("small red star", 4)]
    assert [(one.words, one.mentions) for one in object_names(listed_phrases(text))] == [
        ("small red star", 2),
        ("star", 2),
    ]
    assert len(object_names(listed_phrases(text), "none")) == 4


def test_names_of_other_languages_are_kept_as_they_are_written():
    assert names("一只狗，两只猫、一棵树。") == ["一只狗", "两只猫", "一棵树"]  # noqa: RUF001
    assert names("Собака\nкошка") == ["собака", "кошка"]  # noqa: RUF001
    assert names("كلب\nقطة") == ["كلب", "قطة"]


@pytest.mark.parametrize("text", ["", " \n \n", "no", "...", "1. \n2. ", "It is what it is.", "the image"])
def test_a_text_that_names_nothing_has_no_names(text):
    assert names(text) == []


def test_two_hundred_names_are_limited_and_repeats_do_not_add_any():
    many = ", ".join(f"a thing{chr(97 + i // 26)}{chr(97 + i % 26)}x" for i in range(200))
    assert len(names(many)) == 200
    assert len(names(many, limit=40)) == 40
    assert names("a chair , " * 500) == ["chair"]
