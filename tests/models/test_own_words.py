from __future__ import annotations

from types import SimpleNamespace

import pytest
from PIL import Image

from evals.tasks.pope import PopeTask
from grounding.models.llava import Llava
from grounding.models.load import load, own_words
from grounding.models.own_words import OwnWords
from grounding.models.registry import family_class
from grounding.models.tiny import TINY, tiny_llava

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


ASKED = {
    "qwen2_5_vl": "Locate the red dog, output its bbox coordinates using JSON format.",
    "qwen3_vl": "Locate the red dog, output its bbox coordinates using JSON format.",
    "qwen2_vl": "Where is the red dog?",
    "qwen3_5": "Where is the red dog?",
    "glm4v": "Help me to locate the red dog in the image and give me its bounding boxes.",
    "internvl": "the region this sentence describes: <ref>the red dog</ref>",
    "minicpmv4_6": "the region this sentence describes: <ref>the red dog</ref>",
    "aya_vision": "Where is the red dog?",
    "molmo2": "Point to the red dog.",
    "paligemma": "segment the red dog",
    "llava": "Where is the red dog?",
}


@pytest.mark.parametrize("model_type", list(ASKED))
def test_a_family_is_asked_what_it_states_unless_a_caller_says_otherwise(model_type: str) -> None:
    vlm = family_class(model_type)(*TINY[model_type]())
    picture = Image.new("RGB", (64, 48))
    for prompt, asked in ((None, ASKED[model_type]), ("Show {expression}!", "Show the red dog!")):
        prepared = vlm.prepare([picture], ["the red dog"], prompt)
        ids = prepared.inputs["input_ids"][0]
        assert asked in vlm.tokenizer.decode(ids)
        spelt = [vlm.tokenizer.decode(ids[list(word.positions)]).strip() for word in prepared.words[0][:-1]]
        assert spelt == ["the", "red", "dog"]


def test_a_checkpoints_own_prompt_goes_before_its_familys() -> None:
    model, processor = TINY["molmo2"]()
    model.config.grounding_prompt = "Find {expression}"
    assert family_class("molmo2")(model, processor).default_prompt == "Find {expression}"
