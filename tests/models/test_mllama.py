"""Mllama: tiles as one grid of keys, pictures that a prompt has more or fewer of, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from grounding.attention_flow import AttentionFlow
from grounding.errors import MethodError, ModelError, RecordingError
from grounding.layers import LayerRange
from grounding.localization.contrast import contrast_scores
from grounding.localization.samples import HeadSample
from grounding.models.base import VLM
from grounding.models.maps import record_maps
from grounding.models.registry import family_class
from grounding.models.teacher_forcing import continued
from grounding.models.tiny.mllama import TILE, tiny_mllama
from grounding.record_spec import RecordSpec
from grounding.steering.base import GenerationContext
from grounding.steering.decoding import Decoding
from grounding.steering.editor import applied
from grounding.steering.generate import check_steering, generate
from grounding.steering.measure import head_values, mask_effects
from grounding.steering.method import load_steering
from grounding.steering.modulation import Values
from grounding.steering.samples import CalibrationSample


@pytest.fixture(scope="module")
def vlm() -> VLM:
    return family_class("mllama")(*tiny_mllama())


@pytest.fixture(autouse=True)
def no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.mark.parametrize(
    ("size", "tiles", "shape", "box"),
    [
        ((56, 56), 1, (4, 4), (0, 0, 56, 56)),
        ((112, 112), 4, (8, 8), (0, 0, 112, 112)),
        ((112, 83), 4, (6, 8), (0, 0, 112, 84)),
        ((70, 50), 2, (4, 5), (0, 0, 70, 50 * 56 / 50)),
        ((300, 60), 4, (4, 16), (0, 0, 300, 56 * 60 / 44)),
    ],
)
def test_the_tiles_are_one_grid_without_the_cells_beyond_the_picture(
    vlm: VLM, size: tuple[int, int], tiles: int, shape: tuple[int, int], box: Any
) -> None:
    (layout,) = vlm.prepare([picture(*size)], ["dog"]).layouts
    (grid,) = layout.grids
    assert grid.shape == shape
    np.testing.assert_allclose(grid.box_xyxy, box)
    assert grid.box_xyxy[2] >= size[0]
    assert grid.box_xyxy[3] >= size[1]
    np.testing.assert_array_equal(layout.keys, np.arange(tiles * 17))
    assert not set(grid.positions) & set(range(0, tiles * 17, 17))  # class tokens
    assert len(layout.image) == 1


def test_prompts_of_a_batch_may_have_different_numbers_of_pictures(vlm: VLM) -> None:
    pictures = [picture(141, 83), picture(75, 121, 1)]
    prepared = vlm.prepare([pictures, pictures[1:]], ["red dog", "the dog on the left"])
    maps = record_maps(vlm, prepared, RecordSpec())
    assert len(maps) == 3
    assert [one.keys.min() for one in maps] == [0, 4 * 17, 0]
    both, alone = vlm.prepare([pictures], ["red dog"]), vlm.prepare(pictures[1:], ["the dog on the left"])
    expected = [*record_maps(vlm, both, RecordSpec()), *record_maps(vlm, alone, RecordSpec())]
    for one, other in zip(maps, expected, strict=True):
        np.testing.assert_allclose(one.values[:, 0], other.values[:, 0], atol=1e-5)
    for one, other in zip(maps[:2], expected[:2], strict=True):
        np.testing.assert_allclose(one.values, other.values, atol=1e-5)
    # In transformers, tokens before the first picture attend evenly to all keys, also of pictures that only other
    # prompts of the batch have; later layers read those tokens.
    assert 1e-4 < np.abs(maps[2].values[:, 1] - expected[2].values[:, 1]).max() < 0.02
    np.testing.assert_allclose((maps[0].values.sum(-1) + maps[1].values.sum(-1)), 1, atol=1e-5)


def test_maps_are_of_the_layers_of_cross_attention_alone(vlm: VLM) -> None:
    assert (vlm.row_layers, vlm.map_layers, vlm.skipped_layers) == ((0, 2), (1, 3), (0, 2))
    assert "reads pictures by cross-attention in layers 1, 3 of its 4: maps are of these alone" in str(vlm.notice)
    prepared = vlm.prepare([picture(112, 83)], ["dog"])
    (whole,) = record_maps(vlm, prepared, RecordSpec())
    assert (whole.layers, whole.skipped_layers) == ((1, 3), (0, 2))
    (last,) = record_maps(vlm, prepared, RecordSpec(layers=(2, 3)))
    assert last.layers == (3,)
    np.testing.assert_array_equal(last.values, whole.values[:, 1:])
    with pytest.raises(MethodError, match=r"layers \[0, 2\] of mllama have no weights of cross-attention: .* \[1, 3\]"):
        record_maps(vlm, prepared, RecordSpec(layers=(0, 2)))
    with pytest.raises(RecordingError, match="cells are no tokens of its language model and have no attention flow"):
        record_maps(vlm, prepared, RecordSpec(flow=AttentionFlow()))


def test_a_text_behind_the_prompt_sees_what_its_last_token_sees(vlm: VLM) -> None:
    inputs = vlm.prepare([picture(112, 83), picture(56, 56)], ["dog", "the red dog"]).inputs
    longer = continued(vlm, inputs, [[5, 6, 7], [8]])
    before, after = inputs["cross_attention_mask"], longer["cross_attention_mask"]
    length = before.shape[1]
    assert after.shape == (2, length + 3, *before.shape[2:])
    assert torch.equal(after[:, :length], before)
    for step in range(3):
        assert torch.equal(after[:, length + step], before[:, -1])


def test_settings_that_do_not_fit_the_model_are_refused(vlm: VLM) -> None:
    model, processor = tiny_mllama()
    processor.image_processor.max_image_tiles = 2
    with pytest.raises(
        ModelError, match=r"tiles of 56 px, but its image processor's settings say .* of at most 2 tiles"
    ):
        family_class("mllama")(model, processor).prepare([picture(2 * TILE, 2 * TILE)], ["dog"])


@pytest.mark.parametrize("name", ["uniform", "pai", "var", "paint"])
def test_edits_of_image_keys_are_refused(vlm: VLM, name: str) -> None:
    with pytest.raises(MethodError, match="mllama reads its picture in layers by cross-attention"):
        check_steering(load_steering(name), vlm, Decoding())


def test_a_steered_text_is_that_of_the_formula_at_every_step(vlm: VLM) -> None:
    pictures = [
        picture(112, 83),
        picture(75, 121, 1),
    ]  # of four tiles each: tokens before a picture read unused ones too
    questions = ["where is the red dog on the left?", "where is it"]
    prepared = vlm.prepare_questions(pictures, questions)
    context = GenerationContext(vlm, pictures, questions, prepared, Decoding())
    modulation = Values(gain=4.0, prefill="all", layers=LayerRange(indices=(1,)))
    options = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, "output_logits": True}
    with applied(modulation, context):
        found = vlm.model.generate(**prepared.inputs, **options, return_dict_in_generate=True)
    plain = vlm.model.generate(**prepared.inputs, **options, return_dict_in_generate=True)
    weight = vlm.decoder.layers[1].cross_attn.o_proj.weight
    weight.mul_(4)  # the projection has no bias, so that its output is four times that of all weights
    expected = vlm.model.generate(**prepared.inputs, **options, return_dict_in_generate=True)
    weight.div_(4)
    assert torch.equal(found.sequences, expected.sequences)
    for one, other, unsteered in zip(found.logits, expected.logits, plain.logits, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
        assert (one - unsteered).abs().max() > 1e-3


def test_heads_are_not_measured_by_what_needs_image_keys_in_the_sequence(vlm: VLM) -> None:
    seen, mask = picture(112, 83), np.ones((83, 112), bool)
    for kind in ("mass", "ablation", "gradient", "agreement"):
        with pytest.raises(MethodError, match="mllama reads its picture in layers by cross-attention"):
            head_values(vlm, CalibrationSample(seen, "where is it", "a dog", mask=mask), kind)
    with pytest.raises(MethodError, match="mllama reads its picture in layers by cross-attention"):
        mask_effects(vlm, CalibrationSample(seen, "where is it", "a dog", mask=mask))
    with pytest.raises(MethodError, match="whose heads' outputs are gated once more"):
        contrast_scores(vlm, HeadSample(seen, "dog", other="red dog"), "last")


def test_contrastive_decoding_needs_no_image_keys(vlm: VLM) -> None:
    (found,) = generate(vlm, [picture(112, 83)], ["where is it"], load_steering("vcd"), Decoding(3))
    assert len(found.token_ids) <= 3
