from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from grounding.diffusion.maps import request_for
from grounding.diffusion.reading import MapReading
from grounding.diffusion.sequence import Placement
from grounding.errors import BudgetError, RecordingError
from grounding.models.cell_rows import cell_rows
from grounding.models.llava import Llava
from grounding.models.qwen_vl import QwenVL
from grounding.models.tiny import tiny_llava, tiny_qwen2_5_vl
from grounding.record_spec import RecordSpec

SPEC = RecordSpec(features=True, logits=True)


def picture(seed: int, size=(64, 48)) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def llava() -> Llava:
    return Llava(*tiny_llava())


def test_features_are_the_towers_own_and_logits_the_heads(llava) -> None:
    images, words = [picture(0), picture(1)], ["the red star", "a dog"]
    prepared = llava.prepare(images, words)
    found = llava.maps(images, words, SPEC)
    config = llava.model.config
    with torch.inference_mode():
        tower = llava.model.model.vision_tower(prepared.inputs["pixel_values"], output_hidden_states=True)
        states = llava.model(**prepared.inputs, output_hidden_states=True)
    own = tower.hidden_states[config.vision_feature_layer]
    if config.vision_feature_select_strategy == "default":
        own = own[:, 1:]
    for element, maps in enumerate(found):
        np.testing.assert_allclose(maps.features, own[element].numpy(), rtol=1e-5, atol=1e-6)
        image = prepared.layouts[element].image
        for row, word in zip(maps.logits, maps.words, strict=True):
            tokens = prepared.inputs["input_ids"][element, list(word.positions)]
            expected = states.logits[element, image][:, tokens].mean(dim=1)
            np.testing.assert_allclose(row, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_recording_them_changes_no_attention_and_leaves_no_hook(llava) -> None:
    images, words = [picture(0)], ["the red star"]
    (plain,), (more,) = llava.maps(images, words, RecordSpec()), llava.maps(images, words, SPEC)
    np.testing.assert_array_equal(plain.values, more.values)
    assert plain.features is None
    assert plain.logits is None
    assert not llava.projector._forward_pre_hooks
    assert not llava.decoder._forward_hooks


def test_a_family_without_a_projector_gives_its_image_tokens() -> None:
    vlm = QwenVL(*tiny_qwen2_5_vl())
    images, words = [picture(0), picture(1)], ["the red star", "a dog"]
    prepared = vlm.prepare(images, words)
    found = vlm.maps(images, words, SPEC)
    with torch.inference_mode():
        hidden = vlm.model(**prepared.inputs, output_hidden_states=True).hidden_states[0]
    for element, maps in enumerate(found):
        expected = hidden[element, prepared.layouts[element].image]
        np.testing.assert_allclose(maps.features, expected.numpy(), rtol=1e-5, atol=1e-6)


def test_features_over_the_budget_are_refused(llava) -> None:
    prepared = llava.prepare([picture(0)], ["a dog"])
    spec = RecordSpec(features=True, budget_bytes=100)
    with (
        torch.inference_mode(),
        cell_rows(llava, prepared.inputs, prepared.layouts, spec),
        pytest.raises(BudgetError, match="features of"),
    ):
        llava.model(**prepared.inputs)


@pytest.mark.parametrize(
    ("spec", "said"), [(RecordSpec(features=True), "features"), (RecordSpec(logits=True), "logits")]
)
def test_a_diffusion_transformer_has_neither(spec, said) -> None:
    with pytest.raises(RecordingError, match=said):
        request_for(Placement(4, (0,), 1, 0), MapReading(), spec)
