"""Pictures that are padded, pooled or cut on a canvas; settings that do not fit; types that are known not to work."""

from __future__ import annotations

import json
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from grounding.compat import last_logits_option
from grounding.errors import ModelError
from grounding.models.base import VLM
from grounding.models.deepseek_vl import padded_box
from grounding.models.llama4 import Llama4, canvas_boxes
from grounding.models.load import load
from grounding.models.maps import record_maps
from grounding.models.molmo2 import pooled
from grounding.models.registry import FAMILIES, UNSUPPORTED, family_class
from grounding.models.tiny import TINY
from grounding.models.tiny.llama4 import tiny_llama4
from grounding.record_spec import RecordSpec


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def built(model_type: str) -> VLM:
    return family_class(model_type)(*TINY[model_type]())


def test_an_odd_number_of_patches_is_pooled_to_cells_beyond_the_picture() -> None:
    assert pooled((60, 40), (4, 6), (2, 2)) == ((2, 3), (0, 0, 60, 40))
    assert pooled((50, 30), (3, 5), (2, 2)) == ((2, 3), (0, 0, 60, 40))  # one row and column of padding, at the end
    assert pooled((50, 40), (4, 5), (3, 4)) == ((2, 2), (-10, -10, 70, 50))  # 2 rows on both sides; 3 columns as 1 + 2


def test_a_square_reaches_over_the_shorter_sides() -> None:
    assert padded_box((100, 50), 64, 14) == (0, -25, 100, 75)
    assert padded_box((50, 100), 64, 14) == (-25, 0, 75, 100)
    left, top, right, bottom = padded_box((1000, 10), 64, 14)  # the short side is stretched to 14 px
    assert (left, right) == (0, 1000)
    assert (top, bottom) == pytest.approx((-25 * 10 / 14, (64 - 25) * 10 / 14))


def test_tiles_of_a_canvas_reach_beyond_a_picture_in_its_top_left_corner() -> None:
    boxes = canvas_boxes((100, 60), 1, 2, 56, False)  # 56 px high, 93 px wide
    np.testing.assert_allclose(boxes, [(0, 0, 5600 / 93, 60), (5600 / 93, 0, 11200 / 93, 60)])
    (box,) = canvas_boxes((28, 14), 1, 1, 56, False)  # enlarged to 56x28
    assert box == (0, 0, 28, 28)


def test_a_key_of_another_chunk_has_weight_0() -> None:
    vlm = Llama4(*tiny_llama4(chunk=24))
    prepared = vlm.prepare([picture(90, 60)], ["the red elephant left of the small green dog"])
    maps = record_maps(vlm, prepared, RecordSpec())[0]
    other = maps.keys < (prepared.length - 1) // 24 * 24
    assert other.any()
    assert not maps.values[0, 0, :, -1, other].any()  # `<last>` in the layer of chunks
    assert maps.values[0, 1, :, -1, other].all()


@pytest.mark.parametrize(
    ("model_type", "end"),
    [
        ("minicpmv4_6", "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        ("kimi_k25", "<|im_assistant|>assistant<|im_middle|><think></think>"),
    ],
)
def test_a_thinking_template_is_asked_to_answer_at_once(model_type: str, end: str) -> None:
    vlm = built(model_type)
    (ids,) = vlm.prepare([picture(90, 60)], ["the dog"]).inputs["input_ids"]
    assert vlm.tokenizer.decode(ids).endswith(end)


def test_convolutions_are_left_out_by_name() -> None:
    vlm = built("lfm2_vl")
    assert (vlm.row_layers, vlm.skipped_layers) == ((1,), (0,))
    assert "no attention weights in layers 0 of its 2 (linear attention or convolution)" in str(vlm.notice)


@pytest.mark.parametrize(
    ("model_type", "part", "setting", "value", "match"),
    [
        ("deepseek_vl", "processor", "num_image_tokens", 24, "24 image tokens for a picture of 1 views"),
        ("deepseek_vl", "processor.image_processor", "do_pad", False, "does not resize and pad"),
        ("lfm2_vl", "processor", "use_image_special_tokens", False, "image tokens for .* in 0x0 tiles"),
        ("minicpmv4_6", "processor", "slice_mode", False, "image tokens for a picture of 110x75 px, but its image"),
        ("ovis2", "processor", "image_seq_length", 3, "image tokens for a picture of 5 views"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(
    model_type: str, part: str, setting: str, value: Any, match: str
) -> None:
    vlm = built(model_type)
    setattr(attrgetter(part)(vlm), setting, value)
    with pytest.raises(ModelError, match=match):
        vlm.prepare([picture(110, 75)], ["dog"])


@pytest.mark.parametrize("model_type", UNSUPPORTED)
def test_a_type_that_is_known_not_to_work_is_refused_with_the_reason(model_type: str, tmp_path: Path) -> None:
    assert model_type not in FAMILIES
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    with pytest.raises(ModelError) as refusal:
        load(str(tmp_path))
    assert str(refusal.value) == (
        f"{tmp_path} is of model type {model_type!r}, which cannot be used here: {UNSUPPORTED[model_type]}; choose a "
        "model of another type, for example qwen3_vl or llava_onevision"
    )
    with pytest.raises(ModelError, match=r"^the model is of model type"):
        family_class(model_type)


def test_logits_of_the_last_position_are_asked_for_where_the_model_can_give_them() -> None:
    assert last_logits_option(built("minicpmv4_6").model) == {}
    assert torch.equal(last_logits_option(built("minicpmv4_7").model)["logits_to_keep"], torch.tensor([-1]))


def test_llama_4s_output_is_completed_once() -> None:
    model, processor = tiny_llama4()
    before = len(model.language_model._forward_hooks)
    Llama4(model, processor)
    Llama4(model, processor)
    assert len(model.language_model._forward_hooks) == before + 1
    ids = processor.tokenizer("dog", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert model(input_ids=ids).image_outputs is None
