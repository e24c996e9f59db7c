"""What is special to some families: variants of their layouts, words, layers, and processors that do not fit."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from grounding.errors import ImageError, MethodError, ModelError
from grounding.layers import LayerRange
from grounding.maps.compose import Compose
from grounding.maps.layers import LayerChoice
from grounding.models.base import VLM
from grounding.models.gemma3 import Gemma3, crop_boxes
from grounding.models.llava import Llava
from grounding.models.llava_next import LlavaNext, LlavaOnevision, tiled_view
from grounding.models.maps import record_maps
from grounding.models.qwen_vl import Qwen35
from grounding.models.registry import family_class
from grounding.models.tiny import TINY, tiny_llava, tiny_qwen2_5_vl
from grounding.models.tiny.gemma import tiny_gemma3
from grounding.models.tiny.llava_next import tiny_llava_onevision
from grounding.record_spec import RecordSpec
from grounding.steering.decoding import Decoding
from grounding.steering.generate import check_steering
from grounding.steering.method import Steering
from grounding.steering.modulation import Renormalise


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def built(model_type: str) -> VLM:
    return family_class(model_type)(*TINY[model_type]())


def prompt_of(vlm: VLM, **options: Any) -> str:
    (ids,) = vlm.prepare([picture(90, 60)], ["the dog"], **options).inputs["input_ids"]
    return str(vlm.tokenizer.decode(ids))


@pytest.mark.parametrize(
    ("model_type", "end"),
    [
        ("qwen3_5", "<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        ("glm46v", "/nothink<|assistant|>\n<think></think>\n"),
        ("gemma4", "<|turn>model\n<|channel>thought\n<channel|>"),
    ],
)
def test_a_thinking_template_is_asked_to_answer_at_once(model_type: str, end: str) -> None:
    assert prompt_of(built(model_type)).endswith(end)


def test_paligemma_is_asked_by_a_task() -> None:
    vlm = built("paligemma")
    prompt = prompt_of(vlm)
    assert prompt.replace("<image>", "") == "<bos>segment the dog\n"
    assert prompt.startswith("<image>" * 16)
    assert vlm.default_question == "caption en"


def test_newlines_around_a_picture_that_merge_with_the_prompts_are_text() -> None:
    vlm = built("gemma3")
    (layout,) = vlm.prepare([picture(90, 60)], ["dog"]).layouts
    (ids,) = vlm.prepare([picture(90, 60)], ["dog"]).inputs["input_ids"]
    assert vlm.tokenizer.decode(ids[layout.system[-1]]) == "\n\n\n"  # the template's and the processor's two
    assert (
        vlm.tokenizer.decode(ids[layout.image]) == "<start_of_image>" + "<image_soft_token>" * 4 + "<end_of_image>\n\n"
    )


def test_onevision_reads_fewer_cells_where_a_picture_has_too_many_tiles() -> None:
    vlm = LlavaOnevision(*tiny_llava_onevision(most_tiles=2))
    (layout,) = vlm.prepare([picture(130, 126)], ["dog"]).layouts
    assert [grid.shape for grid in layout.grids] == [(3, 3), (4, 4)]  # 6x6 patches, 36 / (2 * 9) = 1.41²
    maps = record_maps(vlm, vlm.prepare([picture(130, 126)], ["dog"]), RecordSpec(reduce="both"))[0]
    assert Compose()(maps).values.shape == (4, 4)


@pytest.mark.parametrize(
    ("size", "cells", "box"),
    [
        # 100x50 px fitted into 84x84: 84x42, pasted at y = 21; of 6 rows of 14 px the middle 4 are kept
        ((50, 100), (4, 6), (0, (14 - 21) / 0.84, 100, (70 - 21) / 0.84)),
        ((84, 84), (6, 6), (0, 0, 84, 84)),
        ((100, 50), (6, 4), ((14 - 21) / 0.84, 0, (70 - 21) / 0.84, 100)),
    ],
)
def test_rows_and_columns_of_padding_are_cut_away(
    size: tuple[int, int], cells: tuple[int, int], box: tuple[float, ...]
) -> None:
    found = tiled_view(size, (84, 84), 3, 42)
    assert found[0] == cells
    assert found[1] == pytest.approx(box)


def test_pan_and_scan_crops_the_longer_side() -> None:
    assert crop_boxes((100, 30), 3) == [(0, 0, 34, 30), (34, 0, 68, 30), (68, 0, 100, 30)]
    assert crop_boxes((30, 100), 2) == [(0, 0, 30, 50), (0, 50, 30, 100)]
    assert crop_boxes((30, 30), 0) == []


def test_views_of_one_picture_are_composed_to_one_map() -> None:
    """Where a tile and the thumbnail lie over each other each counts half."""
    vlm = built("internvl")
    maps = record_maps(vlm, vlm.prepare([picture(120, 56)], ["dog"]), RecordSpec(reduce="both"))[0]
    values = np.zeros_like(maps.values)
    tile, _, thumbnail = maps.grids
    values[..., np.searchsorted(maps.keys, tile.positions[0])] = 1  # top left of the left tile
    values[..., np.searchsorted(maps.keys, thumbnail.positions[1])] = 1  # top right of the whole
    heat = Compose()(type(maps)(values, maps.layers, maps.words, maps.keys, maps.grids, maps.image_size)).values
    assert heat.shape == (2, 4)
    assert heat[0, 0] == heat.max() == 1
    assert heat[0, 3] == pytest.approx(1)
    assert heat[1, 0] == 0


def test_a_key_outside_a_local_layers_window_has_weight_0() -> None:
    model, processor = tiny_gemma3()
    model.config.text_config.sliding_window = 24
    for layer in model.get_decoder().layers:
        layer.self_attn.sliding_window = 24 if layer.self_attn.is_sliding else None
    vlm = Gemma3(model, processor)
    prepared = vlm.prepare([picture(90, 60)], ["the red elephant left of the small green dog"])
    maps = record_maps(vlm, prepared, RecordSpec())[0]
    last = prepared.length - 1
    outside = maps.keys <= last - 24
    assert outside.any()
    assert not maps.values[0, 0, :, -1, outside].any()  # `<last>` in the local layer
    assert maps.values[0, 1, :, -1, outside].all()


def test_layers_of_linear_attention_are_left_out_by_name() -> None:
    vlm = built("qwen3_5")
    assert (vlm.row_layers, vlm.skipped_layers) == ((1,), (0,))
    assert vlm.notice is not None
    assert "no attention weights in layers 0 of its 2" in vlm.notice
    prepared = vlm.prepare([picture(90, 60)], ["dog"])
    maps = record_maps(vlm, prepared, RecordSpec(layers=(0, 1)))[0]
    assert (maps.layers, maps.skipped_layers, maps.layer_count) == ((1,), (0,), 2)
    kept, report = LayerChoice()(maps)
    assert kept.layers == (1,)
    assert report.detail == "kept layers 1; 0 have no attention weights"
    with pytest.raises(MethodError, match=r"layers \[0\] of .* have no attention weights: choose of \[1\]"):
        record_maps(vlm, prepared, RecordSpec(layers=(0,)))
    with pytest.raises(MethodError, match=r"wants layers \[0\], which have no attention weights"):
        LayerChoice(indices=(0,))(maps)
    steering = Steering("test", "", "", (Renormalise(gain=2.0, layers=LayerRange(indices=(0,))),))
    with pytest.raises(MethodError, match=r"layers \[0\] of .* have no attention weights"):
        check_steering(steering, vlm, Decoding())
    assert built("qwen3_vl").notice is None


def test_a_checkpoints_own_notice_stands_before_the_layers() -> None:
    model, processor = TINY["qwen3_5"]()
    model.config.grounding_notice = "It knows noise only."
    notice = Qwen35(model, processor, "mine").notice
    assert notice is not None
    assert notice.startswith("It knows noise only. mine has no attention weights in layers 0 of its 2")


class OnePicture(Llava):
    takes_several = False


def test_several_pictures_for_a_model_that_takes_one_are_refused() -> None:
    vlm = OnePicture(*tiny_llava(), "single")
    for prepare in (vlm.prepare, vlm.prepare_questions):
        with pytest.raises(ImageError, match=r"single takes one picture for each \w+, got 2: give one picture"):
            prepare([[picture(50, 50), picture(50, 50)]], ["the dog"])
    with pytest.raises(ImageError, match=r"takes one picture or more for each expression, got 0"):
        Llava(*tiny_llava()).prepare([[]], ["dog"])


def test_a_processor_of_another_model_is_refused() -> None:
    llava, qwen = tiny_llava(), tiny_qwen2_5_vl()
    with pytest.raises(ModelError, match=r"\(Qwen2_5_VLProcessor\) writes token 5 .* expects 4: load the model with"):
        Llava(llava[0], qwen[1])
    with pytest.raises(ModelError, match=r"is a PreTrainedTokenizerFast|is a TokenizersBackend"):
        Llava(llava[0], llava[1].tokenizer)
    next_model = TINY["llava_next"]()[0]
    with pytest.raises(ModelError, match=r"made no 'image_sizes' of picture 0.*it made .*pixel_values.*: load the mod"):
        LlavaNext(next_model, llava[1]).prepare([picture(90, 60)], ["dog"])


@pytest.mark.parametrize(
    ("model_type", "part", "setting", "value", "match"),
    [
        ("llava_next", "model.config", "image_grid_pinpoints", [[42, 84]], "image tokens for a view of 3x3 and tiles"),
        ("llava_onevision", "processor", "num_image_tokens", 4, "image tokens for a view of 3x3"),
        ("mistral3", "processor", "spatial_merge_size", 1, "image tokens for 3x4 cells of 28 px"),
        ("gemma4", "model.config.vision_config", "pooling_kernel_size", 2, "cells of 2x2 patches"),
        ("paligemma", "processor", "image_seq_length", 15, "15 image tokens for a picture of 1 views"),
    ],
)
def test_settings_that_do_not_fit_the_model_are_refused(
    model_type: str, part: str, setting: str, value: Any, match: str
) -> None:
    vlm = built(model_type)
    setattr(attrgetter(part)(vlm), setting, value)
    with pytest.raises(ModelError, match=match):
        vlm.prepare([picture(110, 75)], ["dog"])


def test_internvl_refuses_tiles_that_its_settings_do_not_explain() -> None:
    vlm = built("internvl")
    vlm.processor.images_kwargs = {"crop_to_patches": True, "max_patches": 2}  # where the image processor allows 4
    with pytest.raises(ModelError, match=r"400x100 px in 3 views, but .* say 1x4 tiles and a thumbnail"):
        vlm.prepare([picture(400, 100)], ["dog"])


def test_two_pictures_have_their_own_maps_of_a_text() -> None:
    from grounding.models.teacher_forcing import teacher_forced_maps, tokens_of

    vlm = built("qwen3_vl")
    images = [picture(90, 60), picture(64, 128, 1)]
    prepared = vlm.prepare_questions([images], ["What is in the pictures?"])
    tokens = [tokens_of(vlm, "A red dog.")]
    one, other = (teacher_forced_maps(vlm, prepared, tokens, RecordSpec(), picture=i)[0].maps[0] for i in (0, 1))
    assert (one.image_size, other.image_size) == ((90, 60), (64, 128))
    assert one.grids[0].shape != other.grids[0].shape
    assert not np.array_equal(one.values.sum(), other.values.sum())


def test_the_weights_of_a_builder_follow_its_seed() -> None:
    first, again, other = (TINY["idefics3"](seed=seed)[0] for seed in (0, 0, 1))
    weights = [dict(model.named_parameters())["lm_head.weight"] for model in (first, again, other)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
