from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from grounding.models.llava import Llava
from grounding.models.load import load
from grounding.models.registry import family_class
from grounding.models.shared_prefix import shared_prompt, why_not_shared
from grounding.models.tiny import TINY
from grounding.scenes.drawing import draw_scene
from grounding.steering.decoding import Decoding
from grounding.steering.generate import generate

QUESTIONS = ("What is there ?", "List everything that can be seen in this picture", "red ?")


def pictures() -> list[Image.Image]:
    generator = np.random.default_rng(0)
    sizes = ((64, 64), (64, 64))
    return [Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def tiny(name: str):
    return family_class(name, name)(*TINY[name]())


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
def test_answers_from_a_shared_beginning_are_those_from_whole_prompts(name):
    vlm = tiny(name)
    one, other = pictures()
    images, questions = [one, one, one, other, other], [*QUESTIONS, *QUESTIONS[:2]]
    assert why_not_shared(vlm, one, QUESTIONS) is None
    whole = generate(vlm, images, questions, decoding=Decoding(max_new_tokens=12))
    shared = generate(vlm, images, questions, decoding=Decoding(max_new_tokens=12), share_prefix=True)
    assert [text.token_ids for text in shared] == [text.token_ids for text in whole]


def test_the_picture_is_run_once_for_all_of_its_questions():
    vlm = load("starter", "cpu")
    image = draw_scene(7_400_000).image
    questions = vlm.own_words.listing
    passes = []
    tower = vlm.model.model.vision_tower
    handle = tower.register_forward_hook(lambda module, args, output: passes.append(output[0].shape[0]))
    try:
        answers = generate(vlm, [image] * 3, questions, share_prefix=True)
    finally:
        handle.remove()
    assert passes == [1]
    assert [one.text for one in answers] == [generate(vlm, [image], [question])[0].text for question in questions]


def test_only_several_prompts_of_one_picture_have_something_to_share():
    vlm = tiny("llava")
    one, other = pictures()
    for images in ([one, other], [one]):
        prepared = vlm.prepare_questions(images, QUESTIONS[: len(images)])
        assert shared_prompt(vlm, images, QUESTIONS[: len(images)], prepared) is None
    prepared = vlm.prepare_questions([one, one], QUESTIONS[:2])
    with torch.inference_mode():
        found = shared_prompt(vlm, [one, one], QUESTIONS[:2], prepared)
    assert found.shared >= len(prepared.layouts[0].image)


class LooksBack(torch.nn.Module):
    """A layer around a model's first one whose output depends on the whole pass, as bidirectional image tokens do."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, hidden_states, *args, **kwargs):
        if hidden_states.shape[1] > 1:
            hidden_states = hidden_states + hidden_states.mean(dim=1, keepdim=True)
        return self.layer(hidden_states, *args, **kwargs)


def test_a_model_whose_picture_sees_the_question_is_found_out():
    vlm = Llava(*TINY["llava"]())
    layers = vlm.decoder.layers
    layers[0] = LooksBack(layers[0])
    assert "depends on more than the cache" in why_not_shared(vlm, pictures()[0], QUESTIONS)


@pytest.mark.parametrize("model_type", ["blip-2", "instructblip", "mllama"])
def test_a_model_that_reads_pictures_by_cross_attention_shares_no_cache(model_type: str):
    vlm = family_class(model_type)(*TINY[model_type]())
    assert "reads pictures by cross-attention" in why_not_shared(vlm, pictures()[0], QUESTIONS)
