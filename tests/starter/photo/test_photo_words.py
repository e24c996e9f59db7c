from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_photos import CAPTIONS

from grounding.photos import Photo, coco_classes
from grounding.starter.model import build_tokenizer
from grounding.starter.photo.classes import imagenet_names, words_of_classes
from grounding.starter.photo.tasks import absent_classes, dialogue, habits_of, phrases
from grounding.starter.photo.words import is_thing, split, vocabulary

DOG = Photo(1, Path("1.jpg"), (9, 9), CAPTIONS, ("dog", "person"))
CAR = Photo(2, Path("2.jpg"), (9, 9), CAPTIONS, ("bench", "car", "person"))


def test_the_vocabulary_holds_prompts_classes_and_frequent_words():
    words = vocabulary(["a quokka", "the quokka naps", "quokka !"], min_count=3)
    assert {"quokka", "describe", "yes", "hair", "drier"} <= set(words)
    assert "naps" not in words
    assert len(words) == len(set(words))
    tokenizer = build_tokenizer(words)
    known = tokenizer("Describe the QUOKKA.", add_special_tokens=False)["input_ids"]
    assert [tokenizer.decode([token]) for token in known] == ["describe", "the", "quokka", "."]
    assert tokenizer("naps", add_special_tokens=False)["input_ids"] == [tokenizer.unk_token_id]


def test_there_are_eighty_classes():
    assert len(coco_classes()) == 80
    assert {"person", "hair drier", "hot dog"} <= set(coco_classes())


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("A brown dog runs on the grass .", ["brown dog", "grass"]),
        ("The man sits on a wooden bench.", ["man", "wooden bench"]),
        ("A view of it.", []),
    ],
)
def test_phrases_are_nouns_with_their_adjectives(caption: str, expected: list[str]):
    assert [phrase.expression for phrase in phrases(caption)] == expected


def test_a_phrase_goes_on_with_what_the_caption_says_of_it():
    (dog, _) = phrases("A brown dog runs on the grass .")
    assert dog.text == "brown dog runs on the grass"


def test_absent_classes_are_absent_and_of_three_kinds():
    habits = habits_of([DOG, CAR, CAR])
    rng = np.random.default_rng(0)
    drawn = [absent_classes(DOG, habits, rng, each=1) for _ in range(50)]
    assert all(len(set(names)) == 3 and not set(names) & set(DOG.objects) for names in drawn)
    # By popularity and by company only the classes ever seen are likely.
    assert all(names[1] in ("car", "bench") or names[0] in ("car", "bench") for names in drawn)
    assert len({names[0] for names in drawn}) > 20


def test_questions_about_presence_are_true_and_balanced():
    habits = habits_of([DOG, CAR])
    for seed in range(20):
        pairs = dialogue(CAR, habits, np.random.default_rng(seed))
        asked = [(q, a) for q, a in pairs if q.startswith("is there")]
        for question, answer in asked:
            name = question.removeprefix("is there ").split(" ", 1)[1].removesuffix(" in the image ?")
            assert answer == ("yes" if name in CAR.objects else "no")
        assert [a for _, a in asked].count("yes") == [a for _, a in asked].count("no")


def test_every_answer_about_a_phrase_comes_from_a_caption():
    for question, answer in dialogue(DOG, habits_of([DOG]), np.random.default_rng(3)):
        if question.startswith("describe the ") and "image" not in question:
            expression = question.removeprefix("describe the ").removesuffix(" .")
            assert answer.startswith(expression)
            assert any(answer.removesuffix(" .") in " ".join(split(caption)) for caption in CAPTIONS)


def test_imagenet_classes_go_to_words_of_captions():
    known = {"dog", "bus", "cat", "tie", "bird"}
    named = dict(zip(imagenet_names(), words_of_classes(known), strict=True))
    assert named["Chihuahua"] == ("dog",)
    assert named["school bus"] == ("bus",)
    assert named["Egyptian cat"] == ("cat",)
    assert named["Windsor tie"] == ("tie",)
    assert named["kite"] == ("bird",)  # ImageNet's kite is the bird
    assert named["hotdog"] == ()
    assert {word for words in named.values() for word in words} <= known


def test_stop_words_numbers_and_words_for_pictures_are_no_things():
    assert [word for word in ("dog", "the", "left", "photo", "two", ".", "3") if is_thing(word)] == ["dog"]
