"""BLIP-2 and InstructBLIP: what is special about a model whose image tokens are queries of a Q-Former."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from grounding.errors import ImageError, MethodError, ModelError
from grounding.models.base import VLM
from grounding.models.registry import family_class
from grounding.models.teacher_forcing import continued
from grounding.models.tiny.blip import QUERIES, tiny_blip2, tiny_instructblip
from grounding.record_spec import RecordSpec
from grounding.steering.base import GenerationContext
from grounding.steering.decoding import Decoding
from grounding.steering.measure import head_values
from grounding.steering.samples import CalibrationSample
from grounding.steering.tokens import TokenChoice

BUILDERS = {"blip-2": tiny_blip2, "instructblip": tiny_instructblip}


@cache
def built(model_type: str) -> VLM:
    return family_class(model_type)(*BUILDERS[model_type]())


@pytest.fixture(params=list(BUILDERS))
def vlm(request: pytest.FixtureRequest) -> VLM:
    return built(request.param)


def picture(seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (60, 90, 3), dtype=np.uint8))


def test_query_tokens_precede_the_prompt_and_stand_for_no_part_of_the_picture(vlm: VLM) -> None:
    prepared = vlm.prepare([picture(), picture(1)], ["the red dog", "dog"])
    (long, short) = prepared.layouts
    assert short.padding > long.padding == 0
    for layout in prepared.layouts:
        np.testing.assert_array_equal(layout.image, layout.padding + np.arange(QUERIES))
        assert not len(layout.cells)
        (grid,) = layout.grids
        assert (grid.shape, grid.box_xyxy) == ((4, 4), (0, 0, 90, 60))
        np.testing.assert_array_equal(layout.keys, np.arange(17))  # the class token and 4x4 patches
    first = prepared.inputs["input_ids"][0, QUERIES]
    assert first == vlm.tokenizer.bos_token_id


def test_an_element_of_a_batch_answers_as_it_does_alone(vlm: VLM) -> None:
    """The processor pads between image tokens and text, and moves the Q-Former's tokens to other positions."""
    pictures, questions = [picture(), picture(1)], ["where is the red dog on the left?", "where is it"]
    with torch.inference_mode():
        together = vlm.model(**vlm.prepare_questions(pictures, questions).inputs).logits[:, -1]
        for index in range(2):
            alone = vlm.model(**vlm.prepare_questions(pictures[index : index + 1], questions[index : index + 1]).inputs)
            torch.testing.assert_close(together[index], alone.logits[0, -1], atol=1e-4, rtol=1e-4)


def test_layers_of_the_q_former_can_be_chosen() -> None:
    vlm = family_class("instructblip")(*tiny_instructblip())
    (whole,) = vlm.maps([picture()], ["dog"], RecordSpec())
    parts = []
    for layer in (0, 1):
        vlm.query_layers = (layer,)
        parts.append(vlm.maps([picture()], ["dog"], RecordSpec())[0].values)
    np.testing.assert_allclose(whole.values, (parts[0] + parts[1]) / 2, atol=1e-6)
    assert np.abs(parts[0] - parts[1]).max() > 1e-3
    vlm.query_layers = (2,)
    with pytest.raises(ModelError, match=r"query_layers of instructblip are \[2\], expected some of 0 to 1"):
        vlm.maps([picture()], ["dog"], RecordSpec())


def test_a_config_can_choose_the_layers_of_its_q_former() -> None:
    model, processor = tiny_instructblip()
    model.config.grounding_query_layers = [1]
    assert len(family_class("instructblip")(model, processor).query_reader.layers) == 1


@pytest.mark.parametrize("model_type", BUILDERS)
def test_an_encoder_decoder_language_model_is_refused(model_type: str) -> None:
    with pytest.raises(ModelError, match=r"type 't5', whose encoder mixes query tokens and words .* a decoder alone"):
        family_class(model_type)(*BUILDERS[model_type](text="t5"))


def test_a_processor_of_another_number_of_query_tokens_is_refused(vlm: VLM) -> None:
    model, processor = BUILDERS[vlm.model_types[0]]()
    for number in (None, QUERIES + 1):
        processor.num_query_tokens = number
        with pytest.raises(
            ModelError, match=f"writes {number} query tokens for a picture, and the model makes {QUERIES}"
        ):
            family_class(vlm.model_types[0])(model, processor)


def test_the_q_formers_prompt_stays_as_it_is_behind_a_text_of_the_same_length() -> None:
    vlm = built("instructblip")
    inputs = dict(vlm.prepare_questions([picture()], ["where is it"]).inputs)
    shape = inputs["input_ids"].shape
    inputs["qformer_input_ids"] = torch.ones(shape, dtype=torch.long)
    longer = continued(vlm, inputs, [[5, 6]])
    assert longer["input_ids"].shape == (1, shape[1] + 2)
    assert longer["qformer_input_ids"].shape == shape


def test_the_decoder_itself_has_no_layers_of_cross_attention(vlm: VLM) -> None:
    with pytest.raises(MethodError, match="has no layers of cross-attention: record its rows over the sequence"):
        vlm.maps([picture()], ["dog"], RecordSpec(attention="cross"))


def test_what_needs_image_tokens_that_are_cells_is_refused(vlm: VLM) -> None:
    prepared = vlm.prepare_questions([picture()], ["where is it"])
    context = GenerationContext(vlm, [picture()], ["where is it"], prepared, Decoding())
    assert len(TokenChoice().select(context)[0]) == QUERIES
    with pytest.raises(MethodError, match="tokens: local chooses image tokens by where they lie in the picture"):
        TokenChoice("local").select(context)
    sample = CalibrationSample(picture(), "where is it", "a dog", mask=np.ones((60, 90), bool))
    with pytest.raises(MethodError, match="its image tokens are no cells that a mask could cover"):
        head_values(vlm, sample, "agreement")
    assert head_values(vlm, sample, "mass").shape == (2, 4)
    with pytest.raises(ImageError, match="takes one picture for each expression, got 2"):
        vlm.prepare([[picture(), picture(1)]], ["dog"])
