from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image

from grounding.errors import ExpressionError, ImageError, ModelError
from grounding.models.base import VLM
from grounding.models.llava import Llava
from grounding.models.qwen_vl import QwenVL
from grounding.models.registry import FAMILIES, family_class
from grounding.models.tiny import TINY, tiny_llava, tiny_qwen2_5_vl
from grounding.types import WordKind


def picture(width: int = 120, height: int = 80, seed: int = 0) -> Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


@pytest.fixture(scope="module", params=sorted(TINY))
def vlm(request: pytest.FixtureRequest) -> VLM:
    return family_class(request.param)(*TINY[request.param]())


def spelled(vlm: VLM, ids: Any, positions: tuple[int, ...]) -> str:
    return vlm.tokenizer.decode(ids[list(positions)])


EXPRESSIONS = (
    "the red elephant left of the elephant",
    "Where is the USER?",  # words of the prompt and of the chat template
    "assistant ASSISTANT image",
    "café 🐶's t-shirt",
    "  dog  ",
)


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_each_words_tokens_spell_the_word(vlm: VLM, expression: str) -> None:
    prepared = vlm.prepare([picture()], [expression])
    ids = prepared.inputs["input_ids"][0]
    *words, last = prepared.words[0]
    for word in words:
        assert spelled(vlm, ids, word.positions).strip() == word.text == expression[slice(*word.span)]
    assert last.kind is WordKind.SPECIAL
    assert last.positions == (prepared.length - 1,)
    taken = [position for word in words for position in word.positions]
    assert taken == sorted(set(taken))


def test_words_are_found_in_the_expression_and_not_in_the_template(vlm: VLM) -> None:
    prepared = vlm.prepare([picture()], ["dog"], "The dog: where is {expression}? Not the dog")
    ids = prepared.inputs["input_ids"][0]
    (position,) = prepared.words[0][0].positions
    dogs = [i for i in range(prepared.length) if spelled(vlm, ids, (i,)) == " dog"]
    assert dogs.index(position) == 1


def test_left_padding_moves_every_position(vlm: VLM) -> None:
    pictures, expressions = [picture(), picture()], ["dog", "the red elephant left of the big green dog"]
    together = vlm.prepare(pictures, expressions)
    assert together.layouts[0].padding > 0 == together.layouts[1].padding
    for index in range(2):
        alone = vlm.prepare([pictures[index]], [expressions[index]])
        shift = together.layouts[index].padding
        for one, other in zip(alone.words[0], together.words[index], strict=True):
            assert tuple(p + shift for p in one.positions) == other.positions
        for part in ("image", "cells", "system", "instruction", "expression"):
            one, other = (getattr(layout, part) for layout in (alone.layouts[0], together.layouts[index]))
            np.testing.assert_array_equal(one + shift, other)
        assert (together.inputs["attention_mask"][index][:shift] == 0).all()


def test_cells_are_image_tokens_and_no_image_token_lies_outside_the_picture(vlm: VLM) -> None:
    prepared = vlm.prepare([picture(), picture(50, 90)], ["dog", "a cat"])
    for index in range(2):
        ids = prepared.inputs["input_ids"][index]
        found = np.flatnonzero(ids.numpy() == vlm.image_token_id)
        assert set(prepared.layouts[index].cells) <= set(found) <= set(prepared.layouts[index].image)


def test_the_layout_covers_the_prompt(vlm: VLM) -> None:
    prepared = vlm.prepare([picture(), picture(50, 90)], ["dog", "the red cat"])
    for index, layout in enumerate(prepared.layouts):
        parts = np.concatenate([layout.system, layout.image, layout.instruction])
        assert (
            sorted(parts) == list(range(layout.padding, layout.length)) == list(range(layout.padding, prepared.length))
        )
        ids = prepared.inputs["input_ids"][index]
        assert spelled(vlm, ids, tuple(layout.expression)).strip() == ("dog", "the red cat")[index]
        assert set(layout.expression) < set(layout.instruction)
        assert layout.image_sizes == ((120, 80), (50, 90))[index : index + 1]


def test_questions_and_generic_prompts_have_no_expression(vlm: VLM) -> None:
    asked = vlm.prepare_questions([picture()], ["Where is the dog?"])
    generic = vlm.prepare([picture()], ["dog"], "Describe the image.")
    for prepared in (asked, generic):
        assert prepared.layouts[0].expression.size == 0
        assert set(prepared.words[0][0].positions) <= set(prepared.layouts[0].instruction)


def test_a_generic_prompt_has_its_own_words(vlm: VLM) -> None:
    prepared = vlm.prepare([picture()], ["dog"], "Describe the image.")
    assert [word.text for word in prepared.words[0]] == ["Describe", "the", "image", "<last>"]


def test_the_prompt_may_end_with_the_expression(vlm: VLM) -> None:
    prepared = vlm.prepare([picture()], ["the dog"], "{expression}")
    assert [word.text for word in prepared.words[0]] == ["the", "dog", "<last>"]


def test_the_decoder_is_the_language_model(vlm: VLM) -> None:
    assert len(vlm.decoder.layers) == vlm.layer_count >= 2
    attention = vlm.decoder.layers[vlm.row_layers[-1]].self_attn
    width = attention.o_proj.in_features if hasattr(attention, "o_proj") else attention.out_proj.in_features
    of_head = attention.head_dim if hasattr(attention, "head_dim") else attention.v_head_dim
    assert width // of_head == vlm.head_count


@pytest.mark.parametrize(("expression", "message"), [("", "no words"), ("of the", "stop words alone")])
def test_expressions_that_name_nothing(vlm: VLM, expression: str, message: str) -> None:
    with pytest.raises(ExpressionError, match=message):
        vlm.prepare([picture()], [expression])


def test_control_tokens_in_an_expression_are_refused(vlm: VLM) -> None:
    with pytest.raises(ExpressionError, match="a control token"):
        vlm.prepare([picture()], [f"the {vlm.image_token} dog"])
    with pytest.raises(ExpressionError, match="a control token"):
        vlm.prepare([picture()], [f"the dog{vlm.tokenizer.eos_token}"])


def test_one_picture_per_expression(vlm: VLM) -> None:
    with pytest.raises(ValueError, match="1 pictures for 2 expressions"):
        vlm.prepare([picture()], ["dog", "cat"])


def test_words_outside_a_closed_vocabulary_are_named() -> None:
    vlm = Llava(*with_closed_vocabulary(), "scenes")
    prepared = vlm.prepare([picture()], ["the RED star"], "where is {expression} ?")
    assert [len(word.positions) for word in prepared.words[0]] == [1, 1, 1, 1]
    with pytest.raises(ExpressionError) as error:
        vlm.prepare([picture()], ["the red zebra"], "where is {expression} ?")
    assert "'zebra' is outside the vocabulary of scenes" in str(error.value)
    assert "red, star" in str(error.value)
    assert "hub model" in str(error.value)


def with_closed_vocabulary() -> tuple[Any, Any]:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import LlavaProcessor, PreTrainedTokenizerFast

    model, processor = tiny_llava()
    special = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
    words = [*special, *"where is the red star ? user assistant :".split()]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )
    return model, LlavaProcessor(
        processor.image_processor,
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=processor.chat_template,
    )


def test_the_config_carries_prompt_and_notice() -> None:
    model, processor = tiny_llava()
    assert Llava(model, processor).notice is None
    model.config.grounding_prompt = "where is {expression} ?"
    model.config.grounding_notice = "It knows drawn scenes only."
    vlm = Llava(model, processor)
    assert (vlm.default_prompt, vlm.notice) == ("where is {expression} ?", "It knows drawn scenes only.")


def test_a_tokenizer_without_offsets_is_refused() -> None:
    from transformers import PythonBackend

    class Slow(PythonBackend):
        vocab_size = 1

        def get_vocab(self) -> dict[str, int]:
            return {}

    model, processor = tiny_llava()
    processor.tokenizer = Slow()
    with pytest.raises(ModelError, match="gives no character offsets"):
        Llava(model, processor)


def test_llava_sees_the_crop_and_keeps_the_class_token_out_of_the_grid() -> None:
    model, processor = tiny_llava()
    grid = Llava(model, processor).prepare([picture(200, 100)], ["dog"]).layouts[0].grids[0]
    assert grid.shape == (4, 4)
    assert grid.box_xyxy == pytest.approx((50, 0, 150, 100))
    model.config.vision_feature_select_strategy = "full"
    processor.vision_feature_select_strategy = "full"
    prepared = Llava(model, processor).prepare([picture(200, 100)], ["dog"])
    (layout,) = prepared.layouts
    assert len(layout.image) == 17
    np.testing.assert_array_equal(layout.cells, layout.image[1:])


def test_llava_with_exact_size_sees_the_whole_picture() -> None:
    prepared = Llava(*tiny_llava(resize="exact")).prepare([picture(200, 100)], ["dog"])
    assert prepared.layouts[0].grids[0].box_xyxy == (0, 0, 200, 100)


def test_llava_refuses_tokens_that_are_no_grid() -> None:
    model, processor = tiny_llava()
    processor.num_additional_image_tokens = 3
    with pytest.raises(ModelError, match="has 18 image tokens for 4x4 patches of 14 px: expected 16"):
        Llava(model, processor).prepare([picture()], ["dog"])


@pytest.mark.parametrize(("size", "shape"), [((112, 56), (2, 4)), ((56, 140), (5, 2)), ((10, 10), (2, 2))])
def test_qwens_grid_follows_the_picture(size: tuple[int, int], shape: tuple[int, int]) -> None:
    grid = QwenVL(*tiny_qwen2_5_vl()).prepare([picture(*size)], ["dog"]).layouts[0].grids[0]
    assert grid.shape == shape
    assert grid.box_xyxy == (0, 0, *size)


def test_qwen_refuses_what_smart_resize_refuses() -> None:
    with pytest.raises(ImageError, match="1x300 px is too long"):
        QwenVL(*tiny_qwen2_5_vl()).prepare([picture(1, 300)], ["dog"])
    with pytest.raises(ImageError, match="300x1 px is too long"):
        QwenVL(*tiny_qwen2_5_vl()).prepare_questions([picture(300, 1)], ["What is it?"])


def test_qwen_refuses_tokens_that_are_no_grid() -> None:
    model, processor = tiny_qwen2_5_vl()
    model.config.vision_config.spatial_merge_size = 4
    with pytest.raises(ModelError, match="expected 1 frame and"):
        QwenVL(model, processor).prepare([picture()], ["dog"])


def test_unknown_model_types_name_the_known_ones() -> None:
    with pytest.raises(ModelError, match=r"some/model is of model type 'bert'.*llava, .*qwen2_5_vl"):
        family_class("bert", "some/model")


def test_every_family_has_its_tiny_model() -> None:
    assert set(TINY) == set(FAMILIES)
    for model_type in FAMILIES:
        assert model_type in family_class(model_type).model_types
