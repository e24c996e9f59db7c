from __future__ import annotations

from types import SimpleNamespace

import pytest

from evals.tasks.pope import PopeTask
from grounding.models.llava import Llava
from grounding.models.load import load, own_words
from grounding.models.own_words import OwnWords
from grounding.models.tiny import tiny_llava

FAMILY = OwnWords(describe="Say what you see.", brief=" In a word.")


def test_a_checkpoint_speaks_before_its_family():
    declared = SimpleNamespace(
        grounding_prompt="the {expression} ?", grounding_describe="describe .", grounding_brief=""
    )
    assert OwnWords.of(declared, FAMILY) == OwnWords("the {expression} ?", "describe .", "")
    assert OwnWords.of(SimpleNamespace(), FAMILY) == FAMILY
    assert OwnWords.of(SimpleNamespace(), OwnWords()) == OwnWords(None, None, None)


def test_a_family_declares_words_for_all_of_its_checkpoints():
    class Talkative(Llava):
        family_words = FAMILY

    assert Talkative(*tiny_llava()).default_question == "Say what you see."
    assert Llava(*tiny_llava()).default_question == "Please describe this image in detail."


@pytest.mark.parametrize("name", ["starter", "starter-photo"])
def test_a_packaged_models_words_are_known_without_its_weights(name):
    own = own_words(name)
    assert own == load(name, "cpu").own_words
    assert (own.describe, own.brief) == ("describe the image .", "")


def test_words_of_the_user_come_before_the_models():
    task = PopeTask(words=" Yes or no?", protocol="llava")
    assert task.in_words_of(FAMILY) is task
    assert PopeTask(protocol="llava").in_words_of(FAMILY).prompt == " In a word."
    assert PopeTask(protocol="llava").in_words_of(OwnWords()).prompt.startswith("\nAnswer the question")
    assert PopeTask(protocol="llava", words="").prompt == ""
