"""Tokens behind a prompt are read as `generate` reads them, of models that read pictures in ways of their own too."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image

from grounding.errors import MethodError
from grounding.models.base import VLM
from grounding.models.registry import family_class
from grounding.models.tiny import tiny_llava
from grounding.models.tiny.blip import tiny_blip2, tiny_instructblip
from grounding.models.tiny.mllama import tiny_mllama
from grounding.models.tiny.phi import tiny_phi4_multimodal
from grounding.steering.baselines.follower import Follower
from grounding.steering.baselines.vcd import noised
from grounding.steering.decoding import Decoding
from grounding.steering.generate import generate
from grounding.steering.method import load_steering

BUILDERS = {
    "llava": tiny_llava,
    "blip-2": tiny_blip2,
    "instructblip": tiny_instructblip,
    "instructblip/opt": partial(tiny_instructblip, text="opt"),
    "mllama": tiny_mllama,
    "phi4_multimodal": tiny_phi4_multimodal,
}
QUESTIONS = ("where is the red dog on the left?", "where is it")
STEPS = 4


@pytest.fixture(scope="module", params=list(BUILDERS))
def vlm(request: pytest.FixtureRequest) -> VLM:
    return family_class(request.param.partition("/")[0])(*BUILDERS[request.param]())


PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))
    for seed, (width, height) in enumerate(((141, 83), (75, 121)))
]


def test_logits_behind_a_prompt_are_those_of_generate(vlm: VLM) -> None:
    prepared = vlm.prepare_questions(PICTURES, QUESTIONS)
    options = {"max_new_tokens": STEPS, "min_new_tokens": STEPS, "do_sample": False, "output_logits": True}
    with torch.no_grad():
        output = vlm.model.generate(**prepared.inputs, **options, return_dict_in_generate=True)
        follower = Follower(vlm.model, prepared.inputs)
        torch.testing.assert_close(follower.read(), output.logits[0], atol=1e-4, rtol=1e-4)
        for step in range(1, STEPS):
            tokens = output.sequences[:, prepared.length + step - 1 :][:, :1]
            if step == 2:  # rows change places, and back
                follower.select(torch.tensor([1, 0]))
                follower.select(torch.tensor([1, 0]))
            torch.testing.assert_close(follower.follow(tokens), output.logits[step], atol=1e-4, rtol=1e-4)


def test_noise_reaches_the_pixels_under_every_name(vlm: VLM) -> None:
    inputs = dict(vlm.prepare_questions(PICTURES, QUESTIONS).inputs)
    name = "image_pixel_values" if "image_pixel_values" in inputs else "pixel_values"
    plain = inputs[name]
    found = noised(inputs, vlm.model.config, 500, 0)
    assert found.shape == plain.shape
    assert (found - plain).abs().mean() > 0.1
    (text,) = generate(vlm, PICTURES[:1], QUESTIONS[:1], load_steering("vcd"), Decoding(STEPS))
    assert 0 < len(text.token_ids) <= STEPS


def test_over_trust_reads_the_picture_or_refuses_a_cache_that_cannot_forget(vlm: VLM) -> None:
    """Two pictures lead to different texts: the loop runs the model that has the pictures."""
    if vlm.model.config.model_type in ("mllama", "phi4_multimodal"):
        with pytest.raises(MethodError, match="this model's cache is a sliding window or holds keys of pictures"):
            generate(vlm, PICTURES[:1], QUESTIONS[:1], load_steering("opera"), Decoding(STEPS))
        return
    texts = [
        generate(vlm, [picture], QUESTIONS[:1], load_steering("opera"), Decoding(8))[0].token_ids
        for picture in (PICTURES[0], Image.new("RGB", (141, 83), "red"))
    ]
    assert texts[0] != texts[1]
